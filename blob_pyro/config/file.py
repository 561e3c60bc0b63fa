"""Configuration files: reads a YAML file's keys, and words for what is wrong with a key or a type."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, get_type_hints

import yaml

from blob_pyro.config.checks import nearest
from blob_pyro.config.sections import GuideConfig, RunConfig
from blob_pyro.config.types import expected_type, fits
from blob_pyro.errors import ConfigError


def keys_of(guide_settings: Mapping[str, Any]) -> dict[str, Any]:
    """Every key of a configuration with its type; a section has its dataclass.

    Args:
        guide_settings: the keys of the section "guide", which its guides know.
    """
    types: dict[str, Any] = {}
    for section, kind in get_type_hints(RunConfig).items():
        types[section] = kind
        if dataclasses.is_dataclass(kind):
            keys = guide_settings if kind is GuideConfig else get_type_hints(kind)
            types |= {f"{section}.{name}": hint for name, hint in keys.items()}
    return types


MAX_VALUES = 10_000
MAX_BYTES = 2 * 10**6


def check_file(path: str | Path, known: Mapping[str, Any]) -> dict[str, Any]:
    """Read a configuration file and check its keys; other values are checked where the dataclasses are made.

    Args:
        path: the file.
        known: the keys that there are (`keys_of`).

    Returns:
        The mapping as it stands in the file; numbers like 1e-4 may still be text, as YAML 1.1 reads them.

    Raises:
        ConfigError: the file is missing or no YAML mapping, a section is not a mapping, a key is unknown, or null
            stands for a value that cannot be.
    """
    raw = _read_yaml(Path(path))
    expected = f"a mapping with the keys {', '.join(name for name in known if '.' not in name)}"
    if not isinstance(raw, dict):
        raise ConfigError(f"{path}: expected {expected}; got {'nothing' if raw is None else type(raw).__name__}")
    for name, value in raw.items():
        if name in known and "." in name:
            raise ConfigError(f"{path}: {name}: expected {name.split('.')[1]} below {name.split('.')[0]}, in a section")
        if name not in known:
            raise ConfigError(f"{path}: {unknown_key(str(name), known)}")
        if dataclasses.is_dataclass(known[name]):
            _check_section(path, name, value, known)
        else:
            _check_null(path, name, value, known)
    return raw


def _check_section(path: str | Path, name: str, value: Any, known: Mapping[str, Any]) -> None:
    keys = [key.removeprefix(f"{name}.") for key in known if key.startswith(f"{name}.")]
    if not isinstance(value, dict):
        got = "nothing" if value is None else repr(value)
        raise ConfigError(f"{path}: {name}: expected a mapping with keys like {', '.join(keys[:3])}; got {got}")
    for key in value:
        if key not in keys:
            raise ConfigError(f"{path}: {unknown_key(f'{name}.{key}', known)}")
        _check_null(path, f"{name}.{key}", value[key], known)


def _check_null(path: str | Path, name: str, value: Any, known: Mapping[str, Any]) -> None:
    if value is None and not fits(None, known[name]):
        raise ConfigError(
            f"{path}: {name}: expected {expected_type(known[name])}; got null: leave it out to have its default"
        )


def _read_yaml(path: Path) -> Any:
    if path.is_dir():
        raise ConfigError(f"{path}: expected a YAML file; got a folder: name a file in it")
    if path.exists() and not path.is_file():  # it is read twice, and a device may have no end
        raise ConfigError(f"{path}: expected a YAML file; got a pipe or a device: write a file, and name that")
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"expected a YAML file of at most {MAX_BYTES / 10**6:g} MB; got more")
        found = yaml.load(path.read_text(encoding="utf-8"), Loader=_Loader)  # a SafeLoader
        _refuse_large(found)
        return found
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except FileNotFoundError as error:
        raise ConfigError(f"{path}: expected a YAML file; there is none: check the path") from error
    except OSError as error:
        raise ConfigError(f"{path}: expected a YAML file; it cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: expected a YAML file in UTF-8; got other bytes at {error.start}") from error
    except yaml.MarkedYAMLError as error:
        line = "" if error.problem_mark is None else f" on line {error.problem_mark.line + 1}"
        raise ConfigError(f"{path}: expected YAML; got something else{line}: {error.problem}") from error
    except RecursionError as error:
        raise ConfigError(f"{path}: expected a YAML file; its values are nested too deeply or in themselves") from error
    except (yaml.YAMLError, ValueError, LookupError, TypeError, AttributeError) as error:
        # of the latter PyYAML raises what its conversions do: a date in month 13, a number of 5000 digits, !!int x
        raise ConfigError(f"{path}: expected YAML; got something else: {str(error)[:200]}") from error


class _Loader(yaml.SafeLoader):
    """Makes plain values alone, and refuses a key that is there twice: PyYAML would take the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        written = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.value != "<<"]
        if twice := next((name for name, count in Counter(written).items() if count > 1), None):
            raise yaml.constructor.ConstructorError(None, None, f"the key {twice} is there twice", node.start_mark)
        return dict(super().construct_mapping(node, deep))


def _refuse_large(value: Any) -> None:
    """Raise where a value is large once its aliases are written out: ten lines can stand for a billion.

    Raises:
        ConfigError: it has more than `MAX_VALUES` values and more than are written, or a number that has no place in a
            machine's word.
        RecursionError: it holds itself.
    """
    written: dict[int, int] = {}
    if _count(value, {}, written) > max(MAX_VALUES, 1 + sum(written.values())):
        raise ConfigError(f"expected a file of at most {MAX_VALUES} values, aliases written out; got more")


def _count(value: Any, known: dict[int, int], written: dict[int, int]) -> int:
    """Values in a value, each time that it is named; `written` receives how many parts each value has."""
    if isinstance(value, int) and abs(value) >= 2**63:
        raise ConfigError(f"expected whole numbers of 64 bits; got {str(value)[:40]}")
    if not isinstance(value, dict | list | set | tuple):
        return 1
    if id(value) not in known:
        parts = [*value.keys(), *value.values()] if isinstance(value, dict) else list(value)
        known[id(value)] = 1 + sum(_count(part, known, written) for part in parts)
        written[id(value)] = len(parts)
    return known[id(value)]


def unknown_key(key: str, known: Iterable[str], prefix: str = "") -> str:
    """A message for a key that there is not, with the one that was probably meant.

    Args:
        key: what was given.
        known: what there is.
        prefix: "--" where the keys are options of a command line.

    Example:
        >>> known = keys_of({"name": str, "eps": float})
        >>> unknown_key("train.num_step", known)
        'train.num_step: no such key; did you mean train.num_steps?'
        >>> unknown_key("lr", known, prefix="--")
        '--lr: no such option; did you mean --train.lr?'
        >>> unknown_key("guide.width", known)
        'guide.width: no such key; guide has name, eps'
    """
    known = list(known)
    start = f"{prefix}{key}: no such {'option' if prefix else 'key'}; "
    section, _, rest = key.partition(".")
    last = key.rsplit(".", 1)[-1]
    siblings = [name.split(".", 1)[1] for name in known if rest and name.startswith(f"{section}.")]
    moved = [name for name in known if name.rsplit(".", 1)[-1] == last]
    if moved:
        return f"{start}did you mean {prefix}{moved[0]}?"
    if near := nearest(last, siblings, least=0.75):
        return f"{start}did you mean {prefix}{section}.{near}?"
    if siblings:
        return f"{start}{section} has {', '.join(siblings)}"
    if near := nearest(key, known, least=0.75):
        return f"{start}did you mean {prefix}{near}?"
    return f"{start}expected one of {', '.join(prefix + name for name in known if '.' not in name)}"


def to_dict(config: RunConfig) -> dict[str, Any]:
    """What a configuration file of it holds: sections, and their keys; of the guide the settings that were given."""
    guide = {"name": config.guide.name, **config.guide.settings}
    return {name: guide if name == "guide" else value for name, value in dataclasses.asdict(config).items()}


def flat_settings(config: RunConfig) -> dict[str, Any]:
    """Each setting by its whole name, as on the command line ("train.lr"); a mapping that is a value stays whole."""
    flat: dict[str, Any] = {}
    for name, value in to_dict(config).items():
        section = dataclasses.is_dataclass(getattr(config, name))
        flat |= {f"{name}.{key}": inner for key, inner in value.items()} if section else {name: value}
    return flat
