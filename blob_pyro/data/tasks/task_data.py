"""`TaskData`: the items of a run, with notes on what is odd about them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from blob_pyro.data.examples import Example
from blob_pyro.data.prompts import PromptTemplate
from blob_pyro.data.rows.wording import name_words


@dataclass(frozen=True)
class TaskData:
    """Items ready to be tokenised.

    Attributes:
        train: training items, in an order that depends on the seed where the task is built in or num_train is given.
        test: test items; empty where there is no test file.
        validation: held-out items that are neither; empty unless the configuration asks for some.
        labels: answer words in class order; none where completions are learnt token by token.
        template: the prompt they were made with.
        notes: readable lines: what was left out, class counts, prompts and groups that occur in two parts, prompts that
            occur in training under two labels, and labels that training does not have.
        own_notes: those of them that do not follow from the items.
        group: what items of a group share, in words ("their 'user'"); "" where no groups are known.
    """

    train: list[Example]
    test: list[Example]
    validation: list[Example]
    labels: tuple[str, ...]
    template: PromptTemplate
    notes: tuple[str, ...]
    own_notes: tuple[str, ...] = ()
    group: str = ""


def task_data(
    train: list[Example],
    test: list[Example],
    validation: list[Example],
    labels: tuple[str, ...],
    template: PromptTemplate,
    notes: tuple[str, ...],
    group: str = "",
) -> TaskData:
    """The record, with notes on class counts, overlaps, contradictions and labels that are not trained on."""
    parts = {"train": train, "validation": validation, "test": test}
    counts = tuple(count_note(name, examples, labels) for name, examples in parts.items() if examples)
    shares = tuple(note for name, examples in parts.items() for note in _soft_note(name, examples))
    found = (
        *shares,
        *_overlaps(train, validation, test),
        *_shared_groups(train, validation, test, group),
        *_contradictions(train),
        *_unseen(parts, labels),
    )
    return TaskData(train, test, validation, labels, template, notes + counts + found, notes, group)


def count_note(name: str, examples: Sequence[Example], labels: Sequence[str]) -> str:
    """One line with the class counts, "train: 3 items (negative 1, positive 2)"; without classes those of the items."""
    if not labels:
        return f"{name}: {len(examples)} items"
    counts = Counter(example.label for example in examples)
    return (
        f"{name}: {len(examples)} items ({name_words([f'{w.strip()[:60]} {counts[k]}' for k, w in enumerate(labels)])})"
    )


def _soft_note(name: str, examples: Sequence[Example]) -> list[str]:
    """How many labels are shares, and of how many two classes share the largest."""
    soft = [example.shares for example in examples if example.shares is not None and max(example.shares) < 1]
    if not soft:
        return []
    ties = sum(shares.count(max(shares)) > 1 for shares in soft)
    tied = f", of {ties} the first of equals" if ties else ""
    scored = "; scored by it, and by the shares" if name == "test" else ""
    return [f"{name}: the annotators of {len(soft)} items disagree; counted by the largest share{tied}{scored}"]


def _overlaps(train: list[Example], validation: list[Example], test: list[Example]) -> list[str]:
    """Prompts of one part that another has as well."""
    pairs = (("validation", validation, "training", train), ("test", test, "training", train))
    notes = []
    for name, examples, other, seen in (*pairs, ("test", test, "validation", validation)):
        prompts = {example.prompt for example in seen}
        if shared := sum(example.prompt in prompts for example in examples):
            notes.append(f"{name}: {shared} of {len(examples)} prompts also occur in {other}")
    return notes


def _shared_groups(train: list[Example], validation: list[Example], test: list[Example], group: str) -> list[str]:
    """Test items whose group, a user say, is known from another part; training and validation never share one."""
    if not group:
        return []
    notes = []
    for other, seen in (("training", train), ("validation", validation)):
        groups = {example.group for example in seen} - {None}
        if shared := sum(example.group in groups for example in test):
            notes.append(f"test: {shared} of {len(test)} items share {group} with items of {other}")
    if missing := sum(example.group is None for example in test):
        notes.append(
            f"test: {missing} of {len(test)} items lack {group}, so that it cannot be compared with training's"
        )
    return notes


def _contradictions(train: list[Example]) -> list[str]:
    """Training items whose prompt another one has under another label, or with another completion."""
    answers: dict[str, set[int | str | None]] = {}
    for example in train:
        answers.setdefault(example.prompt, set()).add(_answer(example))
    count = sum(len(answers[example.prompt]) > 1 for example in train)
    kind = "completion" if any(example.completion for example in train) else "label"
    return [f"train: {count} items share their prompt with an item of another {kind}"] if count else []


def _answer(example: Example) -> int | str | None:
    return example.label if example.completion is None else example.completion


def _unseen(parts: dict[str, list[Example]], labels: Sequence[str]) -> list[str]:
    """Labels of held-out items that no training item has."""
    known: set[int | None] = {example.label for example in parts["train"]}
    known |= {k for example in parts["train"] for k, share in enumerate(example.shares or ()) if share}
    notes = []
    for name in ("validation", "test"):
        unseen = Counter(example.label for example in parts[name] if example.label not in known)
        if unseen:
            words = name_words([labels[index].strip() for index in sorted(i for i in unseen if i is not None)])
            notes.append(f"{name}: {unseen.total()} items have a label that no training item has ({words})")
    return notes
