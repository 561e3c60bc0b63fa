"""Finds random matrices that a network never applies, at its first forward."""

from __future__ import annotations

from collections.abc import Mapping

from torch import nn

from blob_pyro.errors import UnsupportedLayerError
from blob_pyro.model.layers.drawn_linear import DrawnLinear


class FirstForward:
    """Watches the first forward of a network, in which every random matrix has to be applied.

    A layer may be there for others to read its weight (Mamba's dt_proj), or for a part that is not there (a lone
    decoder's attention to an encoder): its draws would change nothing, and its posterior would be the prior. Looked at
    are the layers of numbered blocks (of the answer head rows are read, without its forward), but for the experts of a
    mixture: a router may pass any of them by.

    Args:
        layers: site -> what is drawn there.
    """

    def __init__(self, layers: Mapping[str, DrawnLinear]) -> None:
        self._layers = {site: layer for site, layer in layers.items() if _is_watched(site.split("."))}
        self._applied: set[nn.Module] = set()
        self._hooks = [layer.register_forward_hook(self._applies) for layer in self._layers.values()]

    def _applies(self, layer: nn.Module, *_: object) -> None:
        self._applied.add(layer)

    def check(self) -> None:
        """Behind a forward: raise where it passed a site by; behind one that did not, no other is watched.

        Raises:
            UnsupportedLayerError: it did; the message names the first such layer.
        """
        if not self._hooks:
            return
        missed = [site for site, layer in self._layers.items() if layer not in self._applied]
        if missed:
            raise UnsupportedLayerError(
                f"layer {missed[0].rpartition('.')[0]}: expected a LoRA layer that the network's forward applies; got "
                f"one that it passes by, as {len(missed)} of {len(self._layers)} sites: leave it out of target_modules "
                "(or exclude_modules it)"
            )
        self.stop()

    def stop(self) -> None:
        """Watch no longer."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()


def _is_watched(path: list[str]) -> bool:
    return "experts" not in path and any(map(str.isdigit, path))
