"""`DataConfig`: where the items of a run come from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from blob_pyro.config.checks import check
from blob_pyro.config.types import check_types
from blob_pyro.errors import ConfigError

# What only items of one's own have, and what only a data set of one's own has.
_OWN = ("train_file", "test_file", "dataset", "prompt", "completion", "truncate_field", "choices_field", "group_field",
        "labels")  # fmt: skip
_OF_DATASET = ("dataset_config", "train_split", "test_split")


@dataclass(frozen=True)
class DataConfig:
    """Where the items come from: a named task, files of your own, or a data set of the hub (docs/data.md).

    Attributes:
        task: name of a built-in task (`blob-pyro tasks` lists them); leave it out to use items of your own.
        data_dir: folder with local copies of a built-in task's splits, TASK/SPLIT.jsonl, .csv, .tsv (also .gz) or
            .parquet, with the field names of the hub's copies; None asks the hub.
        compat: "authors" reads a built-in task as the paper's public code does, deviations from the paper included;
            `--compat authors` for short.
        train_file: file of your own to train on: .jsonl, .csv, .tsv (also .gz) or .parquet.
        test_file: such a file to evaluate on; without one there are no metrics.
        dataset: data set of the hub, or its local folder, as `datasets.load_dataset` takes it; instead of files.
        dataset_config: its configuration, where it has several.
        train_split: its split to train on; None takes "train".
        test_split: its split to evaluate on; without one there are no metrics.
        prompt: template with field names in braces, e.g. "Tweet: {text}\\nSentiment:".
        completion: template of what follows the prompt, for the likelihood causal_lm: " {answer}", the space in front
            included. Items then need no label. Of a built-in task it is the answer word.
        over: which tokens causal_lm predicts: those of the "answer" (completion and end of text; None takes it), or
            the whole "text" but its first token. The text may then be the prompt alone, without a completion.
        truncate_field: the field that may lose tokens from its left when a prompt is too long.
        label_field: field that holds the label.
        choices_field: field with a list of an item's choices, which the prompt shows as lines "A) text"; the label is
            then a letter, a position from 0, or one of the choices' own labels. Or several fields, a choice in each:
            the prompt then shows {choices}.
        group_field: field whose items of one value are never both trained on and held out.
        labels: the answer words, in the order of the classes, best of a single token of the model each, which
            for most models begins with a space: [" negative", " positive"]. In the files that space is optional.
            Where one has several tokens, whole answers are compared, which costs more.
            None takes the distinct values of the training file's label field, sorted, or the letters of the choices.
        num_train: how many items to train on, drawn by the seed; None takes all.
        num_test: how many items to test on; None takes all of a file or of an official test split (1000 of tweets).
            Of a built-in task they are the same for every seed.
        num_validation: items that are neither trained nor tested on, drawn by the seed from what training leaves
            (of a file of your own: taken out of the training file). For the temperature, and for guides that are
            fitted with held-out items.
        max_length: longest prompt in tokens, its completion included; the model's own context is a limit as well.
    """

    task: str | None = None
    data_dir: str | None = None
    compat: Literal["authors"] | None = None
    train_file: str | None = None
    test_file: str | None = None
    dataset: str | None = None
    dataset_config: str | None = None
    train_split: str | None = None
    test_split: str | None = None
    prompt: str | None = None
    completion: str | None = None
    over: Literal["answer", "text"] | None = None
    truncate_field: str | None = None
    label_field: str = "label"
    choices_field: list[str] | str | None = None
    group_field: str | None = None
    labels: list[str] | None = None
    num_train: int | None = None
    num_test: int | None = None
    num_validation: int = 0
    max_length: int = 300

    @property
    def own_texts(self) -> bool:
        """Whether the items are of one's own and are learnt token by token: they need no label."""
        return self.completion is not None or (self.task is None and self.over == "text")

    def __post_init__(self) -> None:
        check_types(self, "data.")
        self._check_source()
        check(self.compat in (None, "authors"), "data.compat", "'authors', or null", self.compat)
        check(bool(self.label_field), "data.label_field", "the name of a field", self.label_field)
        check(self.choices_field not in ("", []), "data.choices_field", "a field, or several", self.choices_field)
        if self.labels is not None:
            check(len(self.labels) >= 2, "data.labels", "at least two labels", self.labels)
            check(len(set(self.labels)) == len(self.labels), "data.labels", "distinct labels", self.labels)
        if self.own_texts:
            self._check_texts()
        for name in ("num_train", "num_test"):
            value = getattr(self, name)
            check(value is None or value >= 1, f"data.{name}", "a count of at least 1, or null", value)
        check(self.num_validation >= 0, "data.num_validation", "a count of at least 0", self.num_validation)
        check(self.max_length >= 2, "data.max_length", "at least 2 tokens", self.max_length)

    def _check_source(self) -> None:
        """Refuse settings of a task beside those of own items, and of files beside those of a data set."""
        if self.task is not None:
            if given := self._given((*_OWN, *_OF_DATASET)):
                raise ConfigError(f"data: expected either data.task or files of your own; got task and {given}")
            return
        for name in ("data_dir", "compat"):
            check(getattr(self, name) is None, f"data.{name}", "none without data.task", getattr(self, name))
        if self.dataset is not None and (given := self._given(("train_file", "test_file"))):
            raise ConfigError(f"data: expected either data.dataset or files of your own; got dataset and {given}")
        if self.dataset is None and (given := self._given(_OF_DATASET)):
            raise ConfigError(f"data: expected data.dataset beside {given}; got none: name the data set")
        needed = ("train_file", "prompt") if self.dataset is None else ("prompt",)
        missing = ", ".join(f"data.{name}" for name in needed if getattr(self, name) is None)
        if missing:
            raise ConfigError(f"data: expected data.task, or files of your own; got neither: {missing} missing")

    def _check_texts(self) -> None:
        """Refuse beside a completion, or whole texts, what says which class an item is of."""
        beside = "data.completion" if self.completion is not None else "data.over text"
        for name in ("labels", "choices_field"):
            value = getattr(self, name)
            check(value is None, f"data.{name}", f"none beside {beside}, which needs no classes", value)
        if self.label_field != "label":
            raise ConfigError(
                f"data.label_field: expected none beside {beside}; got {self.label_field!r}: "
                f'name the field in the template, like " {{{self.label_field}}}"'
            )

    def _given(self, names: tuple[str, ...]) -> str:
        return ", ".join(f"data.{name}" for name in names if getattr(self, name) is not None)
