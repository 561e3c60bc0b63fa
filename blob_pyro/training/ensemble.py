"""`fit_ensemble`: the members of a deep ensemble, trained one after another."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from blob_pyro.config.sections import TrainConfig
from blob_pyro.data.examples import Batch
from blob_pyro.errors import ConfigError
from blob_pyro.guides.ensemble import EnsembleGuide
from blob_pyro.guides.mle import MLEGuide
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.layers.members import start_afresh
from blob_pyro.training.checkpoints import Checkpoints
from blob_pyro.training.random_state import seeded
from blob_pyro.training.svi import StepResult
from blob_pyro.training.trainer import Callback, OnResume, fit


def fit_ensemble(
    model: BayesianLoRA,
    guide: EnsembleGuide,
    loaders: Sequence[Iterable[Batch]],
    config: TrainConfig | None = None,
    *,
    seed: int = 0,
    progress: bool = True,
    callbacks: Iterable[Callback] = (),
    description: str = "ensemble",
    validate: Callable[[BayesianLoRA, MLEGuide], float] | None = None,
    checkpoints: Sequence[Checkpoints] = (),
    resume: bool = False,
    on_resume: OnResume | None = None,
) -> list[list[StepResult]]:
    """Train every member of `guide` by maximum likelihood, each from a start and in an order of its own.

    Member k is what one gets from `torch.manual_seed(seed + k)`, `BayesianLoRA.from_pretrained`, and `fit` with an
    `MLEGuide` on loaders[k], bit for bit (where the heads are the only weights that the base's files lack). Adapters
    start at random, and so do the heads that `from_pretrained` made anew. A head that came from a file, and any head of
    a network that was not loaded by `from_pretrained`, begins at the base network's own in every member: it may have
    been trained. torch's random state is as before afterwards.

    Args:
        model: the model of `guide`.
        guide: the ensemble; what its members have learnt before is overwritten.
        loaders: one for each member, which sets the order of its data; all may hold the same items.
        config: the training settings of each member; the paper's by default.
        seed: of member 0; those after it take the next ones.
        progress: show a progress bar for each member.
        callbacks: called with each StepResult of each member; steps count from 1 in each.
        description: title of the progress bars.
        validate: gives a member's held-out NLL, as in `fit`.
        checkpoints: of each member, as in `fit`; none keeps none.
        resume: go on from them: members that were done are taken as they are.
        on_resume: called with the step that a member goes on from, as in `fit`.

    Returns:
        For each member one StepResult a step.

    Raises:
        ConfigError: not one loader for each member.
        NonFiniteLossError: the loss of a member became NaN or infinite; the members before it are trained.
        DataError: a loader is empty.
    """
    if len(loaders) != guide.num_members:
        raise ConfigError(f"loaders: expected one for each of {guide.num_members} members; got {len(loaders)}")
    if checkpoints and len(checkpoints) != guide.num_members:
        raise ConfigError(f"checkpoints: expected some for each of {guide.num_members} members; got {len(checkpoints)}")
    callbacks = tuple(callbacks)
    history = []
    for k, (adapter, loader) in enumerate(zip(guide.adapters, loaders, strict=True)):
        with seeded(seed + k, model.device), _as_model(model, guide, adapter) as member:
            start_afresh(model.network, adapter)
            title = f"{description} {k + 1}/{guide.num_members}"
            point = MLEGuide(member)
            history.append(
                fit(
                    member, point, loader, config, progress=progress, callbacks=callbacks, description=title,
                    validate=None if validate is None else partial(validate, member, point),
                    checkpoints=checkpoints[k] if checkpoints else None, resume=resume, on_resume=on_resume,
                )
            )  # fmt: skip
    guide.goes_with_model()
    return history


@contextlib.contextmanager
def _as_model(model: BayesianLoRA, guide: EnsembleGuide, adapter: str) -> Iterator[BayesianLoRA]:
    """The model over one member's adapter, which is the active one inside."""
    network = model.network
    network.set_adapter(adapter)
    try:
        yield BayesianLoRA(
            network,
            model.likelihood,
            prior_scale=model.prior_scale,
            num_data=model.num_data,
            bayesian=model.bayesian,
            bayesian_layers=model.bayesian_layers,
            tokenizer=model.tokenizer,
            source=model.source,
        )
    finally:
        network.set_adapter(model.adapter)
        guide.train_all()
