"""Damage to run directories: description, adapter, posterior, configuration, files that are none."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping
from typing import Any

import yaml
from config_mutations import YAML
from mutations import (
    CANARY_MODULE,
    TENSOR_FILES,
    Change,
    Place,
    a_byte,
    at_random,
    beside,
    bytes_of,
    edited,
    flipped,
    of_json,
    pickled,
    replaced,
    several,
)

ADAPTER_CONFIG, ADAPTER = "adapter/adapter_config.json", "adapter/adapter_model.safetensors"
POSTERIOR, DESCRIPTION = "posterior.safetensors", "posterior.json"


def forged(change: Change) -> Change:
    """With the checksums of the run's parts written anew."""

    def apply(place: Place, rng: random.Random) -> None:
        change(place, rng)

        def sums(found: Any) -> None:
            for name in found["sha256"]:
                if (place.run / name).is_file():
                    found["sha256"][name] = hashlib.sha256((place.run / name).read_bytes()).hexdigest()

        edited(place.run / DESCRIPTION, sums)

    return apply


def described(**changes: Any) -> Change:
    """Of the posterior's description; a key with __ leads into a section; a text may name {outside}."""
    return of_json(DESCRIPTION, lambda found, place, rng: _set(found, place, changes))


def adapter(**changes: Any) -> Change:
    """Of the adapter's settings."""
    return of_json(ADAPTER_CONFIG, lambda found, place, rng: _set(found, place, changes))


def _set(found: Any, place: Place, changes: Mapping[str, Any]) -> None:
    for name, value in changes.items():
        *sections, key = name.split("__")
        section = found
        for part in sections:
            section = section[part]
        section[key] = value.format(outside=place.outside) if isinstance(value, str) else value


def yaml_text(text: str) -> Change:
    """The run's configuration, with {canary} and {outside} in it."""

    def apply(place: Place, rng: random.Random) -> None:
        content = text.replace("{canary}", str(place.canary)).replace("{outside}", str(place.outside))
        (place.run / "config.yaml").write_text(content)

    return apply


def of_yaml(edit: Callable[[Any, Place, random.Random], Any]) -> Change:
    """The run's configuration after a change to it."""

    def apply(place: Place, rng: random.Random) -> None:
        file = place.run / "config.yaml"
        found = yaml.safe_load(file.read_text())
        edit(found, place, rng)
        file.write_text(yaml.safe_dump(found, sort_keys=False))

    return apply


def retyped(found: Any, place: Place, rng: random.Random) -> None:
    """A value of a type that its key has not got."""
    section = found[rng.choice(["data", "model", "guide", "train", "predict", "tune"])]
    section[rng.choice(list(section))] = rng.choice([{"a": 1}, [[1]], [{}], 10**400, -1, -0.5, "\0"])


_ADAPTERS: dict[str, Change] = {
    "a module for the base's class": forged(
        adapter(auto_mapping={"base_model_class": "Evil", "parent_library": CANARY_MODULE})
    ),
    "a megatron module": forged(adapter(megatron_config={"a": 1}, megatron_core=CANARY_MODULE)),
    "a base that is a path": forged(adapter(base_model_name_or_path="../../outside/evil")),
    "a base with a revision": forged(adapter(revision="evil", base_model_name_or_path="evil/evil")),
    "another kind of adapter": forged(adapter(peft_type="PROMPT_TUNING", num_virtual_tokens=10**9)),
    "no kind of adapter": forged(adapter(peft_type="../../evil")),
    "a kind that is a list": forged(adapter(peft_type=["LORA"])),
    "another task": forged(adapter(task_type="EVIL")),
    "a huge rank": forged(adapter(r=10**9)),
    "a rank that is text": forged(adapter(r="2")),
    "a negative rank": forged(adapter(r=-2)),
    "a huge rank of a layer": forged(adapter(rank_pattern={"q_proj": 10**9})),
    "ranks that are a list": forged(adapter(rank_pattern=[1])),
    "a search without end": forged(adapter(target_modules="(.*)*(.*)*(.*)*x")),
    "a search without end in a rank": forged(adapter(rank_pattern={"(.+)+x": 2})),
    "a search without end that leaves out": forged(adapter(exclude_modules="(.|.|.)*(.+)+x")),
    "no regular expression": forged(adapter(target_modules="(")),
    "no layers": forged(adapter(target_modules=[])),
    "layers that are numbers": forged(adapter(target_modules=[1, 2])),
    "layers that there are not": forged(adapter(target_modules=["evil"])),
    "another layer": forged(adapter(target_modules=["q_proj", "k_proj"])),
    "layers many times over": forged(adapter(layer_replication=[[0, 2]] * 10**4)),
    "an alpha that is text": forged(adapter(lora_alpha="x")),
    "a huge alpha": forged(adapter(lora_alpha=1e308)),
    "a very huge alpha": forged(adapter(lora_alpha=10**400)),
    "dropout that is text": forged(adapter(lora_dropout="x")),
    "a start that is unknown": forged(adapter(init_lora_weights="evil")),
    "a module to save": forged(adapter(modules_to_save=["../../evil"])),
    "an unknown key": forged(adapter(evil="../../evil", trust_remote_code=True)),
    "an adapter's alpha": adapter(lora_alpha=8),
    "an adapter's scaling": adapter(use_rslora=True),
    "settings at random": of_json(ADAPTER_CONFIG, lambda found, place, rng: at_random(found, rng)),
    "settings cut": bytes_of(ADAPTER_CONFIG, lambda content, rng: content[: rng.randrange(len(content) - 2)]),
    "settings that are a list": bytes_of(ADAPTER_CONFIG, lambda content, rng: b"[]"),
    "settings nested without end": bytes_of(ADAPTER_CONFIG, lambda content, rng: b'{"a":' * 50_000),
}
_DESCRIPTIONS: dict[str, Change] = {
    "a value at random": of_json(DESCRIPTION, lambda found, place, rng: at_random(found, rng)),
    "two values at random": of_json(
        DESCRIPTION, lambda found, place, rng: (at_random(found, rng), at_random(found, rng))
    ),
    "a base outside": described(base__id="../outside/evil"),
    "a base outside, as an absolute path": described(base__id="{outside}/evil"),
    "a base with a NUL": described(base__id="net\0"),
    "a base with a long name": described(base__id="x" * 5000),
    "a base that is a number": described(base__id=3),
    "a base on the hub that cannot be": described(base__id="--evil/../evil"),
    "attention from the hub": described(base__attn_implementation="evil/kernel:evil"),
    "attention that is a mapping": described(base__attn_implementation={"": "evil/kernel"}),
    "an unknown key of the base": described(base__trust_remote_code=True),
    "an adapter outside": described(adapter="../../../outside/evil"),
    "an adapter outside, as an absolute path": described(adapter="{outside}/evil"),
    "an adapter above": described(adapter=".."),
    "an adapter beside others": described(adapters=["default", "../../../outside/evil"]),
    "an adapter without a name": described(adapter=""),
    "an adapter that is a list": described(adapter=["default"]),
    "very many adapters": described(adapters=[f"a{k}" for k in range(9999)]),
    "a setting the guide has not got": described(guide__settings__evil=1),
    "a guide that is a method": described(guide__name="__class__"),
    "a guide of very many members": described(guide={"name": "ensemble", "settings": {"num_members": 10**9}}),
    "a guide of huge rank": described(guide={"name": "low_rank", "settings": {"eps": 0.05, "rank": 10**9}}),
    "another guide": described(guide={"name": "mle", "settings": {}}),
    "a head of very many labels": described(
        likelihood={"name": "SequenceClassification", "settings": {"num_labels": 10**9}}
    ),
    "tokens that there are not": described(likelihood__settings__token_ids=[10**6, 3]),
    "tokens below 0": described(likelihood__settings__token_ids=[-1, -2]),
    "other tokens": described(likelihood__settings__token_ids=[5, 6]),
    "very many tokens": described(likelihood__settings__token_ids=list(range(10**6))),
    "class weights that are infinite": described(likelihood__settings__class_weights=[1e308 * 10, 1]),
    "a law of the prior scale": described(prior_scale={"name": "__import__", "x": 1}),
    "a prior scale that is not a number": described(prior_scale=float("nan")),
    "very many data": described(num_data=10**40),
    "checksums that are a list": described(sha256=[]),
    "a checksum of a path": described(sha256={"../../outside/secret.txt": "0", "adapter/../../x": "1"}),
    "no checksums": lambda place, rng: edited(place.run / DESCRIPTION, lambda found: found.pop("sha256")),
    "the description nested without end": bytes_of(DESCRIPTION, lambda content, rng: b"[" * 200_000),
    "the description cut": bytes_of(DESCRIPTION, lambda content, rng: content[: rng.randrange(len(content) - 2)]),
    "the description in Latin-1": bytes_of(DESCRIPTION, lambda content, rng: b'{"\xfc": 1}'),
    "a long number": bytes_of(
        DESCRIPTION, lambda content, rng: content.replace(b'"num_data": 12', b'"num_data": ' + b"1" * 9999)
    ),
}
_FILES: dict[str, Change] = {
    "a pickle as posterior": pickled(POSTERIOR),
    "a pickle as posterior, forged": forged(pickled(POSTERIOR)),
    "a pickle as adapter": forged(pickled(ADAPTER)),
    "a pickle as description": pickled(DESCRIPTION),
    "a pickle as configuration": pickled("config.yaml"),
    "a pickle beside": several(beside("adapter/adapter_model.bin", archive=True), beside("pytorch_model.bin")),
    "a pickle in the adapter's place": several(replaced(ADAPTER, "nothing"), beside("adapter/adapter_model.bin", True)),
    "code beside": several(
        *(
            beside(f"{folder}{name}.py")
            for folder in ("", "adapter/")
            for name in ("sitecustomize", "conftest", "modeling_evil", "peft", "torch")
        )
    ),
    **{
        f"a {by} as {name}": replaced(name, by)
        for by in ("pipe", "folder", "device", "itself")
        for name in (POSTERIOR, DESCRIPTION, ADAPTER, ADAPTER_CONFIG, "config.yaml")
    },
    "a link out as posterior": replaced(POSTERIOR, "secret.txt"),
    "a link out as adapter": replaced("adapter", "evil"),
    "a link out as description": replaced(DESCRIPTION, "secret.txt"),
    "a link out as configuration": replaced("config.yaml", "secret.txt"),
    "a link out as metrics": replaced("metrics.json", "secret.txt"),
    "a link out as predictions": replaced("predictions.parquet", "secret.txt"),
    "a link out as diagram": replaced("reliability.png", "secret.txt"),
    "a link out as cost": replaced("cost.json", "secret.txt"),
}
_CONFIGS: dict[str, Change] = {
    **{f"configuration: {kind}": yaml_text(text) for kind, text in YAML.items()},
    "a setting of another type at random": of_yaml(retyped),
    "an output outside": of_yaml(lambda found, place, rng: found.update(output=str(place.outside / "new"))),
    "other labels": of_yaml(lambda found, place, rng: found["data"].update(labels=[" good", " bad"])),
    "labels that are text": of_yaml(lambda found, place, rng: found["data"].update(labels="ab")),
    "half a batch": of_yaml(lambda found, place, rng: found["predict"].update(batch_size=2.5)),
    "draws that are text": of_yaml(lambda found, place, rng: found["predict"].update(num_samples="2")),
    "true draws": of_yaml(lambda found, place, rng: found["predict"].update(num_samples=True)),
}

RUNS: dict[str, Change] = {
    **_DESCRIPTIONS,
    **_ADAPTERS,
    "posterior: a bit of the header at random": bytes_of(POSTERIOR, flipped),
    "adapter: a bit of the header at random": bytes_of(ADAPTER, flipped),
    "posterior: a byte at random": bytes_of(POSTERIOR, a_byte),
    "adapter: a byte at random": bytes_of(ADAPTER, a_byte),
    **{f"posterior, forged: {kind}": forged(bytes_of(POSTERIOR, change)) for kind, change in TENSOR_FILES.items()},
    **{f"adapter, forged: {kind}": forged(bytes_of(ADAPTER, change)) for kind, change in TENSOR_FILES.items()},
    **_FILES,
    **_CONFIGS,
}
