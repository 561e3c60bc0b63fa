"""Picks the next token of every row: the most probable one, or one drawn by a uniform number of the row's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from blob_pyro.errors import ConfigError


@dataclass(frozen=True)
class Choice:
    """How tokens are picked; the settings are transformers', its defaults are not.

    Attributes:
        do_sample: draw the token; False takes the most probable one, the first of equals.
        temperature: the scores are divided by it; None is 1.
        top_k: draw among this many tokens at most; None is no limit (in transformers it is 50).
        top_p: draw among the fewest tokens that have this probability together; None is no limit.

    Raises:
        ConfigError: a setting is out of range, or would have no effect without do_sample.

    Example:
        >>> scores = torch.tensor([[0.1, 0.6, 0.3]]).log()
        >>> Choice()(scores), Choice(do_sample=True)(scores, torch.tensor([0.71], dtype=torch.float64))
        (tensor([1]), tensor([2]))
    """

    do_sample: bool = False
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None

    def __post_init__(self) -> None:
        for name, value, fits, expected in (
            ("temperature", self.temperature, lambda x: x > 0, "a number above 0"),
            ("top_k", self.top_k, lambda x: x >= 1, "at least 1"),
            ("top_p", self.top_p, lambda x: 0 < x <= 1, "a number above 0, at most 1"),
        ):
            if value is not None and not fits(value):
                raise ConfigError(f"{name}: expected {expected}, or None; got {value}")
            if value is not None and not self.do_sample:
                raise ConfigError(
                    f"{name}: expected do_sample=True beside it; got do_sample=False: set it, or leave it out"
                )

    def uniforms(self, num_steps: int, num_texts: int, num_prompts: int) -> list[Tensor | None]:
        """For each step a uniform number a row, from torch's global generator; none where nothing is drawn.

        They are made before the first step, and prompt by prompt: a row's numbers depend neither on what happens to the
        others nor on how many prompts come behind its own.

        Args:
            num_steps: most tokens of a row.
            num_texts: texts behind each prompt.
            num_prompts: number of prompts; row s * num_prompts + i is text s of prompt i.

        Returns:
            num_steps entries, (num_texts * num_prompts,) float64 or None.
        """
        if not self.do_sample:
            return [None] * num_steps
        numbers = [torch.rand(num_steps, num_texts, dtype=torch.float64) for _ in range(num_prompts)]
        return list(torch.stack(numbers, -1).flatten(1))

    def __call__(self, scores: Tensor, uniforms: Tensor | None = None) -> Tensor:
        """The token of each row.

        Args:
            scores: (rows, V) logits, or log-probabilities, float32.
            uniforms: (rows,) numbers in [0, 1), where tokens are drawn.

        Returns:
            (rows,) token ids.
        """
        if uniforms is None:
            return scores.argmax(-1)
        for warper in self._warpers():
            scores = warper(None, scores)
        # the inverse of the cumulative distribution: one number a row, whatever the number of rows
        cumulative = scores.double().softmax(-1).cumsum(-1)
        target = uniforms.to(scores.device)[:, None] * cumulative[:, -1:]
        return torch.searchsorted(cumulative, target, right=True).squeeze(-1)

    def _warpers(self) -> list[Any]:
        """transformers' own, in the order in which its `generate` applies them."""
        from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

        settings: tuple[tuple[Any, float | None], ...] = (
            (TemperatureLogitsWarper, self.temperature),
            (TopKLogitsWarper, self.top_k),
            (TopPLogitsWarper, self.top_p),
        )
        return [kind(value) for kind, value in settings if value is not None]
