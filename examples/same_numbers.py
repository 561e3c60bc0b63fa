"""Does a device compute what the CPU does? All figures of a small Llama's step and answers, against float64 on the CPU.

Weights are random; all have the same ones, and the same posterior, noise and items. examples/gpu_check.py asks for it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from pyro.poutine.messenger import Messenger
from torch import Tensor

import blob_pyro as bp
from blob_pyro.model.loading import BaseSource, load_base, with_fresh_adapter
from blob_pyro.training.elbo import negative_log_likelihood
from blob_pyro.training.random_state import seeded

KINDS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "bfloat16": {"dtype": "bfloat16"},
    "4-bit": {"dtype": "bfloat16", "quantization": "4bit"},
}

# The largest relative errors |x - exact| / |exact| (Euclidean). CPUs have 1e-6 in float32, where products in TF32 would
# show as 5e-4; 0.01 in bfloat16 and in 4 bit, whose layers compute in it, and 0.02 in their gradients; a 4-bit weight
# of another device may have the neighbouring code here and there. The KL is float32 throughout. AdamW makes a whole
# step of any gradient: where rounding turns the sign of one near zero, that entry is off by two steps.
ALLOWED: dict[str, dict[str, float]] = {
    "log probabilities": {"float32": 1e-4, "bfloat16": 0.05, "4-bit": 0.05},
    "NLL": {"float32": 1e-4, "bfloat16": 0.05, "4-bit": 0.05},
    "NLL's gradient, means": {"float32": 1e-4, "bfloat16": 0.1, "4-bit": 0.1},
    "NLL's gradient, scales": {"float32": 1e-4, "bfloat16": 0.1, "4-bit": 0.1},
    "NLL's gradient, B": {"float32": 1e-4, "bfloat16": 0.1, "4-bit": 0.1},
    "KL": dict.fromkeys(KINDS, 1e-5),
    "KL's gradient": dict.fromkeys(KINDS, 1e-5),
    "a training step": {"float32": 5e-3, "bfloat16": 0.5, "4-bit": 0.5},
}

NETWORK: dict[str, Any] = {
    "hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 8,
    "num_key_value_heads": 4, "vocab_size": 512, "initializer_range": 0.06,
}  # fmt: skip
TINY = NETWORK | {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "initializer_range": 0.12}
LIKELIHOOD = bp.MultipleChoice((5, 17, 40))
LENGTHS = (32, 20, 27, 9)  # of the items, in tokens
NUM_DATA = 100
NUM_DRAWS = 3

Noise = Mapping[str, Tensor]
Side = tuple[bp.BayesianLoRA, bp.BLoBGuide]


@dataclass(frozen=True)
class Check:
    """One quantity on one device.

    Attributes:
        kind: of `KINDS`.
        quantity: of `ALLOWED`.
        device: where it was computed.
        error: relative to the same in float64.
        allowed: the largest error that is none.
    """

    kind: str
    quantity: str
    device: str
    error: float
    allowed: float

    @property
    def ok(self) -> bool:
        """NaN is not."""
        return self.error <= self.allowed

    def __str__(self) -> str:
        return (
            f"{self.kind}: {self.quantity} on {self.device}: expected an error of at most {self.allowed:g}; "
            f"got {self.error:.2g}"
        )


class Given(Messenger):
    """Draws mean + standard deviation * noise, with noise that is the same wherever the posterior lies.

    Args:
        noise: site -> (r, n).
    """

    def __init__(self, noise: Noise) -> None:
        super().__init__()
        self._noise = noise

    def _pyro_sample(self, msg: dict[str, Any]) -> None:
        if msg["name"] in self._noise and msg["value"] is None:
            law = msg["fn"]
            msg["value"] = law.mean + law.stddev * self._noise[msg["name"]].to(law.mean)


def save_network(folder: Path, config: Mapping[str, Any]) -> str:
    """A random Llama as a model's folder."""
    with seeded(0, torch.device("cpu")):
        network = transformers.LlamaForCausalLM(transformers.LlamaConfig(**config))
    network.save_pretrained(folder)
    return str(folder)


def build(folder: str, kind: str, device: str, *, exact: bool = False) -> Side:
    """The network of a folder on a device; `exact` has the very weights of that kind, in float64."""
    source = BaseSource(folder, **KINDS[kind])
    base = load_base(source, LIKELIHOOD, {"": device})
    if exact:
        base = (base.dequantize(torch.float64) if source.quantization else base).double()
    adapter = {"r": 8, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"]}
    model = bp.BayesianLoRA(with_fresh_adapter(base, source, LIKELIHOOD, adapter), LIKELIHOOD, num_data=NUM_DATA)
    return model, bp.BLoBGuide(model)


def trained(side: Side) -> dict[str, dict[str, torch.nn.Parameter]]:
    """Everything that a step trains, by what it is."""
    model, guide = side
    return {"means": guide.location_parameters(), "scales": guide.scale_parameters(), "B": model.point_parameters()}


def settle(exact: Side, sides: Sequence[Side]) -> Noise:
    """Give B values that matter, each side the parameters of the exact one, and all of them the same noise."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for B in exact[0].point_parameters().values():
            B.copy_(0.1 * torch.randn(B.shape, generator=generator))
        for group, parameters in trained(exact).items():
            for name, parameter in parameters.items():
                parameter.copy_(parameter.float())  # values that float32 has, too
                for side in sides:
                    trained(side)[group][name].copy_(parameter)
    sites = {site: exact[0].location(site).shape for site in exact[0].sites}
    return {site: torch.randn(NUM_DRAWS, *shape, generator=generator) for site, shape in sites.items()}


def make_batch() -> bp.Batch:
    """Labelled items, padded on the right."""
    generator = torch.Generator().manual_seed(2)
    mask = (torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS).unsqueeze(1)).long()
    ids = torch.randint(NETWORK["vocab_size"], mask.shape, generator=generator) * mask
    return bp.Batch(ids, mask, labels=torch.randint(3, (len(LENGTHS),), generator=generator))


def figures(side: Side, noise: Noise) -> dict[str, Tensor]:
    """Every quantity of `ALLOWED`, float64 on the CPU."""
    model, guide = side
    groups, batch = trained(side), make_batch()
    one = {site: value[0] for site, value in noise.items()}
    with torch.no_grad(), model.evaluating():
        draws = {site: guide.loc(site) + guide.scale(site) * value.to(guide.loc(site)) for site, value in noise.items()}
        found = {"log probabilities": model.logits(batch, draws).log_softmax(-1)}
    with Given(one):
        found["NLL"] = negative_log_likelihood(model, guide, batch)
    for group, parameters in groups.items():
        gradients = torch.autograd.grad(found["NLL"], list(parameters.values()), retain_graph=True)
        found[f"NLL's gradient, {group}"] = flat(gradients)
    found["KL"] = guide.kl()
    found["KL's gradient"] = flat(
        torch.autograd.grad(found["KL"], [*groups["means"].values(), *groups["scales"].values()])
    )
    everything = [parameter for parameters in groups.values() for parameter in parameters.values()]
    before = flat(everything)
    with Given(one):
        bp.BLoBSVI(model, guide, lr=1e-3, kl_lr=1e-3, warmup_ratio=0.0).step(batch)
    found["a training step"] = flat(everything) - before
    return {name: value.detach().cpu().double() for name, value in found.items()}


def flat(tensors: Sequence[Tensor]) -> Tensor:
    """All entries in a row, float64 on the CPU."""
    return torch.cat([tensor.detach().cpu().double().flatten() for tensor in tensors])


def exact_kl(side: Side) -> dict[str, Tensor]:
    """sum log(sigma_p / s) + (s^2 + m^2) / (2 sigma_p^2) - 1/2 with s = G^2, and its gradient, in float64."""
    model, _ = side
    groups = [list(trained(side)[name].values()) for name in ("means", "scales")]
    means, roots = ([p.detach().cpu().double().requires_grad_() for p in group] for group in groups)
    variance = model.prior_scale**2
    parts = [
        ((variance / G**4).log() / 2 + (G**4 + m**2) / (2 * variance) - 0.5).sum()
        for m, G in zip(means, roots, strict=True)
    ]
    kl = torch.stack(parts).sum()
    return {"KL": kl.detach(), "KL's gradient": flat(torch.autograd.grad(kl, [*means, *roots]))}


def compare(folder: str, kind: str, device: str) -> list[Check]:
    """The CPU and the device against float64; on the CPU itself alone where that is the device."""
    with seeded(0, torch.device("cpu")):
        exact = build(folder, kind, "cpu", exact=True)
        sides = {place: build(folder, kind, place) for place in dict.fromkeys(("cpu", device))}
    noise = settle(exact, list(sides.values()))
    kl = exact_kl(exact)  # before the step
    expected = figures(exact, noise) | kl  # the formula in place of the guide's own, which computes in float32
    checks = []
    for place, side in sides.items():
        for name, value in figures(side, noise).items():
            error = float((value - expected[name]).norm() / expected[name].norm())
            checks.append(Check(kind, name, place, error, ALLOWED[name][kind]))
    return checks
