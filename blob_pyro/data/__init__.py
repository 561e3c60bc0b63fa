"""The data room: sources of raw items, prompts, tasks, and the way to padded batches."""

from blob_pyro.data.batches.collate import Encoded, EncodedDataset, collate, encode, padding_id
from blob_pyro.data.batches.completions import encode_completions, num_predicted
from blob_pyro.data.batches.label_tokens import answer_token_ids, label_token_ids
from blob_pyro.data.batches.loaders import LengthGroupedBatchSampler, ordered_loader, predict_loader, train_loader
from blob_pyro.data.batches.partition import partition
from blob_pyro.data.examples import Batch, Example
from blob_pyro.data.prompts import PromptTemplate
from blob_pyro.data.rows.files import read_rows
from blob_pyro.data.rows.hub import HubSource
from blob_pyro.data.rows.jsonl import read_jsonl
from blob_pyro.data.rows.row import Row
from blob_pyro.data.tasks.labelled import examples_from_rows
from blob_pyro.data.tasks.load import TASKS, TaskItems, describe_tasks, examples_for, find_task, load_items, load_task
from blob_pyro.data.tasks.task import Split, Task, TaskRows
from blob_pyro.data.tasks.task_data import TaskData
from blob_pyro.data.tasks.tweets import TweetCorpus, clean_tweets, read_tweets

__all__ = [
    "TASKS",
    "Batch",
    "Encoded",
    "EncodedDataset",
    "Example",
    "HubSource",
    "LengthGroupedBatchSampler",
    "PromptTemplate",
    "Row",
    "Split",
    "Task",
    "TaskData",
    "TaskItems",
    "TaskRows",
    "TweetCorpus",
    "answer_token_ids",
    "clean_tweets",
    "collate",
    "describe_tasks",
    "encode",
    "encode_completions",
    "examples_for",
    "examples_from_rows",
    "find_task",
    "label_token_ids",
    "load_items",
    "load_task",
    "num_predicted",
    "ordered_loader",
    "padding_id",
    "partition",
    "predict_loader",
    "read_jsonl",
    "read_rows",
    "read_tweets",
    "train_loader",
]
