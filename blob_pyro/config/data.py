"""`DataConfig`: where the items of a run come from."""

from __future__ import annotations

import codecs
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from blob_pyro.config.checks import check, check_revision
from blob_pyro.config.ranges import check_ranges
from blob_pyro.config.types import check_types
from blob_pyro.errors import ConfigError

# What only items of one's own have, and what only a data set of one's own has.
_OWN = ("train_file", "test_file", "dataset", "prompt", "completion", "truncate_field", "choices_field", "group_field",
        "id_field", "labels", "answers")  # fmt: skip
_OF_DATASET = ("dataset_config", "train_split", "test_split")
_OF_HUB = ("revision",)


@dataclass(frozen=True)
class DataConfig:
    """Where the items come from: a named task, files of your own, or a data set of the hub (docs/data.md).

    Attributes:
        task: name of a built-in task (`blob-pyro tasks` lists them); leave it out to use items of your own.
        data_dir: folder with local copies of a built-in task's splits, TASK/SPLIT.jsonl, .csv, .tsv (also .gz) or
            .parquet, with the field names of the hub's copies; None asks the hub.
        compat: "authors" reads a built-in task as the paper's public code does, deviations from the paper included;
            `--compat authors` for short.
        train_file: file of your own to train on: .jsonl, .json, .csv, .tsv (also .gz), .parquet, or a folder of
            `datasets.Dataset.save_to_disk`. Or several, as a list or by a pattern (`data/*.csv`).
        test_file: such a file, or several, to evaluate on; without one there are no metrics.
        encoding: of text files that are not UTF-8: "utf-16", "cp1252" and what else Python has; None takes UTF-8.
        max_megabytes: largest data file, packed and unpacked, in MB (10^6 bytes).
        dataset: data set of the hub, or its local folder, as `datasets.load_dataset` takes it; instead of files.
        dataset_config: its configuration, where it has several.
        revision: of a data set of the hub, that of a built-in task included: branch, tag or commit; None takes its main
            branch. The commit that a run was made with is kept, and read by all that goes on from it (docs/data.md).
        train_split: its split to train on; None takes "train".
        test_split: its split to evaluate on; without one there are no metrics.
        prompt: template with field names in braces, e.g. "Tweet: {text}\\nSentiment:"; {meta.title} is the title in the
            object meta.
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
        id_field: field that names the items, in messages, predictions and reports; None names them by their lines.
        skip_empty: leave out rows without any text in the prompt's (or the completion's) fields, or without a label,
            count them and say so; they are refused otherwise.
        labels: the answer words, in the order of the classes, best of a single token of the model each, which
            for most models begins with a space: [" negative", " positive"]. In the files that space is optional.
            Where one has several tokens, whole answers are compared, which costs more.
            None takes the distinct values of the training file's label field, sorted, or the letters of the choices.
        answers: answer word of each label, where that is another than the label: {"0": " zero", "1": " one"}. Without
            labels its order is that of the classes.
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
    train_file: list[str] | str | None = None
    test_file: list[str] | str | None = None
    encoding: str | None = None
    max_megabytes: int = 1000
    dataset: str | None = None
    dataset_config: str | None = None
    revision: str | None = None
    train_split: str | None = None
    test_split: str | None = None
    prompt: str | None = None
    completion: str | None = None
    over: Literal["answer", "text"] | None = None
    truncate_field: str | None = None
    label_field: str = "label"
    choices_field: list[str] | str | None = None
    group_field: str | None = None
    id_field: str | None = None
    skip_empty: bool = False
    labels: list[str] | None = None
    answers: dict[str, str] | None = None
    num_train: int | None = None
    num_test: int | None = None
    num_validation: int = 0
    max_length: int = 300

    @property
    def own_texts(self) -> bool:
        """Whether the items are of one's own and are learnt token by token: they need no label."""
        return self.completion is not None or (self.task is None and self.over == "text")

    def __post_init__(self) -> None:
        if isinstance(self.answers, dict):  # of YAML, which reads 0 and true as what they are
            object.__setattr__(self, "answers", {str(label): word for label, word in self.answers.items()})
        check_types(self, "data.")
        self._check_source()
        self._check_reading()
        check(self.compat in (None, "authors"), "data.compat", "'authors', or null", self.compat)
        check(bool(self.label_field), "data.label_field", "the name of a field", self.label_field)
        check(self.choices_field not in ("", []), "data.choices_field", "a field, or several", self.choices_field)
        if self.labels is not None:
            check(len(self.labels) >= 2, "data.labels", "at least two labels", self.labels)
            check(len(set(self.labels)) == len(self.labels), "data.labels", "distinct labels", self.labels)
        if self.answers is not None:
            self._check_answers(self.answers)
        words = [*(self.labels or ()), *(word for pair in (self.answers or {}).items() for word in pair)]
        as_utf8 = [word.encode(errors="replace").decode() for word in words]
        check(words == as_utf8, "data.labels, data.answers", "text in UTF-8", words)
        if self.own_texts:
            self._check_texts()
        for name in ("num_train", "num_test"):
            value = getattr(self, name)
            check(value is None or value >= 1, f"data.{name}", "a count of at least 1, or null", value)
        check(self.num_validation >= 0, "data.num_validation", "a count of at least 0", self.num_validation)
        check(self.max_length >= 2, "data.max_length", "at least 2 tokens", self.max_length)
        check_ranges("data.", vars(self))

    def _check_source(self) -> None:
        """Refuse settings of a task beside those of own items, and of files beside those of a data set."""
        check_revision("data.revision", self.revision)
        if self.task is not None:
            copies = "none beside data.data_dir, whose files have none"
            check(None in (self.revision, self.data_dir), "data.revision", copies, self.revision)
            if given := self._given((*_OWN, *_OF_DATASET)):
                raise ConfigError(f"data: expected either data.task or files of your own; got task and {given}")
            check(not self.skip_empty, "data.skip_empty", "false beside data.task, which has no such items", True)
            return
        for name in ("data_dir", "compat"):
            check(getattr(self, name) is None, f"data.{name}", "none without data.task", getattr(self, name))
        if self.dataset is not None and (given := self._given(("train_file", "test_file"))):
            raise ConfigError(f"data: expected either data.dataset or files of your own; got dataset and {given}")
        if self.dataset is None and (given := self._given((*_OF_DATASET, *_OF_HUB))):
            raise ConfigError(f"data: expected data.dataset beside {given}; got none: name the data set")
        needed = ("train_file", "prompt") if self.dataset is None else ("prompt",)
        missing = ", ".join(f"data.{name}" for name in needed if getattr(self, name) is None)
        if missing:
            raise ConfigError(f"data: expected data.task, or files of your own; got neither: {missing} missing")

    def _check_reading(self) -> None:
        """Refuse settings of files that cannot work."""
        for name in ("train_file", "test_file"):
            value = getattr(self, name)
            check(value is None or (all(value) and bool(value)), f"data.{name}", "a file, or several", value)
        if self.encoding is not None:
            check(_is_encoding(self.encoding), "data.encoding", "utf-8, utf-16, cp1252, latin-1 or another encoding "
                  "that Python has", self.encoding)  # fmt: skip

    @property
    def is_tested(self) -> bool:
        """Whether there are test items."""
        return self.task is not None or self.test_file is not None or self.test_split is not None

    def _check_answers(self, answers: dict[str, str]) -> None:
        """Refuse answer words that are not those of the labels."""
        check(self.choices_field is None, "data.answers", "none beside data.choices_field, whose answers are letters",
              answers)  # fmt: skip
        check(len(answers) >= 2, "data.answers", "an answer word for each of two labels or more", answers)
        words = list(answers.values())
        check(all(words) and len(set(words)) == len(words), "data.answers", "words that differ", answers)
        if self.labels is not None:
            named = sorted(label.strip() for label in self.labels)
            check(sorted(map(str.strip, answers)) == named, "data.answers", f"a word for each label, {named}", answers)

    def _check_texts(self) -> None:
        """Refuse beside a completion, or whole texts, what says which class an item is of."""
        beside = "data.completion" if self.completion is not None else "data.over text"
        for name in ("labels", "answers", "choices_field"):
            value = getattr(self, name)
            check(value is None, f"data.{name}", f"none beside {beside}, which needs no classes", value)
        if self.label_field != "label":
            raise ConfigError(
                f"data.label_field: expected none beside {beside}; got {self.label_field!r}: "
                f'name the field in the template, like " {{{self.label_field}}}"'
            )

    def answer_words(self, labels: Sequence[str]) -> tuple[str, ...]:
        """The words that answer for labels: these themselves where `answers` does not say otherwise.

        Example:
            >>> data = DataConfig(train_file="a.csv", prompt="{text}:", answers={"0": " zero", "1": " one"})
            >>> data.answer_words([" 1", " 0"])
            (' one', ' zero')
        """
        if self.answers is None:
            return tuple(labels)
        words = {label.strip(): word for label, word in self.answers.items()}
        return tuple(words[label.strip()] for label in labels)

    def _given(self, names: tuple[str, ...]) -> str:
        return ", ".join(f"data.{name}" for name in names if getattr(self, name) is not None)


def _is_encoding(name: str) -> bool:
    """Whether Python reads texts in it; it has other codecs, too."""
    try:
        return "".encode(codecs.lookup(name).name) is not None
    except (LookupError, UnicodeError, ValueError):
        return False


def files_of(value: list[str] | str | None) -> list[str]:
    """The names in a setting of one file or several."""
    return [value] if isinstance(value, str) else list(value or ())
