"""examples/tasks.sh has a command for every task, and what each reads fits its model."""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path

import pytest

from blob_pyro.cli.command import config_of
from blob_pyro.cli.dispatch import COMMANDS
from blob_pyro.config.sections import RunConfig
from blob_pyro.data.batches.collate import encode
from blob_pyro.data.tasks.load import describe_tasks, load_task
from blob_pyro.model.likelihoods import MultipleChoice
from blob_pyro.model.loading import load_tokenizer
from blob_pyro.runs.build import answers_likelihood

ROOT = Path(__file__).parents[2]
SHARED = ROOT.parent / "shared" / "data"
LINES = [line for line in (ROOT / "examples" / "tasks.sh").read_text().splitlines() if line.startswith("blob-pyro fit")]


def config_of_line(line: str) -> RunConfig:
    words = shlex.split(line.replace("$local", f"--data.data_dir {SHARED}"))[2:]
    words[0] = str(ROOT / words[0])
    return config_of(COMMANDS["fit"].parser(), words)[0]


@pytest.mark.slow
def test_every_task_has_a_line_and_a_run_directory_of_its_own() -> None:
    configs = [config_of_line(line) for line in LINES]
    assert {str(config.data.task).split("/")[0] for config in configs} == {
        task.name.split("/")[0] for task in describe_tasks()
    }
    assert len({config.output for config in configs}) == len(configs)


@pytest.mark.slow
@pytest.mark.parametrize("line", LINES, ids=lambda line: line.split()[4])
def test_a_tasks_items_fit_its_model(line: str) -> None:
    """Real items, the real tokenizer: read, tokenised, cut to the model's context, each answer one token."""
    config = config_of_line(line)
    folder = str(config.data.task).removesuffix("_s").removesuffix("_m")
    if config.data.data_dir and not (SHARED / folder).is_dir():
        pytest.skip(f"no copy of {folder} beside the repository")
    data = load_task(config.data, config.seed)
    tokenizer = load_tokenizer(config.model.id)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*cut from the left")
        items = encode([*data.train, *data.test], tokenizer, config.data.max_length)
    assert len(data.train) in (8, 16) and len(data.test) == 16
    assert all(len(item.input_ids) <= config.data.max_length for item in items.items)
    if config.model.likelihood == "multiple_choice":
        assert isinstance(answers_likelihood(tokenizer, data.labels), MultipleChoice)
