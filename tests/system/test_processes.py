"""Steps of several processes are steps of one: real processes, connected by gloo."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from cases import KINDS, MODELS, make_batch, model_for, one_draw
from several import in_processes
from torch import Tensor
from torch.utils.data import DataLoader

import blob_pyro as bp
from blob_pyro.config.sections import TrainConfig
from blob_pyro.model.layers.checkpointing import enable_checkpointing
from blob_pyro.model.layers.sharding import is_sharded, shard_base
from blob_pyro.system.processes import Ranks
from blob_pyro.training.checkpoints import Checkpoints
from blob_pyro.training.recipes import RECIPES

pytestmark = pytest.mark.slow

Trained = tuple[list[tuple[float, float, float, float]], list[Tensor]]


def steps(
    name: str,
    network: str,
    recipe: str,
    sharded: bool,
    lengths: Sequence[int],
    pieces: int = 1,
    checkpointed: bool = False,
) -> Trained:
    """Three steps on one global batch under one draw: what they saw, and the parameters afterwards."""
    model = model_for(name, network)
    torch.manual_seed(5)
    guide = one_draw(KINDS[name](model))
    ranks = Ranks.here()
    if checkpointed:
        enable_checkpointing(model.network.get_base_model())
        model.network.train()
    if sharded and ranks.num > 1:
        shard_base(model.network, ranks)
        assert is_sharded(model.network)
    svi = bp.BLoBSVI(
        model, guide, recipe=recipe, lr=1e-2, kl_lr=1e-3, ranks=ranks, max_grad_norm=1.0,
        gradient_accumulation_steps=pieces, kl_schedule=lambda step: 0.5 / step,
    )  # fmt: skip
    results = [svi.step(make_batch(tuple(lengths))) for _ in range(3)]
    seen = [(result.nll, result.kl, result.kl_weight, result.loss) for result in results]
    return seen, [parameter.detach().clone() for parameter in svi.recipe.parameters()]


CASES = [
    ("blob", "llama", "blob", False, (7, 4, 6, 3), 1),
    ("blob", "llama", "elbo", False, (7, 4, 6, 3), 1),
    ("low_rank", "gpt2", "decoupled", False, (7, 4, 6, 3, 5), 2),
    ("mle", "bert", "blob", False, (7, 4, 6), 1),
    ("blob", "llama", "blob", False, (6,), 1),  # fewer items than processes
    ("blob", "llama", "blob", True, (7, 4, 6, 3), 1),
    ("mean_field", "qwen2", "elbo", True, (7, 4, 6, 3, 5), 2),
    ("blob", "gpt2", "decoupled", True, (6,), 1),
    ("blob", "llama", "blob", True, (7, 4, 6, 3), 2, True),
]


def every_case() -> list[Trained]:
    return [steps(*case) for case in CASES]


@pytest.fixture(scope="module", params=[2, 3])
def of_processes(request: pytest.FixtureRequest) -> list[list[Trained]]:
    return in_processes(request.param, every_case)


@pytest.mark.parametrize("case", range(len(CASES)))
def test_a_step_of_several_processes_is_the_step_of_one(case: int, of_processes: list[list[Trained]]) -> None:
    """Data parallel, and with a sharded base; the same losses, KL weights, and parameters."""
    expected, parameters = steps(*CASES[case])
    for found, own in (process[case] for process in of_processes):
        for one, other in zip(expected, found, strict=True):
            assert other == pytest.approx(one, rel=1e-4)
            assert other[2] == one[2]
        assert all(torch.allclose(p, q, rtol=1e-3, atol=2e-5) for p, q in zip(parameters, own, strict=True))
        first = of_processes[0][case]
        assert found == first[0] and all(map(torch.equal, own, first[1]))  # no drift between processes


def test_recipes_are_all_there() -> None:
    assert {case[2] for case in CASES} == set(RECIPES)


def loader() -> DataLoader[Any]:
    whole = make_batch((7, 4, 6, 3, 5, 5, 2, 7))
    generator = torch.Generator().manual_seed(11)
    return DataLoader(
        range(8), batch_size=4, shuffle=True, generator=generator, collate_fn=lambda rows: whole.select(rows)
    )


CONFIG = TrainConfig(num_steps=6, batch_size=4, lr=1e-2, kl_lr=1e-3, save_steps=2)


def noise_of_fit(start: int) -> tuple[list[Tensor], list[Tensor], list[float]]:
    """`fit` of processes that begin with other parameters: first draws, parameters at the end, NLLs."""
    model = MODELS["llama"]()
    torch.manual_seed(start + Ranks.here().index)
    guide = bp.BLoBGuide(model)
    draws: list[Tensor] = []
    forward = guide.forward

    def watched(batch: bp.Batch | None = None) -> Any:
        found = forward(batch)
        draws.append(next(iter(found.values())).detach().clone())
        return found

    guide.forward = watched  # type: ignore[method-assign]
    history = bp.fit(model, guide, loader(), dataclasses.replace(CONFIG, flipout=False), progress=False)
    ends = [*guide.scale_parameters().values(), *guide.location_parameters().values()]
    return draws, [p.detach().clone() for p in ends], [result.nll for result in history]


def test_each_process_draws_noise_of_its_own_and_all_stay_together() -> None:
    (draws, ends, nlls), (other_draws, other_ends, other_nlls) = in_processes(2, noise_of_fit, 5)
    assert all(map(torch.equal, ends, other_ends)) and nlls == other_nlls
    assert not any(map(torch.equal, draws, other_draws))


class Killed(Exception):
    """The end of a process."""


def broken_fit(folder: str, kill: int | None, resume: bool) -> tuple[list[float], list[Tensor]]:
    """`fit` with dropout, which every process draws for itself; perhaps killed in a step."""
    model = MODELS["llama"]()
    torch.manual_seed(3)
    guide = bp.BLoBGuide(model)

    def callback(result: bp.StepResult) -> None:
        if result.step == kill:
            raise Killed

    checkpoints = Checkpoints(folder)
    nlls: list[float] = []
    try:
        history = bp.fit(
            model, guide, loader(), CONFIG, progress=False, callbacks=[callback], checkpoints=checkpoints, resume=resume
        )
        nlls = [result.nll for result in history]
    except Killed:
        pass
    return nlls, [p.detach().clone() for p in (*guide.scale_parameters().values(), *model.point_parameters().values())]


def broken_and_whole(folder: str) -> list[Any]:
    whole = broken_fit(f"{folder}/whole", None, False)
    broken_fit(f"{folder}/broken", 5, False)
    return [whole, broken_fit(f"{folder}/broken", None, True)]


def test_several_processes_go_on_as_if_they_had_not_stopped(tmp_path: Path) -> None:
    for whole, resumed in in_processes(2, broken_and_whole, str(tmp_path)):
        assert resumed[0] == whole[0][4:] and len(resumed[0]) == 2
        assert all(map(torch.equal, whole[1], resumed[1]))
    with pytest.raises(bp.errors.CheckpointError, match="its num processes is 2, here it is 1"):
        broken_fit(str(tmp_path / "broken"), None, True)


def test_one_process_alone_is_not_sharded() -> None:
    with pytest.raises(bp.errors.ConfigError, match="model.shard_base: expected several processes; got one"):
        shard_base(MODELS["llama"]().network, Ranks())
