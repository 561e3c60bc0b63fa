"""`fit`: a thin loop around `BLoBSVI.step`, on one process or several, that can be stopped and gone on with."""

from __future__ import annotations

import contextlib
import dataclasses
import time
import warnings
from collections.abc import Callable, Iterable, Iterator

import torch

from blob_pyro.config.sections import TrainConfig
from blob_pyro.data.examples import Batch
from blob_pyro.errors import CheckpointError, ConfigError, Stopped
from blob_pyro.guides import AdapterGuide
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.handlers import flipout, training_mode
from blob_pyro.system.launchers import check_training, warn_of_others
from blob_pyro.system.processes import Ranks
from blob_pyro.system.progress import counted
from blob_pyro.training.checkpoints import Checkpoints
from blob_pyro.training.making import make_svi
from blob_pyro.training.passes import Passes, Place, check_beforehand
from blob_pyro.training.random_state import kept_random_state
from blob_pyro.training.stopping import stop_requests
from blob_pyro.training.svi import BLoBSVI, StepResult
from blob_pyro.training.training_state import Best, TrainingState

Callback = Callable[[StepResult], None]
Validate = Callable[[], float]
OnResume = Callable[[int], None]


def fit(
    model: BayesianLoRA,
    guide: AdapterGuide,
    loader: Iterable[Batch],
    config: TrainConfig | None = None,
    *,
    progress: bool = True,
    callbacks: Iterable[Callback] = (),
    description: str = "fit",
    validate: Validate | None = None,
    checkpoints: Checkpoints | None = None,
    resume: bool = False,
    on_resume: OnResume | None = None,
) -> list[StepResult]:
    """Learn the posterior: `config.num_steps` steps of `BLoBSVI`, going through `loader` again and again.

    The network is in training mode inside and gets its former modes back, also when a step raises. Ctrl-C, SIGTERM and
    SIGHUP stop behind the step that is being made, with a checkpoint where `checkpoints` are given; a second one stops
    at once. Where a launcher (`accelerate launch`, torchrun) has connected several processes, each trains on its share
    of every batch: all must call `fit` with the same loader.

    Args:
        model: the model; its `num_data` sets how far the KL widens by default, and a default KL cycle.
        guide: the posterior.
        loader: batches with labels, all items of a step in each; iterated anew at each epoch.
        config: the training settings; the paper's by default.
        progress: show progress with NLL, KL, KL weight, step time and time left: a bar, or lines without a terminal.
        callbacks: called with each StepResult.
        description: title of the progress.
        validate: gives the held-out NLL, nats per item; called every `config.eval_steps` steps. The parameters of
            the lowest one are those that training ends with. What it draws does not change what training draws.
        checkpoints: where to save all that the next step depends on, every `config.save_steps` steps, at the last one,
            and before a stop.
        resume: go on from the newest checkpoint, where there is one. On CPUs, with the same libraries and threads, the
            end is then bit by bit that of training without a break. A random order of the items must come from
            `loader.generator` alone, as `bp.train_loader`'s does.
        on_resume: called with the step that training goes on from, once a checkpoint has been taken up.

    Returns:
        One StepResult a step; of those that this call made.

    Raises:
        NonFiniteLossError: the loss became NaN or infinite more than `config.max_skipped_steps` times; the parameters
            are the last good ones.
        CheckpointError: a checkpoint could not be written, or cannot serve.
        DataError: the loader is empty, or an item or token is none that the network reads. Of a list of batches, and of
            what `bp.train_loader` gives, that is told before the first step.
        ConfigError: `config.eval_steps` without `validate`, or `resume` without `checkpoints`; or accelerate was told
            otherwise (docs/scaling.md).
        Stopped: after Ctrl-C, SIGTERM or SIGHUP (a KeyboardInterrupt).
    """
    config = config or TrainConfig()
    if config.eval_steps is not None and validate is None:
        raise ConfigError("eval_steps: expected held-out items to evaluate on; got none")
    if resume and checkpoints is None:
        raise ConfigError("resume: expected checkpoints to go on from; got None")
    check_training(config.mixed_precision, config.gradient_accumulation_steps)
    warn_of_others(config.mixed_precision, config.gradient_accumulation_steps)
    check_beforehand(loader, model, config.num_steps)
    ranks = Ranks.here()
    svi = make_svi(model, guide, config, ranks, loader)
    training = _Training(svi, config, ranks, validate, checkpoints)
    place = training.start(resume)
    if place is not None and on_resume is not None:
        on_resume(svi.steps_done)
    history: list[StepResult] = []
    with (
        training_mode(model.network),
        _noise(guide, config),
        stop_requests() as stop,
        progress_of(config.num_steps, svi.steps_done, description, show=progress and ranks.is_first) as tell,
    ):
        passes = Passes(loader, place)
        for batch in passes if not training.is_over else ():
            result = training.after(svi.step(batch))
            history.append(result)
            for callback in callbacks:
                callback(result)
            tell(result)
            stopped = max(ranks.gather(stop.signal)) if any(ranks.totals([stop.signal])) else 0
            if training.is_over or training.saves_now or stopped:
                training.save(passes.place)
            if stopped:
                raise Stopped(f"stopped behind step {svi.steps_done}", stopped)
            if training.is_over:
                break
    training.end()
    return history


class _Training:
    """What there is to do between two steps."""

    def __init__(
        self,
        svi: BLoBSVI,
        config: TrainConfig,
        ranks: Ranks,
        validate: Validate | None,
        checkpoints: Checkpoints | None,
    ) -> None:
        self._svi, self._config, self._ranks = svi, config, ranks
        self._validate, self._checkpoints = validate, checkpoints
        self._best = Best(svi.recipe.parameters(), config.patience)

    def start(self, resume: bool) -> Place | None:
        """Take up a checkpoint, or make all processes start at the same parameters with noise of their own."""
        state = self._checkpoints.load(self._ranks) if self._checkpoints is not None and resume else None
        if state is not None:
            if state.step > self._config.num_steps:
                raise CheckpointError(
                    f"expected a checkpoint of a training of {self._config.num_steps} steps; the newest is of step "
                    f"{state.step}: raise num_steps, or delete it"
                )
            return state.restore(self._svi, self._best, self._ranks)
        if self._ranks.num > 1:
            self._ranks.copy_from_first_([parameter.detach() for parameter in self._svi.recipe.parameters()])
            seed = self._ranks.gather(int(torch.randint(2**31, ())))[0]
            torch.manual_seed(seed + self._ranks.index)
        return None

    @property
    def is_over(self) -> bool:
        """Whether all steps are done, or the held-out NLL has not fallen for long enough."""
        return self._svi.steps_done >= self._config.num_steps or self._best.is_enough

    @property
    def saves_now(self) -> bool:
        every = self._config.save_steps
        return every is not None and self._svi.steps_done % every == 0

    def after(self, result: StepResult) -> StepResult:
        """The result of a step, with the held-out NLL behind it where it is time for one."""
        every = self._config.eval_steps
        if every is None or self._validate is None or (result.step % every and result.step < self._config.num_steps):
            return result
        with kept_random_state(self._svi.model.network), self._svi.model.evaluating():
            nll = self._ranks.gather(float(self._validate()))[0]
        self._best.see(nll, result.step)
        return dataclasses.replace(result, held_out_nll=nll)

    def save(self, place: Place) -> None:
        """Write a checkpoint, where they are kept."""
        if self._checkpoints is not None:
            self._checkpoints.save(TrainingState.of(self._svi, place, self._best, self._ranks), self._ranks)

    def end(self) -> None:
        """Take the best parameters, and tell of steps that were skipped."""
        self._best.put_back()
        if self._best.copies is not None and self._best.step < self._config.num_steps:
            self._svi.look_back(self._best.step)
        if skipped := self._svi.num_skipped:
            warnings.warn(
                f"{skipped} of {self._svi.steps_done} steps were skipped: their loss or gradient was not finite",
                stacklevel=3,
            )


def _noise(guide: AdapterGuide, config: TrainConfig) -> contextlib.AbstractContextManager[object]:
    """Flipout, where it is asked for and the guide's noise can be flipped."""
    return flipout() if config.flipout and guide.supports_flipout else contextlib.nullcontext()


Tell = Callable[[StepResult], None]


@contextlib.contextmanager
def progress_of(num_steps: int, done: int, title: str, *, show: bool = True) -> Iterator[Tell]:
    """Tells of each step with NLL, KL, KL weight, step time and time left, on standard error.

    Args:
        num_steps: of all training.
        done: how many were done before.
        title: what is being trained.
        show: False tells nothing.
    """
    with counted(num_steps, title, done=done, show=show) as count:
        clock = _Clock()
        yield lambda result: count(1, _status(result, clock.since_last()))


class _Clock:
    def __init__(self) -> None:
        self._last = time.perf_counter()

    def since_last(self) -> float:
        """Seconds since the last call."""
        before, self._last = self._last, time.perf_counter()
        return self._last - before


def _status(result: StepResult, seconds: float) -> str:
    times = f"{1000 * seconds:.0f} ms/step"
    if result.skipped:
        return f"not finite, skipped, {times}"
    return f"NLL {result.nll:.2f}, KL {result.kl:.1e}, KL weight {result.kl_weight:.0e}, {times}"
