"""The data room: sources of raw items, prompts, tasks, and the way to padded batches."""

from blob_pyro.data.collate import (
    Encoded,
    EncodedDataset,
    collate,
    encode,
    label_token_ids,
    padding_id,
)
from blob_pyro.data.examples import Batch, Example
from blob_pyro.data.files import read_rows
from blob_pyro.data.labelled import examples_from_rows
from blob_pyro.data.loaders import LengthGroupedBatchSampler, ordered_loader, predict_loader, train_loader
from blob_pyro.data.partition import partition
from blob_pyro.data.prompts import PromptTemplate
from blob_pyro.data.sources import Row, TweetCorpus, clean_tweets, read_jsonl, read_tweets
from blob_pyro.data.task import Split, Task, TaskRows
from blob_pyro.data.task_data import TaskData
from blob_pyro.data.tasks import (
    TASKS,
    TaskItems,
    describe_tasks,
    examples_for,
    find_task,
    load_items,
    load_task,
)

__all__ = [
    "TASKS",
    "Batch",
    "Encoded",
    "EncodedDataset",
    "Example",
    "LengthGroupedBatchSampler",
    "PromptTemplate",
    "Row",
    "Split",
    "Task",
    "TaskData",
    "TaskItems",
    "TaskRows",
    "TweetCorpus",
    "clean_tweets",
    "collate",
    "describe_tasks",
    "encode",
    "examples_for",
    "examples_from_rows",
    "find_task",
    "label_token_ids",
    "load_items",
    "load_task",
    "ordered_loader",
    "padding_id",
    "partition",
    "predict_loader",
    "read_jsonl",
    "read_rows",
    "read_tweets",
    "train_loader",
]
