"""`BayesianLoRA`: a pretrained network with LoRA adapters, as a Pyro model."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, cast

import pyro
import pyro.distributions as dist
import torch
from pyro.nn import PyroModule
from torch import Tensor, nn

from blob_pyro.adapters.checkpointing import checkpointing_modules, follow_draws
from blob_pyro.adapters.drawn_linear import Draw, DrawnLinear, WeightDraw, hold
from blob_pyro.adapters.inject import SITE_SUFFIX, active_adapter, inject
from blob_pyro.adapters.shared_prefix import SharedPrefix, find_shared_prefix
from blob_pyro.data.examples import Batch
from blob_pyro.errors import ConfigError
from blob_pyro.handlers import declare, draw
from blob_pyro.likelihoods import Likelihood, MultipleChoice
from blob_pyro.loading import BaseSource, load_network

if TYPE_CHECKING:
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer


class BayesianLoRA(PyroModule):
    r"""A PEFT LoRA model whose A matrices are random variables.

    Per adapted layer with base weight W0 (m, n), B (m, r) and A (r, n) the model is

        A ~ Normal(0, prior_scale^2) elementwise,   h = W0 x + (lora_alpha / r) B A x,
        label ~ Categorical(logits).

    All A are drawn at the top, before the network runs, so the network itself is plain torch: it can be
    checkpointed, quantised or generate with a KV cache. B and trainable heads are point parameters.

    Source: BLoB, arXiv 2406.11675, section 3.1.

    Args:
        network: a PEFT model with one active LoRA adapter (fresh or trained).
        likelihood: what the logits mean.
        prior_scale: standard deviation of the prior on each entry of A (paper: sigma_p).
        num_data: number of training items N; the observed batch then counts N / B times in Pyro's ELBO
            (total nats over the training set). None counts each item of the batch once.
        tokenizer: kept as `model.tokenizer`.

    Attributes:
        sites: site name ("<dotted path of the LoRA layer>.lora_A") -> PEFT's LoRA layer.
        adapter: name of the adapter.

    Raises:
        ConfigError: prior_scale or num_data out of range.
        UnsupportedLayerError: an adapted layer's A matrix cannot be drawn; the message names it.
    """

    def __init__(
        self,
        network: PeftModel,
        likelihood: Likelihood,
        *,
        prior_scale: float = 0.2,
        num_data: int | None = None,
        tokenizer: Any = None,
        source: BaseSource | None = None,
    ) -> None:
        super().__init__()
        if not prior_scale > 0:
            raise ConfigError(f"prior_scale: expected a number above 0; got {prior_scale}")
        if num_data is not None and num_data < 1:
            raise ConfigError(f"num_data: expected at least 1 training item, or None; got {num_data}")
        self.adapter = active_adapter(network)
        self.sites: dict[str, LoraLayer] = inject(network, self.adapter)
        # looked up hundreds of times a step
        self._layers: dict[str, DrawnLinear] = {site: layer.lora_A[self.adapter] for site, layer in self.sites.items()}
        self.likelihood = likelihood
        self.prior_scale = float(prior_scale)
        self.num_data = num_data
        self.tokenizer = tokenizer
        self.source = source or BaseSource.of(network)
        # Pyro fires a param statement for every parameter of a module that a PyroModule hands out as an
        # attribute: the frozen network must stay out of that, hence the property below.
        self._modules["network"] = network
        self._checkpointing = checkpointing_modules(network)
        self._held: hold | None = None
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
        prior_scale: float = 0.2,
        num_data: int | None = None,
        quantization: str | None = None,
        llm_int8_threshold: float = 6.0,
        dtype: str | torch.dtype = "auto",
        attn_implementation: str | None = None,
        device_map: Any = None,
    ) -> BayesianLoRA:
        """Load a base model and its tokenizer, and put a fresh LoRA adapter on it.

        Args:
            id_or_path: hub id, local folder, or an alias of a packaged model ("smollm2", "minilm").
            likelihood: decides which head is loaded, too.
            r, lora_alpha, lora_dropout, target_modules: as in `peft.LoraConfig`; target_modules None takes
                PEFT's default for the architecture.
            prior_scale, num_data: as in the constructor.
            quantization: "8bit" or "4bit" (bitsandbytes), or None.
            llm_int8_threshold: outlier threshold of 8-bit layers. Above 0 a row's logits depend on the
                other rows of its batch; 0.0 makes them independent.
            dtype: of the base weights; "auto" takes the checkpoint's. Adapters are float32.
            attn_implementation: as in transformers; None takes eager for bfloat16 on CPUs (faster up to some
                300 tokens; "sdpa" beyond), and elsewhere transformers' choice.
            device_map: passed on to transformers.

        Raises:
            ModelLoadError: the model was not found or could not be read.
            ConfigError: no default target_modules for this architecture, or a bad setting.
        """
        source = BaseSource(
            id=id_or_path,
            quantization=quantization,
            llm_int8_threshold=llm_int8_threshold,
            dtype=str(dtype).removeprefix("torch."),
            attn_implementation=attn_implementation,
        )
        adapter = {"r": r, "lora_alpha": lora_alpha, "lora_dropout": lora_dropout, "target_modules": target_modules}
        network, tokenizer = load_network(source, likelihood, adapter, device_map=device_map)
        return cls(network, likelihood, prior_scale=prior_scale, num_data=num_data, tokenizer=tokenizer, source=source)

    @property
    def network(self) -> PeftModel:
        """The PEFT model. Outside `forward` it holds no draw: its adapter is the posterior mean."""
        return self._modules["network"]

    @property
    def device(self) -> torch.device:
        """Where the batches belong: the device of the first adapter."""
        return self.location(next(iter(self.sites))).device

    def location(self, site: str) -> nn.Parameter:
        """The adapter's own weight at `site`, (r, n): the centre of the posteriors of `bp.guides`."""
        return cast(nn.Parameter, self._drawn(site).weight)

    def prior(self, site: str) -> dist.Independent:
        """Normal(0, prior_scale^2) over A, event_shape (r, n), float32."""
        weight = self.location(site)
        key = (weight.shape, weight.device, self.prior_scale)
        if key not in self._priors:
            zero = torch.zeros((), device=weight.device)
            self._priors[key] = dist.Normal(zero, zero + self.prior_scale).expand(weight.shape).to_event(2)
        return self._priors[key]

    def point_parameters(self) -> dict[str, nn.Parameter]:
        """Everything trainable in the network but the A matrices: B, heads. Name -> Parameter."""
        locations = {id(self.location(site)) for site in self.sites}
        return {
            name: parameter
            for name, parameter in self.network.named_parameters()
            if parameter.requires_grad and id(parameter) not in locations
        }

    def forward(self, batch: Batch) -> Tensor:
        """Draw every A, run the network, observe the labels.

        A site's value may carry draw dimensions to its left (under a plate to the left of the data, as
        in `Predictive(parallel=True)` or `vectorize_particles=True`): one forward then serves S draws.

        Args:
            batch: B items, padded on either side.

        Returns:
            Logits (B, K), or (S, B, K) with a draw dimension; float32.

        Raises:
            LabelError: a label is none of the K classes.
            ParamStoreError: Pyro's param store holds another model's parameters under the same names.
            UnsupportedCheckpointingError: the network checkpoints in reentrant mode.
        """
        if batch.labels is not None:
            self.likelihood.check_labels(batch.labels)
        declare(self.point_parameters)
        values = {site: _one_draw_dim(pyro.sample(site, self.prior(site))) for site in self.sites}
        draws = draw(values, num_items=len(batch))
        logits = self.logits(batch, draws)
        size = max(self.num_data or 0, len(batch))
        with pyro.plate("data", size, subsample=torch.arange(len(batch), device=logits.device)):
            pyro.sample("label", self.likelihood.label_law(logits), obs=batch.labels)
        return logits

    def logits(self, batch: Batch, draws: Mapping[str, Tensor | Draw] | None = None) -> Tensor:
        """Logits under given draws, without any sample statement.

        Args:
            batch: B items, padded on either side.
            draws: site -> A of shape (r, n), or (S, r, n) for S draws in one forward; None is the
                posterior mean (the adapter's own weights).

        Returns:
            (B, K), or (S, B, K) where the draws have a draw dimension; float32.
        """
        held = {site: value if isinstance(value, Draw) else WeightDraw(value) for site, value in (draws or {}).items()}
        num_draws = _common_num_draws(held)
        rows, repeated = self._rows(batch.right_padded(), num_draws or 1)
        with repeated:
            logits = self._run(rows, hold({self._drawn(site): value for site, value in held.items()}))
        return logits if num_draws is None else logits.reshape(num_draws, len(batch), -1)

    def _rows(self, batch: Batch, num_draws: int) -> tuple[Batch, AbstractContextManager[None]]:
        """The network's input rows for S draws, and the context in which it makes S of each where it can."""
        if self._prefix is None or num_draws == 1 or torch.is_grad_enabled():
            return batch.repeat(num_draws), nullcontext()
        return batch, self._prefix.repeated(len(batch), num_draws)

    def _shared_prefix(self) -> SharedPrefix | None:
        """What comes before the first adapted block; the answer head alone can do with repeated rows."""
        if not isinstance(self.likelihood, MultipleChoice):
            return None
        return find_shared_prefix(self.network, [site.removesuffix(SITE_SUFFIX) for site in self.sites])

    def _run(self, rows: Batch, held: hold) -> Tensor:
        """One forward of the network with draws held; a checkpointed backward holds them again."""
        if torch.is_grad_enabled():
            follow_draws(self._checkpointing, self._recompute_contexts)
        self._held = held
        try:
            with held:
                return self.likelihood.logits(self.network, rows)
        finally:
            self._held = None

    def _recompute_contexts(self) -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        """The contexts of one checkpointed block's forward and recomputation."""
        return nullcontext(), self._held or nullcontext()

    def _drawn(self, site: str) -> DrawnLinear:
        return self._layers[site]


def _one_draw_dim(value: Tensor) -> Tensor:
    """Collapse what Pyro's plates put to the left of (r, n) into one draw dimension."""
    return value.reshape(-1, *value.shape[-2:]) if value.dim() > 2 else value


def _common_num_draws(draws: Mapping[str, Draw]) -> int | None:
    """Size of the draw dimension that all sites share; None without one."""
    sizes = {value.num_draws for value in draws.values()}
    if len(sizes) > 1:
        raise ValueError(f"expected the same number of draws at every site; got {sorted(sizes, key=str)}")
    return sizes.pop() if sizes else None
