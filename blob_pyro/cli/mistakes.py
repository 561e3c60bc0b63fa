"""A mistake on the command line, in our words: expected X; got Y."""

from __future__ import annotations

import re

from jsonargparse import ArgumentError, ArgumentParser

from blob_pyro.config.checks import did_you_mean
from blob_pyro.config.file import expected_type, names_of, unknown_key
from blob_pyro.guides.settings import KEYS


def in_our_words(error: ArgumentError, parser: ArgumentParser) -> str:
    """jsonargparse's message as "expected X; got Y"."""
    text = " ".join(str(error).split())
    if found := re.match(r"unrecognized arguments: (.*)", text):
        return _unknown_word(found[1].split()[0], parser)
    if not (found := re.match(r'Parser key "([\w.]+)"(?: element \d+)?: (.*)', text)):
        return f"{text}; see {parser.prog} --help"
    key, rest = found.groups()
    # of a union the message tells each member's complaint, and the value at the end
    patterns = (r"Given value: (.*)$", r"Got value: (.*)$", r"Unable to load config '(.*?)'")
    value = next(filter(None, (re.search(pattern, rest) for pattern in patterns)), None)
    kind = KEYS.get(key) or next((getattr(a, "_typehint", a.type) for a in parser._actions if a.dest == key), None)
    if not value or not kind:
        return f"{key}: {rest}"
    return f"{key}: expected {expected_type(kind)}; got {value[1]}{did_you_mean(value[1], names_of(kind))}"


def _unknown_word(word: str, parser: ArgumentParser) -> str:
    if not word.startswith("--"):
        return f"expected {parser.usage}; got {word!r} beside that"
    options = [name[2:] for action in parser._actions for name in action.option_strings if name[:2] == "--"]
    return unknown_key(word[2:].split("=")[0], options, prefix="--")
