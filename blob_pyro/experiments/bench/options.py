"""`BenchSettings` as options of a command line."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, get_args, get_origin, get_type_hints

import docstring_parser

from blob_pyro.errors import ConfigError
from blob_pyro.experiments.bench.settings import CONTENDERS, PARTS, BenchSettings

ALL = "all"
_GROUPS: dict[str, tuple[str, tuple[str, ...]]] = {
    "network": (
        "the network",
        ("model", "dtype", "quantization", "layers", "r", "lora_alpha", "target_modules", "device",
         "attn_implementation"),
    ),
    "sizes": (
        "what is timed",
        ("batch_size", "length", "num_samples", "num_prompts", "min_length", "max_length", "num_sites", "in_features"),
    ),
}  # fmt: skip
_OWN_WORDS = ("parts", "memory")  # fields whose option is not "--FIELD VALUE"


def add_options(parser: Any) -> None:
    """Give an `ArgumentParser` an option for each field of `BenchSettings`, with the field's description."""
    told = {param.arg_name: param.description for param in docstring_parser.parse(BenchSettings.__doc__ or "").params}
    told["contenders"] = f"{told['contenders']} {_who_is_where()}"
    hints = get_type_hints(BenchSettings)
    parser.add_argument("part", type=str, nargs="?", default=ALL, help=f"one of {', '.join(PARTS)}, {ALL}")
    groups = {name: parser.add_argument_group(title, name=name) for name, (title, _) in _GROUPS.items()}
    group_of = {field: groups[name] for name, (_, fields) in _GROUPS.items() for field in fields}
    for field in dataclasses.fields(BenchSettings):
        if field.name not in _OWN_WORDS:
            several = get_origin(hints[field.name]) is tuple
            kind = get_args(hints[field.name])[0] if several else hints[field.name]
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            more = {"nargs": "+"} if several else {}
            group_of.get(field.name, parser).add_argument(
                f"--{field.name}", type=kind, default=default, help=told[field.name], **more
            )
    parser.add_argument("--no-memory", action="store_true", help="do not measure peak memory")


def settings_of(parsed: Mapping[str, Any]) -> BenchSettings:
    """The settings that a command line asks for.

    Raises:
        ConfigError: an option has a value that cannot work.
    """
    part = parsed["part"]
    if part not in (*PARTS, ALL):
        raise ConfigError(f"expected one of {', '.join(PARTS)}, {ALL}; got {part!r}")
    names = [field.name for field in dataclasses.fields(BenchSettings) if field.name not in _OWN_WORDS]
    given: dict[str, Any] = {name: parsed[name] for name in names}
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return BenchSettings(parts=PARTS if part == ALL else (part,), memory=not parsed["no_memory"], **given)


def _who_is_where() -> str:
    return "; ".join(f"{part}: {', '.join(names)}" for part, names in CONTENDERS.items())
