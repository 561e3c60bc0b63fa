"""`BayesianLoRA`: a pretrained network with LoRA adapters, as a Pyro model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn
from torch.distributions import Distribution

from blob_pyro.data.examples import Batch
from blob_pyro.errors import ConfigError
from blob_pyro.model.adapted_base import load_adapted
from blob_pyro.model.copying import copied
from blob_pyro.model.handlers import autoguide_sets_up, declare, draw, replayed_parameters, training_mode
from blob_pyro.model.layers.checkpointing import checkpointing_modules, follow_draws
from blob_pyro.model.layers.compiling import compile_blocks
from blob_pyro.model.layers.drawn_linear import Draw, DrawnLinear, as_draw, common_num_draws, hold, one_draw_dim
from blob_pyro.model.layers.first_forward import FirstForward
from blob_pyro.model.layers.inject import active_adapter, check_alive, drawn_linear, inject, layer_path
from blob_pyro.model.layers.members import point_parameters
from blob_pyro.model.layers.shared_prefix import SharedPrefix, find_shared_prefix
from blob_pyro.model.layers.substituted import checked_points, substitute, together
from blob_pyro.model.likelihoods import ClassLikelihood, Likelihood, MultipleChoice
from blob_pyro.model.loading import BaseSource, with_fresh_adapter
from blob_pyro.model.prior import PRIOR_SCALE, Hyperprior
from blob_pyro.model.second_derivatives import guarded
from blob_pyro.model.turns import Turns
from blob_pyro.model.vocabulary import check_to_learn, check_token_ids, num_positions, ready

if TYPE_CHECKING:
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

Contexts = hold | together
"""What holds a forward's draws; entered again by a checkpointed backward."""


class BayesianLoRA(PyroModule):
    r"""A PEFT LoRA model whose A matrices (or B, or both) are random variables.

    Per adapted layer with base weight W0 (m, n), B (m, r) and A (r, n) the model is

        A ~ Normal(0, prior_scale^2) elementwise,   h = W0 x + (lora_alpha / r) B A x,
        label ~ Categorical(logits).

    All A are drawn at the top, before the network runs, so the network itself is plain torch: it can be
    checkpointed, quantised or generate with a KV cache. B and trainable heads are point parameters. With
    bayesian="B" it is B that has this prior and A that is a point; with "both" both have it.

    Source: BLoB, arXiv 2406.11675, section 3.1.

    Args:
        network: a PEFT model with one active LoRA adapter (fresh or trained).
        likelihood: what the logits mean.
        prior_scale: standard deviation of the prior on each random entry (paper: sigma_p); or its own law, a
            LogNormal, HalfNormal, HalfCauchy or Gamma of one number: a site "prior_scale" then draws it first.
        num_data: number of training items N; the observed batch then counts N / B times in Pyro's ELBO
            (total nats over the training set). None counts each item of the batch once.
        bayesian: which factors of the adapter are random: "A", "B" or "both".
        bayesian_layers: indices of the transformer blocks whose adapters are random (-1: the last), as PEFT's
            layers_to_transform; those of other blocks are points. Adapters outside the blocks (lm_head, a
            classifier) are random all the same. None takes all.
        tokenizer: kept as `model.tokenizer`.

    Attributes:
        sites: site name ("<dotted path of the LoRA layer>.lora_A" or ".lora_B") -> PEFT's LoRA layer.
        adapter: name of the adapter.
        prior_scale: sigma_p; where it has a law, the centre of that (the median; of a Gamma the mean).
        hyperprior: the law of sigma_p; None where it is a number.
        num_positions: longest item in tokens, of a network with embedded positions; else None.

    Raises:
        ConfigError: a setting is out of range, or leaves nothing random.
        UnsupportedLayerError: an adapted layer's matrices cannot be drawn; the message names it.
        DataError: an answer's token is none of the network's embedding.
    """

    def __init__(
        self,
        network: PeftModel,
        likelihood: Likelihood,
        *,
        prior_scale: float | Distribution = 0.2,
        num_data: int | None = None,
        bayesian: str = "A",
        bayesian_layers: Sequence[int] | None = None,
        tokenizer: Any = None,
        source: BaseSource | None = None,
    ) -> None:
        super().__init__()
        self.hyperprior: Hyperprior | None = None
        if isinstance(prior_scale, Distribution):
            self.hyperprior = Hyperprior.of(prior_scale)
            prior_scale = self.hyperprior.centre
        if not prior_scale > 0:
            raise ConfigError(f"prior_scale: expected a number above 0; got {prior_scale}")
        if num_data is not None and num_data < 1:
            raise ConfigError(f"num_data: expected at least 1 training item, or None; got {num_data}")
        self.adapter = active_adapter(network)
        self.num_positions = num_positions(network)
        check_token_ids(likelihood.answer_ids, network, tokenizer, "labels")
        self.sites: dict[str, LoraLayer] = inject(network, self.adapter, bayesian, bayesian_layers)
        self.bayesian = bayesian
        self.bayesian_layers = None if bayesian_layers is None else list(bayesian_layers)
        self._layers: dict[str, DrawnLinear] = {
            site: drawn_linear(layer, site, self.adapter) for site, layer in self.sites.items()
        }
        self.likelihood = likelihood
        self.prior_scale = float(prior_scale)
        self.num_data = num_data
        self.tokenizer = tokenizer
        self.source = source or BaseSource.of(network)
        # Pyro fires a param statement for every parameter of a module that is an attribute: hence the property below
        self._modules["network"] = network
        self._checkpointing = checkpointing_modules(network)
        self._held: Contexts | None = None
        self.turns = Turns.of(network, self.adapter)
        self._first_forward = FirstForward(self._layers)
        self._prefix = self._shared_prefix()
        # laws are immutable: one for each shape, not one for each site and step
        self._priors: dict[tuple[torch.Size, torch.device, float], dist.Independent] = {}

    @classmethod
    def from_pretrained(
        cls,
        id_or_path: str,
        likelihood: Likelihood,
        *,
        r: int = 8,
        lora_alpha: float = 16,
        lora_dropout: float = 0.0,
        target_modules: list[str] | str | None = None,
        prior_scale: float | Distribution = 0.2,
        num_data: int | None = None,
        bayesian: str = "A",
        bayesian_layers: Sequence[int] | None = None,
        quantization: str | None = None,
        llm_int8_threshold: float = 6.0,
        dtype: str | torch.dtype = "auto",
        attn_implementation: str | None = None,
        device_map: Any = None,
        shard_base: bool = False,
        ignore_mismatched_sizes: bool = False,
        revision: str | None = None,
    ) -> BayesianLoRA:
        """Load a base model and its tokenizer, and put a fresh LoRA adapter on it.

        Args:
            id_or_path: hub id, local folder, or an alias of a packaged model ("smollm2", "minilm").
            likelihood: decides which head is loaded, too.
            r, lora_alpha, lora_dropout, target_modules: as in `peft.LoraConfig`; target_modules None takes
                PEFT's default for the architecture.
            prior_scale, num_data, bayesian, bayesian_layers: as in the constructor.
            quantization: "8bit" or "4bit" (bitsandbytes), or None.
            llm_int8_threshold: outlier threshold of 8-bit layers; at 0.0 a row's logits are independent of its batch.
            dtype: of the base weights; "auto" takes the checkpoint's. Adapters are float32.
            attn_implementation: as in transformers; None takes eager for bfloat16 on CPUs (faster up to some
                300 tokens; "sdpa" beyond), and elsewhere transformers' choice.
            device_map: where the base goes: a device ("cuda", "cuda:0", "cpu"), "auto", or devices by name of a
                module, as in transformers. None takes the CPU; of a quantised base the GPU, if there is one.
            shard_base: share the base out over a launcher's processes, all of which call this; the first reads it.
            ignore_mismatched_sizes: make a classification head anew where the model's own is of another size.
            revision: of a hub id: branch, tag or commit; `model.source.revision` is then the commit.

        Raises:
            ModelLoadError: the model was not found or could not be read.
            ConfigError: no default target_modules for this architecture, or a setting that cannot be on this machine.
        """
        source = BaseSource(
            id=id_or_path,
            quantization=quantization,
            llm_int8_threshold=llm_int8_threshold,
            dtype=str(dtype).removeprefix("torch."),
            attn_implementation=attn_implementation,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
            revision=revision,
        )
        adapter = {"r": r, "lora_alpha": lora_alpha, "lora_dropout": lora_dropout, "target_modules": target_modules}
        network, tokenizer = load_adapted(
            source,
            likelihood,
            lambda base: with_fresh_adapter(base, source, likelihood, adapter),
            device_map=device_map,
            shard=shard_base,
        )
        return cls(
            network,
            likelihood,
            prior_scale=prior_scale,
            num_data=num_data,
            bayesian=bayesian,
            bayesian_layers=bayesian_layers,
            tokenizer=tokenizer,
            source=source.as_loaded(),
        )

    @property
    def network(self) -> PeftModel:
        """The PEFT model. Outside `forward` it holds no draw: its adapter is the posterior mean."""
        return self._modules["network"]

    @property
    def device(self) -> torch.device:
        """Where the batches belong: the device of the first adapter."""
        return self.location(next(iter(self.sites))).device

    def location(self, site: str) -> nn.Parameter:
        """The adapter's own weight at `site`, (r, n), or (m, r) for a lora_B: the centre of `bp.guides`' posteriors."""
        return cast(nn.Parameter, self._layers[site].weight)

    def prior(self, site: str, prior_scale: Tensor | None = None) -> dist.Independent:
        """Normal(0, prior_scale^2) at `site`, event_shape (r, n), or (m, r) for a lora_B, float32.

        Args:
            site: name of the site.
            prior_scale: draws of sigma_p, the law's batch shape; None takes `self.prior_scale`.
        """
        weight = self.location(site)
        # unvalidated: a NaN is to become a non-finite loss, not an error inside a Pyro model
        if prior_scale is not None:
            scale = prior_scale.to(weight.device)[..., None, None].expand(*prior_scale.shape, *weight.shape)
            return dist.Normal(torch.zeros((), device=weight.device), scale, validate_args=False).to_event(2)
        key = (weight.shape, weight.device, self.prior_scale)
        if key not in self._priors:
            zero = torch.zeros((), device=weight.device)
            law = dist.Normal(zero, zero + self.prior_scale, validate_args=False)
            self._priors[key] = law.expand(weight.shape).to_event(2)
        return self._priors[key]

    def class_likelihood(self, who: str) -> ClassLikelihood:
        """The likelihood, for what works with classes alone.

        Args:
            who: what that is, for the message.

        Raises:
            ConfigError: the likelihood has no classes.
        """
        if not isinstance(self.likelihood, ClassLikelihood):
            raise ConfigError(
                f"{who}: expected a likelihood over classes, like MultipleChoice; got {type(self.likelihood).__name__}"
            )
        return self.likelihood

    def check_alive(self) -> None:
        """Raise unless the network applies what is drawn at every site; each forward calls it.

        Raises:
            UnsupportedLayerError: the adapter was merged, disabled, deleted or replaced, or another one is active; the
                message says what to call.
        """
        check_alive(self.network, self.adapter, self._layers)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """The network in evaluation mode and outside any autocast: answers do not depend on what is around the call."""
        with torch.autocast(self.device.type, enabled=False), training_mode(self.network, False):
            yield

    def point_parameters(self) -> dict[str, nn.Parameter]:
        """Everything trainable in the network that is not random: B (or A), heads. Name -> Parameter.

        Other adapters than `adapter` are no part of the model.
        """
        return point_parameters(self.network, self.adapter, map(self.location, self.sites))

    def marks(self) -> list[nn.Parameter]:
        """Some parameters that every training moves: the first random matrix, and the first point."""
        return [self.location(next(iter(self.sites))), *itertools.islice(self.point_parameters().values(), 1)]

    def __deepcopy__(self, memo: dict[int, Any]) -> BayesianLoRA:
        """A model with an adapter and heads of its own over the same frozen base, which is not copied."""
        return copied(self, memo)

    def forward(self, batch: Batch) -> Tensor:
        """Draw every random matrix, run the network, observe the labels.

        A site's value may carry draw dimensions to its left (under a plate to the left of the data, as
        in `Predictive(parallel=True)` or `vectorize_particles=True`): one forward then serves S draws.

        Args:
            batch: B items, padded on either side; or a mapping as `Batch.of` takes it.

        Returns:
            Logits (B, K), or (S, B, K) with a draw dimension; float32. Of `CausalLM` (B, L, V), or (S, B, L, V).

        Raises:
            LabelError: a label is none of the K classes, or of the vocabulary.
            ParamStoreError: Pyro's param store holds another model's parameters under the same names.
            UnsupportedLayerError: the adapter is not the network's active, enabled and unmerged one; or all of it is
                frozen, under SVI; or the network applies one of its layers nowhere.
            UnsupportedCheckpointingError: the network checkpoints in reentrant mode.
        """
        batch = Batch.of(batch)
        check_to_learn(batch, self)
        batch = batch.to(self.device)
        if torch.is_grad_enabled():
            self.turns.model_runs(self.marks, replayed_parameters())
        declare(self.point_parameters)
        scale = None if self.hyperprior is None else pyro.sample(PRIOR_SCALE, self.hyperprior.law(self.device))
        values = {site: one_draw_dim(pyro.sample(site, self.prior(site, scale))) for site in self.sites}
        draws = draw(values, num_items=len(batch))
        logits = guarded(self.logits(batch, draws))
        law, value = self.likelihood.observation(logits, batch)
        if value is None and autoguide_sets_up():  # labels to be predicted are nothing for a guide to learn
            return logits
        with self.likelihood.data_plate(batch, self.num_data, logits.device):
            pyro.sample("label", law, obs=value)
        return logits

    def logits(self, batch: Batch, draws: Mapping[str, Tensor | Draw] | None = None) -> Tensor:
        """Logits under given draws, without any sample statement.

        Args:
            batch: B items, padded on either side.
            draws: site -> value of shape (r, n), or (S, r, n) for S draws in one forward ((m, r), (S, m, r)
                for a lora_B); a site that is not in it, and every site for None, is at the adapter's own weight.
                It may hold values of point parameters (heads) by their name in `point_parameters`, for a single
                draw a forward.

        Returns:
            (B, K), or (S, B, K) where the draws have a draw dimension; float32.

        Raises:
            UnsupportedLayerError: the adapter is not the network's active, enabled and unmerged one, or the network
                applies one of its layers nowhere.
            DataError: an item beyond the context, or a token id that is none of the embedding's (looked at on CPUs).
            ConfigError: a name is no site and no point parameter, or one of another shape or beside several draws.
        """
        batch = ready(Batch.of(batch), self)
        draws = draws or {}
        held = {site: as_draw(value) for site, value in draws.items() if site in self._layers}
        num_draws = common_num_draws(held)
        points = {name: value for name, value in draws.items() if name not in self._layers}
        contexts: Contexts = hold({self._layers[site]: value for site, value in held.items()})
        if points:
            contexts = together(
                contexts, substitute(self.network, checked_points(points, self.point_parameters(), num_draws))
            )
        rows, repeated = self._rows(batch.right_padded(), num_draws or 1)
        with repeated:
            logits = self._run(rows, contexts)
        self._first_forward.check()
        return logits if num_draws is None else logits.unflatten(0, (num_draws, len(batch)))

    def compile_blocks(self, *, dynamic: bool | None = True, **settings: Any) -> None:
        """Compile the network's transformer blocks with torch.compile, in place, at their next forward.

        The held draws are inputs of the compiled code: no new draw compiles anything. Nor does a new number of
        tokens or items, up to a few special cases (one item, no padding); dynamic=None instead compiles for the
        first shape it meets, and again at the second. Training, prediction with draws and prediction at the mean
        each compile on their own. Embeddings and head are not compiled, nor are forwards that fill a KV cache.

        The default backend rounds in another order, and draws dropout's masks otherwise. It needs a C++ compiler
        on CPUs.

        Args:
            dynamic, settings: as in `torch.compile` (backend, mode, options).

        Raises:
            ConfigError: the network's blocks do not stand in one list.
            UnsupportedCheckpointingError: gradient checkpointing is on. Turned on later, it is refused at the
                next forward with gradients.
        """
        self._first_forward.stop()
        compile_blocks(self.network.get_base_model(), dynamic=dynamic, **settings)

    def _rows(self, batch: Batch, num_draws: int) -> tuple[Batch, AbstractContextManager[None]]:
        """The network's input rows for S draws, and the context in which it makes S of each where it can."""
        if self._prefix is None or num_draws == 1 or torch.is_grad_enabled():
            return batch.repeat(num_draws), nullcontext()
        return batch, self._prefix.repeated(len(batch), num_draws)

    def _shared_prefix(self) -> SharedPrefix | None:
        """What comes before the first block with a random adapter; the answer head alone can do with repeated rows."""
        if not isinstance(self.likelihood, MultipleChoice):
            return None
        return find_shared_prefix(self.network, map(layer_path, self.sites))

    def _run(self, rows: Batch, held: Contexts) -> Tensor:
        """One forward of the network with draws held; a checkpointed backward holds them again."""
        if torch.is_grad_enabled():
            follow_draws(self._checkpointing, self._recompute_contexts)
        self._held = held
        try:
            with held:
                return self.likelihood.logits(self.network, rows).float().to(self.device)  # an autocast would give less
        finally:
            self._held = None

    def _recompute_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """The contexts of one checkpointed block's forward and recomputation."""
        return nullcontext(), self._held or nullcontext()
