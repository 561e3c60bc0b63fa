"""Help, completion and wrong command lines, as a stranger meets them."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from blob_pyro.cli import COMMANDS, main
from blob_pyro.guides.settings import KEYS


def test_help_and_tasks_end_with_zero(capsys):
    for words in (["--help"], ["-h"], ["tasks"], *([command, "--help"] for command in COMMANDS)):
        assert main(words) == 0, words
        out = capsys.readouterr().out
        assert out.startswith("tweets:" if words == ["tasks"] else "usage: blob-pyro")


def test_help_of_fit_explains_every_key(capsys):
    main(["fit", "--help", "all"])
    out = " ".join(capsys.readouterr().out.split())
    for key in (key for key in KEYS if "." in key):
        told = re.search(rf"--{re.escape(key)}\+? (?:\S+|{{[^}}]*}}) ([^(-].*?) \(type", out)
        assert told, f"no help for {key}"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_first_screen_of_help_fits_one_and_shows_an_example(command, capsys):
    """24 lines of 80 columns; what is not on it is named, and tells whatever there is."""
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    lines = out.rstrip("\n").split("\n")
    assert len(lines) <= 24 and max(map(len, lines)) <= 80
    assert f"example: blob-pyro {command}" in out
    more = out.partition(f"more: blob-pyro {command} --help TOPIC\n")[2]
    for topic in re.findall(r"(\w+)(?: \([^)]*\))?(?:,|\n)", more):
        assert main([command, "--help", topic]) == 0
        assert capsys.readouterr().out.strip()


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["ev"], {"evaluate"}),
        (["fit", "--train.lr"], {"--train.lr"}),
        (["fit", "--guide.name", "la"], {"laplace"}),
        (["fit", "my.yaml", "--qu"], {"--quiet"}),
        (["predict", "--targ"], {"--target_risk"}),
        (["fit", "--train.flipout", "t"], {"true"}),
        (["fit", "m"], {"my.yaml"}),
        (["fit", "--config", "m"], {"my.yaml"}),
        (["fit", "--data.train_file", "m"], {"my.yaml"}),
        (["report", "a_run", "a"], {"a_run"}),
    ],
    ids=" ".join,
)
def test_bash_completes(words, expected, tmp_path, capsys):
    assert main(["completion", "bash"]) == 0
    (tmp_path / "script").write_text(capsys.readouterr().out)
    (tmp_path / "my.yaml").touch()
    (tmp_path / "a_run").mkdir()
    line = " ".join(f"'{word}'" for word in ["blob-pyro", *words])
    asked = f"""
    source ./script
    COMP_WORDS=({line}); COMP_CWORD={len(words)}
    $(complete -p blob-pyro | sed -E 's/.*-F ([^ ]+).*/\\1/')
    printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    done = subprocess.run(["bash", "-c", asked], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert set(done.stdout.split()) == expected and not done.stderr


def test_an_unknown_shell_is_one_line(refused):
    assert refused("completion", "bsh").startswith("shell: expected one of bash, zsh, ")


def test_an_unknown_topic_of_help_names_the_nearest(refused):
    assert refused("fit", "--help", "trian").endswith("; did you mean train?")


def test_tasks_names_labels_and_source(capsys):
    assert main(["tasks"]) == 0
    assert "labels: negative, neutral, positive" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], f"expected a command ({', '.join(COMMANDS)}); got none"),
        (
            ["fti", "x"],
            f"expected a command ({', '.join(COMMANDS)}); got 'fti'",
        ),
        (["fit"], "expected blob-pyro fit CONFIG.yaml [--key value ...]; got no configuration"),
        (["fit", "--config"], "argument --config: expected one argument"),
        (["evaluate"], "the following arguments are required: run"),
        (["predict", "run"], "the following arguments are required: file"),
        (["tasks", "x"], "expected blob-pyro tasks; got 'x' beside that"),
    ],
)
def test_a_wrong_command_line_is_one_line(refused, words, message):
    assert message in refused(*words)
