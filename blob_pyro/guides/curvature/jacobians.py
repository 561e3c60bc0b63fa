"""Jacobians of the logits, item by item, without a weight-sized gradient for each item at once."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from blob_pyro.data.batches.loaders import batches_of
from blob_pyro.data.batches.partition import partition
from blob_pyro.data.examples import Batch
from blob_pyro.model.bayesian_lora import BayesianLoRA
from blob_pyro.model.layers.drawn_linear import Draw
from blob_pyro.model.vocabulary import ready

MAX_TOKENS = 1536
"""Default budget of a forward whose graph is kept: every activation, and every site's input in float32."""


@dataclass(frozen=True, eq=False)
class SiteJacobian:
    """What one site's matrix W (d_out, d_in) does to C directions of the logits of B items.

    W is applied at T positions of each item, so that the derivative of direction c of item b is the (d_out, d_in)
    matrix sum_t gradients[c, b, t] inputs[b, t]^T.

    Attributes:
        inputs: (B, T, d_in) what W was applied to, float32 at least.
        gradients: (C, B, T, d_out) derivatives with respect to what came out; zero at padding.
    """

    inputs: Tensor
    gradients: Tensor

    def matrices(self) -> Tensor:
        """(C, B, d_out, d_in) the derivatives themselves."""
        return torch.einsum("cbto,bti->cboi", self.gradients, self.inputs)

    def mixed(self, weights: Tensor) -> SiteJacobian:
        """The same for other directions: direction e of item b is sum_c weights[b, c, e] times direction c.

        Args:
            weights: (B, C, E).
        """
        mixed = torch.einsum("cbto,bce->ebto", self.gradients, weights.to(self.gradients.dtype))
        return dataclasses.replace(self, gradients=mixed)


@dataclass(frozen=True, eq=False)
class Linearised:
    """The network of some items to first order in its random matrices, about the adapter's own weights.

    Attributes:
        rows: positions of these items in the batch they came in.
        logits: (B, K) at the adapter's own weights, float32.
        sites: site -> its Jacobian in the K - 1 directions of `contrasts`.
    """

    rows: list[int]
    logits: Tensor
    sites: dict[str, SiteJacobian]


def contrasts(num_classes: int) -> Tensor:
    """(K, K - 1) orthonormal columns, each orthogonal to (1, ..., 1): all that softmax sees of K logits.

    Example:
        >>> contrasts(2).round(decimals=3).tolist()
        [[0.7070000171661377], [-0.7070000171661377]]
    """
    columns = torch.zeros(num_classes, num_classes - 1)
    for c in range(1, num_classes):
        columns[:c, c - 1] = 1.0
        columns[c, c - 1] = -c
    return columns / torch.linalg.vector_norm(columns, dim=0)


def fisher_root(logits: Tensor) -> Tensor:
    """(B, C, C) root R of the Fisher information of the label in the directions Q of `contrasts`.

    R R^T = Q^T (diag(p) - p p^T) Q with p = softmax(logits): the expectation over the model's own labels, exactly,
    and the Hessian of the negative log-likelihood in the logits. C = K - 1 is its rank.

    Args:
        logits: (B, K).
    """
    probs = logits.double().softmax(-1)
    directions = contrasts(logits.shape[-1]).to(probs)
    information = torch.diag_embed(probs) - probs.unsqueeze(-1) * probs.unsqueeze(-2)
    root: Tensor = psd_root(directions.mT @ information @ directions)
    return root.to(logits.dtype)


def psd_root(matrix: Tensor) -> Tensor:
    """(..., C, C) the symmetric root of a positive semi-definite matrix; small negative eigenvalues count as zero."""
    values, vectors = torch.linalg.eigh(matrix)
    return (vectors * values.clamp(min=0).sqrt().unsqueeze(-2)) @ vectors.mT


def linearise_batches(
    model: BayesianLoRA, batches: Iterable[Batch], max_tokens: int | None = None
) -> Iterator[tuple[Batch, Linearised]]:
    """Each batch in parts of similar length, with the network in evaluation mode: (batch, linearised part).

    Args:
        model: the model.
        batches: padded on either side.
        max_tokens: most tokens of a forward, items x padded width; one item goes whatever the budget. None: 1536.
    """
    for batch in batches_of(batches):
        for rows in partition(batch.lengths.tolist(), max_tokens or MAX_TOKENS):
            items = ready(batch.select(rows), model)
            with model.evaluating():
                found = linearise(model, items)
            yield batch, dataclasses.replace(found, rows=rows)


def linearise(model: BayesianLoRA, batch: Batch) -> Linearised:
    """Logits and their derivatives: one forward and K - 1 backward passes, with gradients of activations alone.

    The layers apply the adapter's own weights through draws that keep their inputs and outputs. An item's logits
    depend on its own row alone, so that one backward pass serves all items. The network should be in evaluation mode.

    Args:
        model: the model.
        batch: B items, padded on either side.

    Returns:
        Tensors without a graph.
    """
    probes = {site: Probe(model.location(site)) for site in model.sites}
    with torch.enable_grad():
        logits = model.logits(batch, probes)
        outputs = [call.output for probe in probes.values() for call in probe.calls]
        columns = (logits @ contrasts(logits.shape[-1]).to(logits)).sum(0).unbind()
    # what no output reaches stays None: a layer behind the last token's state, say
    gradients = [
        torch.autograd.grad(column, outputs, retain_graph=i + 1 < len(columns), allow_unused=True)
        for i, column in enumerate(columns)
    ]
    by_output = iter(zip(*gradients, strict=True))
    sites = {
        site: _site_jacobian(probe, [next(by_output) for _ in probe.calls], len(batch), len(columns))
        for site, probe in probes.items()
    }
    return Linearised(list(range(len(batch))), logits.detach(), sites)


@dataclass(frozen=True, eq=False)
class _Call:
    """One application of a matrix: x (B, ..., d_in) to output (B, ..., d_out or k)."""

    input: Tensor
    output: Tensor
    index: Tensor | None


class Probe(Draw):
    """Applies a matrix to every row and keeps what went in and what came out.

    Args:
        weight: (d_out, d_in).
    """

    def __init__(self, weight: Tensor) -> None:
        self.weight = weight.detach().requires_grad_()  # so that the first layer's output has a gradient
        self.calls: list[_Call] = []

    @property
    def num_draws(self) -> None:
        return None

    def __call__(self, x: Tensor) -> Tensor:
        return self.apply(x, None)

    def outputs(self, index: Tensor) -> _ProbedRows:
        return _ProbedRows(self, index)

    def apply(self, x: Tensor, index: Tensor | None) -> Tensor:
        """x W^T, of the rows `index` of W alone where it is given."""
        weight = self.weight if index is None else self.weight[index]
        output = F.linear(x, weight.to(x.dtype))
        self.calls.append(_Call(x.detach(), output, index))
        return output


class _ProbedRows(Draw):
    """Some output features of a probe."""

    def __init__(self, probe: Probe, index: Tensor) -> None:
        self._probe, self._index = probe, index

    @property
    def num_draws(self) -> None:
        return None

    def __call__(self, x: Tensor) -> Tensor:
        return self._probe.apply(x, self._index)

    def outputs(self, index: Tensor) -> _ProbedRows:
        return _ProbedRows(self._probe, self._index[index])


def _site_jacobian(
    probe: Probe, gradients: list[tuple[Tensor | None, ...]], num_items: int, num_directions: int
) -> SiteJacobian:
    """The calls of one site (none where the network leaves it out), their positions beside one another."""
    (d_out, d_in), dtype = probe.weight.shape, torch.promote_types(probe.weight.dtype, torch.float32)
    inputs = [probe.weight.new_zeros(num_items, 0, d_in, dtype=dtype)]
    columns = [probe.weight.new_zeros(num_directions, num_items, 0, d_out, dtype=dtype)]
    for call, found in zip(probe.calls, gradients, strict=True):
        inputs.append(call.input.reshape(num_items, -1, d_in).to(dtype))
        stacked = torch.stack([torch.zeros_like(call.output) if g is None else g for g in found]).detach().to(dtype)
        stacked = stacked.reshape(num_directions, num_items, -1, stacked.shape[-1])
        if call.index is not None:
            stacked = stacked.new_zeros(*stacked.shape[:-1], d_out).index_add_(-1, call.index, stacked)
        columns.append(stacked)
    return SiteJacobian(torch.cat(inputs, dim=1), torch.cat(columns, dim=2))
