"""`blob-pyro tasks`."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence

from jsonargparse import ArgumentParser

from blob_pyro.cli.command import Command, command_parser
from blob_pyro.data.tasks.load import describe_tasks
from blob_pyro.data.tasks.task import Task
from blob_pyro.system.printing import tell


def _tasks_parser() -> ArgumentParser:
    return command_parser(
        "tasks",
        "blob-pyro tasks",
        "List the built-in tasks: answer words, items, where they come from, the prompt.\n\nexample: blob-pyro tasks",
    )


def _tasks(parser: ArgumentParser, words: Sequence[str]) -> None:
    parser.parse_args(words)
    tell("\n\n".join(map(_task_text, describe_tasks())))


def _task_text(task: Task) -> str:
    """What `blob-pyro tasks` says of one task."""
    labels = ", ".join(label.strip() for label in task.labels)
    lines = [f"{task.name}: {task.description}", f"  labels: {labels}", f"  split: {task.splits}"]
    prompt = textwrap.indent(task.template.template, "    ")
    return "\n".join([*lines, f"  source: {task.source}", "  prompt:", prompt])


COMMAND = Command("list the built-in tasks", _tasks_parser, _tasks)
