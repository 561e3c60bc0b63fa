"""The benchmarks of the paper and its neighbours as built-in tasks.

Prompts and answer words are the paper's where it has them (winogrande, arc, openbookqa, boolq, mmlu), and simple
questions elsewhere. The same prompt is read by a causal language model, which answers with a word, and by an encoder
with a classification head, which has no use for the words.

The test split is the official validation split, as in the paper, for most official test splits have no labels; mmlu is
tested on its test split.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from blob_pyro.data.prompts import PromptTemplate
from blob_pyro.data.rows.hub import HubSource, read_split
from blob_pyro.data.tasks import formats
from blob_pyro.data.tasks.task import Split, Task, TaskRows

QUESTION = PromptTemplate(
    "Return the label of the correct answer for the question below.\n\n"
    "Question: {question}\nChoices:\n{choices}\nAnswer:",
    truncate_field="question",
)
PASSAGE = PromptTemplate(
    "Read the passage below and answer the question with the words 'true' or 'false'.\n\n"
    "Passage: {passage}\nQuestion: {question}\nAnswer (true or false):",
    truncate_field="passage",
)
ENTAILMENT = PromptTemplate(
    "Premise: {premise}\nHypothesis: {hypothesis}\nDoes the premise entail the hypothesis (yes or no)? Answer:",
    truncate_field="premise",
)
PARAPHRASE = PromptTemplate(
    "Sentence 1: {sentence1}\nSentence 2: {sentence2}\nDo both sentences mean the same (yes or no)? Answer:",
    truncate_field="sentence1",
)
WORD_SENSE = PromptTemplate(
    "Word: {word}\nSentence 1: {sentence1}\nSentence 2: {sentence2}\n"
    "Does the word have the same meaning in both sentences (yes or no)? Answer:",
    truncate_field="sentence1",
)
ACCEPTABILITY = PromptTemplate(
    "Sentence: {sentence}\nIs the sentence grammatically acceptable (yes or no)? Answer:", truncate_field="sentence"
)

TWO, FOUR, FIVE = ((" A", " B", " C", " D", " E")[:count] for count in (2, 4, 5))
NO_YES, YES_NO = (" no", " yes"), (" yes", " no")

_SUBJECT_NAMES = """
abstract_algebra anatomy astronomy business_ethics clinical_knowledge college_biology college_chemistry
college_computer_science college_mathematics college_medicine college_physics computer_security conceptual_physics
econometrics electrical_engineering elementary_mathematics formal_logic global_facts high_school_biology
high_school_chemistry high_school_computer_science high_school_european_history high_school_geography
high_school_government_and_politics high_school_macroeconomics high_school_mathematics high_school_microeconomics
high_school_physics high_school_psychology high_school_statistics high_school_us_history
high_school_world_history human_aging human_sexuality international_law jurisprudence logical_fallacies
machine_learning management marketing medical_genetics miscellaneous moral_disputes moral_scenarios nutrition
philosophy prehistory professional_accounting professional_law professional_medicine professional_psychology
public_relations security_studies sociology us_foreign_policy virology world_religions
"""
SUBJECTS = tuple(_SUBJECT_NAMES.split())


def _benchmark(
    name: str,
    description: str,
    source: HubSource,
    *,
    train: Split,
    test: Split,
    labels: tuple[str, ...],
    template: PromptTemplate,
    prepare: Callable[[Mapping[str, Any]], dict[str, Any]],
    label_field: str = "label",
    group: str = "",
) -> Task:
    """A task whose splits are those of a published data set."""
    files = ", ".join(f"{source.file(split.name)}.jsonl" for split in (train, test))
    return Task(
        name=name,
        description=description,
        source=f"hub {source}; or {files} (or .csv, .tsv, .parquet, .gz) in data.data_dir",
        labels=labels,
        template=template,
        read=hub_reader(source, name),
        train=train,
        test=test,
        prepare=prepare,
        label_field=label_field,
        group=group,
        hub=source,
    )


def hub_reader(source: HubSource, name: str) -> Callable[[str, str | None], TaskRows]:
    """What reads a split of a data set of the hub, or its local copy, for the task of a name."""
    return functools.partial(_read, source, name)


def _read(source: HubSource, name: str, split: str, data_dir: str | None) -> TaskRows:
    return TaskRows(read_split(source, split, data_dir, name))


def _winogrande(size: str, num_train: int) -> Task:
    return _benchmark(
        f"winogrande_{size}",
        f"which of two nouns fills the blank; {num_train:,} training sentences in twin pairs, kept together when split",
        HubSource("allenai/winogrande", f"winogrande_{size}", "winogrande", {"train": f"train_{size}"}),
        train=Split("train", num_train),
        test=Split("validation", 1267),
        labels=TWO,
        template=QUESTION,
        prepare=formats.winogrande,
        group="both options",
        label_field="answer",
    )


def _arc(name: str, config: str, description: str, num_train: int, num_test: int) -> Task:
    return _benchmark(
        name,
        description,
        HubSource("allenai/ai2_arc", config, name),
        train=Split("train", num_train),
        test=Split("validation", num_test),
        labels=FIVE,
        template=QUESTION,
        prepare=formats.question_choices,
        label_field="answerKey",
    )


def _mmlu(subject: str) -> Task:
    return _benchmark(
        f"mmlu/{subject}",
        "exam questions of one subject, to test on; there is no training split: validation stands in for it",
        HubSource("cais/mmlu", subject, f"mmlu/{subject}"),
        train=Split("validation"),
        test=Split("test"),
        labels=FOUR,
        template=QUESTION,
        prepare=formats.mmlu,
        label_field="answer",
    )


BENCHMARKS: tuple[Task, ...] = (
    _winogrande("s", 640),
    _winogrande("m", 2558),
    _arc("arc_easy", "ARC-Easy", "school science questions, the easier ones; 3 to 5 choices", 2251, 570),
    _arc("arc_challenge", "ARC-Challenge", "school science questions, the harder ones; 3 to 5 choices", 1119, 299),
    _benchmark(
        "openbookqa",
        "elementary science questions",
        HubSource("allenai/openbookqa", "main", "openbookqa"),
        train=Split("train", 4957),
        test=Split("validation", 500),
        labels=FOUR,
        template=QUESTION,
        prepare=formats.question_stem_choices,
        label_field="answerKey",
    ),
    _benchmark(
        "boolq",
        "yes/no questions on a passage, of which the first 1,024 characters are read",
        HubSource("google/boolq", None, "boolq"),
        train=Split("train", 9427),
        test=Split("validation", 3270),
        labels=(" False", " True"),
        template=PASSAGE,
        prepare=formats.boolq,
        label_field="answer",
    ),
    *(_mmlu(subject) for subject in SUBJECTS),
    _benchmark(
        "rte",
        "does a premise entail a hypothesis; yes is entailment (official label 0)",
        HubSource("nyu-mll/glue", "rte", "rte"),
        train=Split("train", 2490),
        test=Split("validation", 277),
        labels=YES_NO,
        template=ENTAILMENT,
        prepare=formats.rte,
    ),
    _benchmark(
        "mrpc",
        "are two sentences paraphrases; yes is official label 1",
        HubSource("nyu-mll/glue", "mrpc", "mrpc"),
        train=Split("train", 3668),
        test=Split("validation", 408),
        labels=NO_YES,
        template=PARAPHRASE,
        prepare=formats.mrpc,
    ),
    _benchmark(
        "wic",
        "has a word the same sense in two sentences; yes is official label 1",
        HubSource("aps/super_glue", "wic", "wic"),
        train=Split("train", 5428),
        test=Split("validation", 638),
        labels=NO_YES,
        template=WORD_SENSE,
        prepare=formats.wic,
    ),
    _benchmark(
        "cola",
        "is a sentence grammatically acceptable; yes is official label 1",
        HubSource("nyu-mll/glue", "cola", "cola"),
        train=Split("train", 8551),
        test=Split("validation", 1043),
        labels=NO_YES,
        template=ACCEPTABILITY,
        prepare=formats.cola,
    ),
    _benchmark(
        "commonsense_qa",
        "common-sense questions",
        HubSource("tau/commonsense_qa", None, "commonsense_qa"),
        train=Split("train", 9741),
        test=Split("validation", 1221),
        labels=FIVE,
        template=QUESTION,
        prepare=formats.question_choices,
        label_field="answerKey",
    ),
)
