"""Configuration files: reads a YAML file's keys, and words for what is wrong with a key or a type."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, get_type_hints

import yaml

from blob_pyro.config import RunConfig
from blob_pyro.errors import ConfigError


def _key_types() -> dict[str, Any]:
    """Every key of a configuration with its type; a section has its dataclass."""
    types: dict[str, Any] = {}
    for section, kind in get_type_hints(RunConfig).items():
        types[section] = kind
        if dataclasses.is_dataclass(kind):
            types |= {f"{section}.{name}": hint for name, hint in get_type_hints(kind).items()}
    return types


KEYS = _key_types()


def check_file(path: str | Path) -> dict[str, Any]:
    """Read a configuration file and check its keys; values are checked where the dataclasses are made.

    Returns:
        The mapping as it stands in the file; numbers like 1e-4 may still be text, as YAML 1.1 reads them.

    Raises:
        ConfigError: the file is missing or no YAML mapping, a section is not a mapping, or a key is unknown.
    """
    raw = _read_yaml(Path(path))
    expected = f"a mapping with the keys {', '.join(name for name in KEYS if '.' not in name)}"
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected {expected}; got {'nothing' if raw is None else type(raw).__name__}")
    for name, value in raw.items():
        if name not in KEYS or "." in name:
            raise ConfigError(f"{path}: {unknown_key(str(name), KEYS)}")
        if dataclasses.is_dataclass(KEYS[name]):
            _check_section(path, name, value)
    return raw


def _check_section(path: str | Path, name: str, value: Any) -> None:
    keys = [key.removeprefix(f"{name}.") for key in KEYS if key.startswith(f"{name}.")]
    if not isinstance(value, dict):
        got = "nothing" if value is None else repr(value)
        raise ConfigError(f"{path}: {name}: expected a mapping with keys like {', '.join(keys[:3])}; got {got}")
    for key in value:
        if key not in keys:
            raise ConfigError(f"{path}: {unknown_key(f'{name}.{key}', KEYS)}")


def _read_yaml(path: Path) -> Any:
    if path.is_dir():
        raise ConfigError(f"{path}: expected a YAML file; got a folder: name a file in it")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: expected a YAML file; there is none: check the path") from error
    except OSError as error:
        raise ConfigError(f"{path}: expected a YAML file; it cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected a YAML file in UTF-8; got other bytes at {error.start}") from error
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f" on line {error.problem_mark.line + 1}"
        raise ConfigError(f"{path}: expected YAML; got something else{line}: {error.problem}") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: expected YAML; got something else: {error}") from error


def unknown_key(key: str, known: Iterable[str], prefix: str = "") -> str:
    """A message for a key that there is not, with the one that was probably meant.

    Args:
        key: what was given.
        known: what there is.
        prefix: "--" where the keys are options of a command line.

    Example:
        >>> unknown_key("train.num_step", KEYS)
        'train.num_step: no such key; did you mean train.num_steps?'
        >>> unknown_key("lr", KEYS, prefix="--")
        '--lr: no such option; did you mean --train.lr?'
        >>> unknown_key("guide.width", KEYS)  # doctest: +ELLIPSIS
        'guide.width: no such key; guide has name, eps, scale, init_scale, p, num_members, rank, structure, ...'
    """
    known = list(known)
    start = f"{prefix}{key}: no such {'option' if prefix else 'key'}; "
    last = key.rsplit(".", 1)[-1]
    moved = [name for name in known if name.rsplit(".", 1)[-1] == last]
    near = moved or difflib.get_close_matches(key, known, n=1, cutoff=0.75)
    if near:
        return f"{start}did you mean {prefix}{near[0]}?"
    section = key.split(".", 1)[0]
    siblings = [name.split(".", 1)[1] for name in known if name.startswith(f"{section}.")]
    if siblings:
        return f"{start}{section} has {', '.join(siblings)}"
    return f"{start}expected one of {', '.join(prefix + name for name in known if '.' not in name)}"


def expected_type(kind: Any) -> str:
    """A type in words, for messages.

    Example:
        >>> expected_type(int | None)
        'a whole number, or null'
        >>> expected_type(Literal["blob", "mle"])
        "one of 'blob', 'mle'"
    """
    options = getattr(kind, "__args__", ())
    if type(None) in options:
        return f"{', or '.join(expected_type(option) for option in options if option is not type(None))}, or null"
    if getattr(kind, "__origin__", None) is Literal:
        return f"{'one of ' if len(options) > 1 else ''}{', '.join(map(repr, options))}"
    if dataclasses.is_dataclass(kind):
        return "a YAML file with the keys of this section"
    return _TYPE_WORDS.get(kind, str(kind))


_TYPE_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a finite number",
    bool: "true or false",
    str: "text",
    list[float]: "a list of numbers, like [1.0, 2.0]",
    list[int]: "a list of whole numbers, like [-1]",
    list[str]: 'a list of texts, like ["a", "b"] with quotes',
}
