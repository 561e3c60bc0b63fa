"""Damage to training checkpoints, most of it with all checksums written anew."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from mutations import (
    TENSOR_FILES,
    Change,
    Place,
    at_random,
    bytes_of,
    edited,
    evil_archive,
    evil_code,
    evil_pickle,
    one,
    replaced,
)
from safetensors.torch import load_file, save_file
from torch import Tensor


def newest(place: Place) -> Path:
    return max((place.run / "checkpoints").iterdir())


def resigned(change: Change) -> Change:
    """With all checksums of the newest checkpoint written anew."""

    def apply(place: Place, rng: random.Random) -> None:
        change(place, rng)
        step = newest(place)
        found = json.loads((step / "training.json").read_text())
        content = found["content"]
        if isinstance(content.get("sha256"), dict):
            for file in step.rglob("*"):
                if file.is_file() and file.name != "training.json":
                    name = str(file.relative_to(step))
                    content["sha256"][name] = hashlib.sha256(file.read_bytes()).hexdigest()
        text = json.dumps(content, sort_keys=True)
        found["sha256"] = hashlib.sha256(text.encode()).hexdigest()
        (step / "training.json").write_text(json.dumps(found))

    return apply


def content(edit: Callable[[Any, Place, random.Random], Any]) -> Change:
    """Of the content of training.json."""
    return resigned(
        lambda place, rng: edited(newest(place) / "training.json", lambda found: edit(found["content"], place, rng))
    )


def number(*keys: Any, value: Any) -> Change:
    """One of the numbers."""

    def edit(found: Any, place: Place, rng: random.Random) -> None:
        section = found["numbers"]
        for key in keys[:-1]:
            section = section[key]
        section[keys[-1]] = value

    return content(edit)


def tensors(edit: Callable[[dict[str, Tensor], random.Random], Any]) -> Change:
    """Of training.safetensors."""

    def change(place: Place, rng: random.Random) -> None:
        file = newest(place) / "training.safetensors"
        found = load_file(file)
        edit(found, rng)
        save_file({name: value.contiguous() for name, value in found.items()}, file)

    return resigned(change)


def named(start: str, end: str, edit: Callable[[Tensor], Tensor | None]) -> Change:
    """The tensors whose names begin and end so; None takes them out."""

    def change(found: dict[str, Tensor], rng: random.Random) -> None:
        names = [name for name in found if name.startswith(start) and name.endswith(end)]
        assert names, (start, end)
        for name in names:
            value = edit(found.pop(name))
            if value is not None:
                found[name] = value

    return tensors(change)


def renumbered(step: int) -> Change:
    """As if it were of another step, the folder's name too."""

    def change(place: Place, rng: random.Random) -> None:
        folder = newest(place)
        edited(folder / "training.json", lambda found: found["content"]["numbers"].update(step=step))
        folder.rename(folder.with_name(f"step-{step:08d}"))

    return resigned(change)


def in_checkpoint(name: str, change: Callable[[bytes, random.Random], bytes], *, signed: bool) -> Change:
    def apply(place: Place, rng: random.Random) -> None:
        file = newest(place) / name
        file.write_bytes(change(file.read_bytes(), rng))

    return resigned(apply) if signed else apply


def link_in_checkpoint(name: str, by: str) -> Change:
    def apply(place: Place, rng: random.Random) -> None:
        replaced(str((newest(place) / name).relative_to(place.run)), by)(place, rng)

    return apply


_NAN = float("nan")
CHECKPOINTS: dict[str, Change] = {
    **{f"step {value!r:.20}": number("step", value=value) for value in (-1, "4", 0.5, True, None, 10**12, [4], 3)},
    "a step beyond the last": renumbered(10**6),
    "a step of the past": renumbered(1),
    "more skipped than done": number("num_skipped", value=10**9),
    "skipped as text": number("num_skipped", value="0"),
    **{f"batches {value!r:.20}": number("batches_of_pass", value=value) for value in (10**18, -1, "1", 1.5, None)},
    **{
        f"a loss scale of {value}": number("loss_scale", "value", value=value)
        for value in (0, -1.0, "x", _NAN, 2.0, 1e308)
    },
    "good steps beyond the limit": number("loss_scale", "good_steps", value=10**9),
    "a best that there is not": number("best", "nll", value=0.1),
    "a best before the start": number("best", "step", value=-5),
    "waited for ever": number("best", "waited", value=10**9),
    "a best that is a list": number("best", value=[]),
    "no random numbers": number("random", value=[]),
    "a short key": number("random", 0, "numpy", "state", "key", value=[1, 2]),
    "a key of large words": number("random", 0, "numpy", "state", "key", value=[2**40] * 624),
    "a position far off": number("random", 0, "numpy", "state", "pos", value=10**7),
    "a position below": number("random", 0, "numpy", "state", "pos", value=-(10**7)),
    "a gauss that is text": number("random", 0, "numpy", "gauss", value="x"),
    "a Python state of another version": number("random", 0, "python", 0, value=9),
    "a Python state that is short": number("random", 0, "python", 1, value=[1]),
    "a Python state far off": number("random", 0, "python", 1, value=[1] * 624 + [10**6]),
    "a Python state with negative words": number("random", 0, "python", 1, value=[-1] * 625),
    "a Python gauss that is text": number("random", 0, "python", 2, value="x"),
    "no step": content(lambda found, place, rng: found["numbers"].pop("step")),
    "numbers that are a list": content(lambda found, place, rng: found.update(numbers=[1])),
    "a number at random": content(lambda found, place, rng: at_random(found["numbers"], rng)),
    "something at random": content(lambda found, place, rng: at_random(found, rng)),
    "versions that are a list": content(lambda found, place, rng: found.update(versions=[1])),
    "a run it does not belong to": content(lambda found, place, rng: found["belongs_to"].update(seed=7)),
    "belonging that is a list": content(lambda found, place, rng: found.update(belongs_to=[])),
    "a file outside": content(
        lambda found, place, rng: found["sha256"].update({"../../../../outside/secret.txt": "0"})
    ),
    "a file by an absolute path": content(
        lambda found, place, rng: found["sha256"].update({str(place.outside / "secret.txt"): "0"})
    ),
    "checksums that are a list": content(lambda found, place, rng: found.update(sha256=[["a", "b"]])),
    "a format of the future": content(lambda found, place, rng: found.update(version=99)),
    "training.json nested without end": in_checkpoint(
        "training.json", lambda raw, rng: b'{"a":' * 90_000, signed=False
    ),
    "training.json cut": in_checkpoint(
        "training.json", lambda raw, rng: raw[: rng.randrange(len(raw) - 2)], signed=False
    ),
    "a bit of training.json": in_checkpoint(
        "training.json", lambda raw, rng: raw.replace(b'"step": ', b'"step":  1'), signed=False
    ),
    "parameters of another shape": named("parameter.", "", lambda value: value.T),
    "parameters of another type": named("parameter.", "", lambda value: value.double()),
    "integers as parameters": named("parameter.", "", lambda value: value.int()),
    "parameters that are NaN": named("parameter.", "", lambda value: value * _NAN),
    "no parameters": named("parameter.", "", lambda value: None),
    "no averages": named("optimizer.", "exp_avg", lambda value: None),
    "no moments": named("optimizer.", "", lambda value: None),
    "moments of another shape": named("optimizer.", "exp_avg", lambda value: value.T),
    "averages that are NaN": named("optimizer.", "exp_avg", lambda value: value * _NAN),
    "squares below 0": named("optimizer.", "exp_avg_sq", lambda value: value - 1),
    "moments of other steps": named("optimizer.", "step", lambda value: value + 10**6),
    "steps of moments below 0": named("optimizer.", "step", lambda value: -value),
    "steps of moments that are NaN": named("optimizer.", "step", lambda value: value * _NAN),
    "moments of an optimiser that there is not": tensors(
        lambda found, rng: found.update({"optimizer.99.x.exp_avg": torch.ones(1)})
    ),
    "moments of a path": tensors(lambda found, rng: found.update({"optimizer.../../evil": torch.ones(1)})),
    "last good ones of another shape": named("last_good.", "", lambda value: value.T),
    "last good ones that are NaN": named("last_good.", "", lambda value: value * _NAN),
    "no last good ones": named("last_good.", "", lambda value: None),
    "some best ones": tensors(lambda found, rng: found.update({f"best.{one(found, rng)}": torch.ones(1)})),
    "a short random state": named("random.0.torch", "", lambda value: value[:100]),
    "a random state of floats": named("random.0.torch", "", lambda value: value.float()),
    "a random state of zeros": named("random.0.torch", "", lambda value: value * 0),
    "no random state": named("random.0.torch", "", lambda value: None),
    "a short state of the loader": named("loader.generator", "", lambda value: value[:8]),
    "a loader's state of floats": named("loader.generator", "", lambda value: value.float()),
    "a tensor of no kind": tensors(lambda found, rng: found.update(evil=torch.ones(2))),
    **{
        f"training: {kind}": in_checkpoint("training.safetensors", change, signed=True)
        for kind, change in TENSOR_FILES.items()
        if kind not in ("infinity", "NaN")
    },
    "a bit somewhere": in_checkpoint(
        "training.safetensors", lambda raw, rng: raw[:-9] + bytes([raw[-9] ^ 16]) + raw[-8:], signed=False
    ),
    "a pickle as training state": resigned(
        lambda place, rng: (newest(place) / "training.safetensors").write_bytes(evil_pickle(place))
    ),
    "a pickle beside": resigned(lambda place, rng: evil_archive(place, newest(place) / "training.bin")),
    "code beside": lambda place, rng: (newest(place) / "evil.py").write_text(evil_code(place)),
    "a link out as training state": link_in_checkpoint("training.safetensors", "secret.txt"),
    "a link out as description": link_in_checkpoint("training.json", "secret.txt"),
    "a pipe as description": link_in_checkpoint("training.json", "pipe"),
    "a pipe as training state": link_in_checkpoint("training.safetensors", "pipe"),
    "all checkpoints outside": replaced("checkpoints", "evil"),
    "history outside": replaced("history.jsonl", "secret.txt"),
    "a history of other bytes": bytes_of("history.jsonl", lambda raw, rng: b"\xff\xfe" + raw),
    "a step's folder in other digits": lambda place, rng: (
        place.run / "checkpoints" / "step-\u0661\u0662\u0663\u0664\u0665\u0666\u0667\u0668"
    ).mkdir(),
    "a step of a thousand digits": lambda place, rng: (place.run / "checkpoints" / ("step-" + "9" * 200)).mkdir(),
}
