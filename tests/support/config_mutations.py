"""Damage to configuration files and to the folders of base models."""

from __future__ import annotations

import json
import pickle
import random
from collections.abc import Callable
from typing import Any

import yaml
from mutations import CANARY_MODULE, Change, Place, edited, evil_archive, evil_code, evil_pickle, flipped


def bomb(levels: int = 30) -> str:
    """Ten lines that stand for a billion values."""
    lines = ["a0: &a0 [lol, lol]"] + [f"a{k}: &a{k} [*a{k - 1}, *a{k - 1}]" for k in range(1, levels)]
    return "\n".join(lines) + "\n"


YAML: dict[str, str] = {
    "a call of os.mkdir": "data: !!python/object/apply:os.mkdir ['{canary}']\n",
    "an object to be made": "data: !!python/object/new:os.mkdir ['{canary}']\n",
    "a module to be imported": f"data: !!python/module:{CANARY_MODULE}\n",
    "a name to be looked up": "data: {task: !!python/name:os.system }\n",
    "a tag of its own": "data: !evil {task: tweets}\n",
    "a billion laughs": bomb() + "data: *a29\n",
    "a billion laughs in a section": "data:\n  labels: &x0 [a, b]\n  "
    + "\n  ".join(f"k{k}: &x{k} [{', '.join([f'*x{k - 1}'] * 9)}]" for k in range(1, 10))
    + "\n",
    "a billion laughs as a value": "data:\n  labels: [&y0 [a], "
    + ", ".join(f"&y{k} [*y{k - 1}, *y{k - 1}, *y{k - 1}]" for k in range(1, 25))
    + "]\n  prompt: x\n  train_file: x\n",
    "a list in itself": "data: &me {train_file: *me}\n",
    "a merge of itself": "data: &me {<<: *me}\n",
    "brackets without end": "data: " + "[" * 20_000,
    "mappings without end": "data: " + "{a: " * 3_000,
    "indents without end": "".join(" " * k + "a:\n" for k in range(1, 1500)),
    "a tab": "data:\n\ttask: tweets\n",
    "a long number": "data: {task: tweets}\nseed: " + "9" * 6000 + "\n",
    "a date in month 13": "data: {task: 2024-13-45}\n",
    "a number that is none": "data: {task: tweets}\nseed: !!int x\n",
    "a truth that is none": "data: {task: tweets}\nseed: !!bool x\n",
    "a time that is none": "data: {task: tweets}\nseed: !!timestamp x\n",
    "binary": "data: {task: !!binary not/base64=x}\n",
    "a key that is a list": "? [a, b]\n: 1\n",
    "a key that is a number": "1: 2\n",
    "a section twice": "data: {task: tweets}\ndata: {task: none}\n",
    "a key twice": "data: {task: none, task: tweets}\n",
    "another key": "data: {task: tweets}\nevil: 1\n",
    "a key that reaches in": "data: {task: tweets}\ntrain.lr: 1\n",
    "a configuration in it": "config: {outside}/other.yaml\n",
    "a section as a file": "data: {outside}/other.yaml\n",
    "a list": "- data\n",
    "a text": "data",
    "nothing": "",
    "two documents": "data: {task: tweets}\n---\ndata: {task: tweets}\n",
    "an alias of nothing": "data: *nothing\n",
    "a percent": "%YAML 9.9\n---\ndata: {task: tweets}\n",
    "a control character": "data: {task: \x01}\n",
    "a NUL": "data: {task: \0}\n",
}
YAML_BYTES: dict[str, bytes] = {
    "latin-1": "data: {task: tüeets}\n".encode("latin-1"),
    "UTF-16 without a mark": "data: {task: tweets}\n".encode("utf-16-le"),
    "half of a character": b"data: {task: \xe2\x82}\n",
    "a surrogate": b"data: {task: \xed\xa0\xbd}\n",
    "a pickle": pickle.dumps({"data": 1}),
}


def own_yaml(edit: Callable[[Any, Place, random.Random], Any]) -> Change:
    """Of the configuration that `fit` is given."""

    def apply(place: Place, rng: random.Random) -> None:
        file = place.folder / "own.yaml"
        found = yaml.safe_load(file.read_text())
        edit(found, place, rng)
        file.write_text(yaml.safe_dump(found))

    return apply


def given(section: str, **values: Any) -> Change:
    return own_yaml(lambda found, place, rng: found[section].update(values))


def own_text(text: str) -> Change:
    def apply(place: Place, rng: random.Random) -> None:
        full = text.replace("{canary}", str(place.canary)).replace("{outside}", str(place.outside))
        (place.folder / "own.yaml").write_text(full)

    return apply


def _odd_setting(found: Any, place: Place, rng: random.Random) -> None:
    name = rng.choice(["model", "guide", "train", "predict"])
    keys = {
        "model": ["r", "lora_alpha", "prior_scale", "id", "dtype", "bayesian_layers", "target_modules"],
        "guide": ["name", "eps", "rank"],
        "train": ["num_steps", "lr", "batch_size", "recipe", "kl_weight", "max_grad_norm"],
        "predict": ["num_samples", "batch_size"],
    }
    found[name][rng.choice(keys[name])] = rng.choice(
        [-1, "x", [[]], {"a": 1}, float("nan"), float("inf"), "\0", [-9], 10**400, -(10**30)]
    )


CONFIGS: dict[str, Change] = {
    **{kind: own_text(text) for kind, text in YAML.items()},
    **{
        kind: (lambda place, rng, raw=raw: (place.folder / "own.yaml").write_bytes(raw))
        for kind, raw in YAML_BYTES.items()
    },
    "a setting at random": own_yaml(_odd_setting),
    "a huge number of tokens": given("predict", max_tokens=10**400),
    "a huge rate": given("train", lr=10**400),
    "a huge list of rates": given("model", class_weights=[10**400, 1]),
    "a huge batch": given("predict", batch_size=10**30),
    "a huge number of items": given("data", num_test=10**30),
    "a model outside": given("model", id="../outside/evil"),
    "attention from the hub": given("model", attn_implementation="evil/kernel"),
    "an adapter that is none": given("model", adapter="../outside"),
    "a start of the hub's code": given("model", trust_remote_code=True),
    "a data set that is a script": own_yaml(
        lambda found, place, rng: found.update(
            data={"dataset": str(place.outside / "scripted"), "prompt": "{text}", "labels": [" a", " b"]}
        )
    ),
    "a prompt that reaches in": given("data", prompt="{text.__class__.__mro__}"),
    "a prompt that indexes": given("data", prompt="{text[0]}"),
    "a prompt that formats": given("data", prompt="{text:>999999999}"),
    "a prompt that converts": given("data", prompt="{text!r}"),
    "an output that is a file": own_yaml(
        lambda found, place, rng: found.update(output=str(place.outside / "secret.txt"))
    ),
}


# --- base models ---


def base_json(name: str, **changes: Any) -> Change:
    return lambda place, rng: edited(place.folder / "net" / name, lambda found: found.update(changes))


def base_code(name: str, **auto_map: Any) -> Change:
    """A file that names code, and the code beside it."""

    def apply(place: Place, rng: random.Random) -> None:
        net = place.folder / "net"
        (net / "evil.py").write_text(evil_code(place))
        edited(net / name, lambda found: found.update(auto_map=auto_map))
        if name == "config.json":
            edited(net / name, lambda found: found.update(model_type="evil"))
        else:
            edited(net / name, lambda found: found.update(tokenizer_class="Evil"))

    return apply


def base_bytes(name: str, change: Callable[[bytes, random.Random], bytes]) -> Change:
    def apply(place: Place, rng: random.Random) -> None:
        file = place.folder / "net" / name
        file.write_bytes(change(file.read_bytes(), rng))

    return apply


def weights_as_pickle(place: Place, rng: random.Random) -> None:
    """No safetensors, but what transformers used to read."""
    (place.folder / "net" / "model.safetensors").unlink()
    evil_archive(place, place.folder / "net" / "pytorch_model.bin")


def generation_code(place: Place, rng: random.Random) -> None:
    (folder := place.folder / "net" / "custom_generate").mkdir()
    (folder / "generate.py").write_text(evil_code(place))


BASES: dict[str, Change] = {
    "code for the model": base_code("config.json", AutoConfig="evil.Evil", AutoModelForCausalLM="evil.Evil"),
    "code for the tokenizer": base_code("tokenizer_config.json", AutoTokenizer=["evil.Evil", "evil.Evil"]),
    "code on the hub": base_code("config.json", AutoConfig="evil/evil--evil.Evil"),
    "code for generation": generation_code,
    "weights that are a pickle": weights_as_pickle,
    "a pickle called safetensors": lambda place, rng: (place.folder / "net" / "model.safetensors").write_bytes(
        evil_pickle(place)
    ),
    "weights cut": base_bytes("model.safetensors", lambda raw, rng: raw[: rng.randrange(len(raw))]),
    "a bit of the weights' header": base_bytes("model.safetensors", flipped),
    "no weights": lambda place, rng: (place.folder / "net" / "model.safetensors").unlink(),
    "a tokenizer cut": base_bytes("tokenizer.json", lambda raw, rng: raw[: rng.randrange(len(raw))]),
    "a tokenizer that is a list": base_bytes("tokenizer.json", lambda raw, rng: b"[]"),
    "a tokenizer of no kind": base_json("tokenizer.json", model={"type": "Evil"}),
    "a configuration cut": base_bytes("config.json", lambda raw, rng: raw[: rng.randrange(len(raw) - 2)]),
    "a configuration that is a list": base_bytes("config.json", lambda raw, rng: b"[1]"),
    "a configuration nested without end": base_bytes("config.json", lambda raw, rng: b'{"a":' * 50_000),
    "another width": base_json("config.json", hidden_size=48),
    "a width that is text": base_json("config.json", hidden_size="wide"),
    "heads that do not divide": base_json("config.json", num_attention_heads=5),
    "an index of files outside": lambda place, rng: (
        (place.folder / "net" / "model.safetensors").unlink(),
        (place.folder / "net" / "model.safetensors.index.json").write_text(
            json.dumps({"metadata": {}, "weight_map": {"lm_head.weight": "../outside/secret.txt"}})
        ),
    )[0],
}
