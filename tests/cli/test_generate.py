"""`blob-pyro generate`: the same figures as `bp.generate`, in colours on a terminal and in tables elsewhere."""

from __future__ import annotations

import io
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyro
import pytest
import tiny

import blob_pyro as bp
from blob_pyro.cli import main
from blob_pyro.report.colours import BACKGROUNDS, legend, painted

PROMPT = "Tweet: What a day\nSentiment:"
SHORT = ("--max_new_tokens", "6", "--num_draws", "3")
EDGES = (0.5, 1.0, 2.0, 3.0)
MEASURES = ("entropy", "mutual_information")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `bp.save` writes: all that the command needs."""
    pyro.set_rng_seed(0)
    tokenizer = bp.load_tokenizer(str(tiny.llama()))
    likelihood = bp.MultipleChoice(bp.label_token_ids(tokenizer, tiny.LABELS))
    settings: dict[str, Any] = {"r": 2, "lora_alpha": 4, "target_modules": ["q_proj", "v_proj"]}
    model = bp.BayesianLoRA.from_pretrained(str(tiny.llama()), likelihood, num_data=8, **settings)
    for name, parameter in model.network.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(0, 0.5)
    folder = tmp_path_factory.mktemp("runs") / "own"
    bp.save(folder, model, bp.BLoBGuide(model, eps=0.6))
    return folder


@pytest.fixture
def on_a_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command with a standard output that says it is a terminal."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")

    def run(*words: object) -> str:
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)  # capsys has another standard output in fixtures
        return command(capsys, *words)

    return run


def command(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert main(["generate", *map(str, words)]) == 0
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    assert main(["generate", *map(str, words)]) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1
    return err


def expected(run: Path, **settings: Any) -> bp.Generations:
    found = bp.load(run)
    pyro.set_rng_seed(settings.pop("seed", 0))
    return bp.generate(found.model, found.guide, PROMPT, num_draws=3, max_new_tokens=6, **settings)


def without_escapes(text: str) -> str:
    return re.sub("\x1b\\[[0-9;]*m", "", text)


@pytest.mark.parametrize("mode", ["average", "per_draw"])
def test_json_has_every_figure(run: Path, capsys: pytest.CaptureFixture[str], mode: str) -> None:
    options = ("--mode", mode, "--do_sample", "--temperature", "0.9", "--seed", "4", "--json")
    rows = [json.loads(line) for line in command(capsys, run, PROMPT, *SHORT, *options).splitlines()]
    found = expected(run, mode=mode, do_sample=True, temperature=0.9, seed=4)
    assert len(rows) == found.tokens.shape[1] == (1 if mode == "average" else 3)
    assert [row["name"] for row in rows] == (["average"] if mode == "average" else ["draw 1", "draw 2", "draw 3"])
    for c, row in enumerate(rows):
        assert (row["prompt"], row["text"]) == (PROMPT, found.texts[0][c])
        assert row["log_probs"] == pytest.approx(found.sequence_log_probs[:, 0, c].tolist(), abs=1e-5)
        for name in ("log_prob", *(f"{kind}_{measure}" for kind in ("total", "mean") for measure in MEASURES)):
            assert row[name] == pytest.approx(float(getattr(found, name)[0, c]), abs=1e-5)
        assert [token["id"] for token in row["tokens"]] == found.tokens[0, c, : found.lengths[0, c]].tolist()
        for t, token in enumerate(row["tokens"]):
            assert token["log_probs"] == pytest.approx(found.log_probs[:, 0, c, t].tolist(), abs=1e-5)
            assert token["probability"] == pytest.approx(float(found.log_probs[:, 0, c, t].exp().mean()), abs=1e-5)
            for name in MEASURES:
                assert token[name] == pytest.approx(float(getattr(found, name)[0, c, t]), abs=1e-5)


def test_stop_strings(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    whole = expected(run, mode="average").texts[0][0]
    stop = whole[2:4]
    row = json.loads(command(capsys, run, PROMPT, *SHORT, "--json", "--stop", "never", "--stop", stop))
    found = expected(run, mode="average", stop_strings=["never", stop])
    assert row["text"] == found.texts[0][0] and stop in row["text"]
    assert len(row["tokens"]) == found.lengths[0, 0] < 6


def test_without_a_terminal_there_are_tables_and_no_escapes(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = command(capsys, run, PROMPT, *SHORT)
    found = expected(run, mode="average")
    assert "\x1b" not in out
    assert out.startswith(f"average: {PROMPT}")
    rows = [line for line in out.splitlines() if line.startswith('| "')]
    assert len(rows) == found.tokens.shape[-1]
    for t, row in enumerate(rows):
        figures = [float(cell) for cell in row.rsplit("|", 4)[1:4]]
        wanted = [found.log_probs[:, 0, 0, t].exp().mean(), found.entropy[0, 0, t], found.mutual_information[0, 0, t]]
        assert figures == pytest.approx([float(value) for value in wanted], abs=6e-4)
    assert out.splitlines()[-1].startswith("| average |      6 |")


def test_a_terminal_shows_colours_and_nothing_steers_it(run: Path, on_a_terminal: Callable[..., str]) -> None:
    out = on_a_terminal(run, PROMPT, *SHORT)
    text, told, *_ = out.split("\n\n")
    assert text.startswith("\x1b[2m") and PROMPT in without_escapes(text)
    assert told.startswith("entropy of the next token, nats:") and told.count("\x1b[38;5;16;48;5;") == 4
    assert "\x1b" not in without_escapes(out)
    assert "mutual information of the next token, nats:\n" in on_a_terminal(
        run, PROMPT, *SHORT, "--uncertainty", "mutual_information"
    )
    each = on_a_terminal(run, PROMPT, *SHORT, "--mode", "per_draw")
    assert [f"draw {s}:" in without_escapes(each) for s in (1, 2, 3, 4)] == [True, True, True, False]


@pytest.mark.parametrize(("name", "value"), [("NO_COLOR", "1"), ("TERM", "dumb")])
def test_a_terminal_that_wants_no_colours_gets_tables(
    run: Path, on_a_terminal: Callable[..., str], monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(name, value)
    out = on_a_terminal(run, PROMPT, *SHORT)
    assert "\x1b" not in out and "| token " in out


def test_colours_follow_the_values() -> None:
    values = (0.0, 0.49, 0.5, 1.5, 2.0, 9.0)
    texts = [f"t{value}" for value in values]
    found = painted(texts, values, EDGES)
    colours = dict(re.findall(r"\x1b\[38;5;16;48;5;(\d+)m(t[\d.]+)\x1b\[0m", found)[i][::-1] for i in range(4))
    assert colours == {"t0.5": BACKGROUNDS[1], "t1.5": BACKGROUNDS[2], "t2.0": BACKGROUNDS[3], "t9.0": BACKGROUNDS[4]}
    assert found.startswith("t0.0t0.49\x1b") and without_escapes(found) == "".join(texts)
    assert re.findall(r"48;5;(\d+)m ([^\x1b]+) ", legend(EDGES))[0] == (BACKGROUNDS[1], "0.5 to 1")


def test_a_colour_ends_with_its_line() -> None:
    found = painted(["a\n\nb"], [5.0], EDGES)
    colour = f"\x1b[38;5;16;48;5;{BACKGROUNDS[-1]}m"
    assert found == f"{colour}a↵\x1b[0m\n{colour}↵\x1b[0m\n{colour}b\x1b[0m"
    assert painted(["a\n", ""], [0.0, 5.0], EDGES) == "a\n"


@pytest.mark.parametrize("prompt", ["1", "null", "a: b", "[1, 2", "{}", "# not a comment"])
def test_a_prompt_is_taken_as_it_is(run: Path, capsys: pytest.CaptureFixture[str], prompt: str) -> None:
    rows = command(capsys, run, prompt, "--max_new_tokens", 1, "--num_draws", 0, "--json").splitlines()
    assert [json.loads(row)["prompt"] for row in rows] == [prompt]
    assert json.loads(rows[0])["name"] == "posterior mean"


def test_characters_that_the_output_cannot_hold_are_escaped(
    run: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = io.BytesIO()
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(written, encoding="ascii"))
    assert main(["generate", str(run), "ä", *SHORT, "--json"]) == 0
    assert json.loads(written.getvalue())["prompt"] == "ä"


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--mode", "both"], "mode: expected one of per_draw, average; got 'both'"),
        (["--uncertainty", "doubt"], "--uncertainty: expected one of entropy, mutual_information; got 'doubt'"),
        (["--num_samples", "4"], "--num_samples"),
        (["--top_p", "0.5"], "top_p: expected do_sample=True beside it; got do_sample=False"),
        (["--max_new_tokens", "many"], "max_new_tokens: expected a whole number; got many"),
        (["--max_new_tokens", "100"], "max_new_tokens: expected at most"),
        (["and more"], 'expected blob-pyro generate RUN "PROMPT"'),
    ],
)
def test_mistakes_are_one_line(run: Path, capsys: pytest.CaptureFixture[str], words: list[str], message: str) -> None:
    assert message in refused(capsys, run, PROMPT, *words)


def test_no_run_and_no_prompt(run: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert "expected a run directory" in refused(capsys, tmp_path, PROMPT)
    assert "prompt 0: expected text; got ''" in refused(capsys, run, "")
    assert "prompt" in refused(capsys, run)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("caf\udce9",), "prompt 0: expected text in UTF-8; got 'caf\\udce9'"),
        (("a", "--stop", "\udce9"), "stop_strings: expected texts in UTF-8; got ['\\udce9']"),
    ],
)
def test_words_that_are_no_text_are_refused(run: Path, refused: Callable[..., str], words: Any, told: str) -> None:
    assert refused("generate", run, *words) == told
