"""`Shapes`: the sizes of a Llama-like network, read off its configuration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from blob_pyro.errors import ConfigError

# Architectures whose blocks are: norm, attention, norm, gated MLP; with the biases and norms that `of` knows.
ARCHITECTURES = ("llama", "mistral", "qwen2", "qwen3")


@dataclass(frozen=True)
class Shapes:
    """Sizes of a network.

    Attributes:
        hidden: features of a token between blocks (d).
        intermediate: features inside the MLP.
        layers: blocks.
        heads: of queries.
        kv_heads: of keys and values.
        head_dim: features of a head.
        vocab: tokens.
        tied: whether embeddings and head are one matrix.
        biases: names of a block's linear layers that have a bias.
        head_norms: whether queries and keys have norms of their own.
    """

    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool = False
    biases: tuple[str, ...] = ()
    head_norms: bool = False

    @classmethod
    def of(cls, config: Any) -> Shapes:
        """The sizes in a transformers configuration.

        Raises:
            ConfigError: it is of none of `ARCHITECTURES`.
        """
        if config.model_type not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise ConfigError(f"cost model: expected a configuration of one of {known}; got {config.model_type}")
        return cls(
            hidden=config.hidden_size,
            intermediate=config.intermediate_size,
            layers=config.num_hidden_layers,
            heads=config.num_attention_heads,
            kv_heads=config.num_key_value_heads or config.num_attention_heads,
            head_dim=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
            vocab=config.vocab_size,
            tied=bool(config.tie_word_embeddings),
            biases=_biases(config),
            head_norms=config.model_type == "qwen3",
        )

    @property
    def block_linears(self) -> dict[str, tuple[int, int]]:
        """Name -> (output, input) features of each linear layer of a block."""
        queries, keys = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {
            "q_proj": (queries, self.hidden),
            "k_proj": (keys, self.hidden),
            "v_proj": (keys, self.hidden),
            "o_proj": (self.hidden, queries),
            "gate_proj": (self.intermediate, self.hidden),
            "up_proj": (self.intermediate, self.hidden),
            "down_proj": (self.hidden, self.intermediate),
        }

    @property
    def linear_numbers(self) -> int:
        """Numbers in the matrices of a block."""
        return sum(m * n for m, n in self.block_linears.values())

    @property
    def other_numbers(self) -> int:
        """Numbers in a block's norms and biases."""
        biases = sum(self.block_linears[name][0] for name in self.biases)
        return 2 * self.hidden + biases + (2 * self.head_dim if self.head_norms else 0)

    @property
    def outside_numbers(self) -> int:
        """Numbers outside of the blocks: embeddings, head and last norm."""
        return (1 if self.tied else 2) * self.vocab * self.hidden + self.hidden

    @property
    def numbers(self) -> int:
        """Numbers of the whole network."""
        return self.layers * (self.linear_numbers + self.other_numbers) + self.outside_numbers


def _biases(config: Any) -> tuple[str, ...]:
    """Linear layers with a bias, as transformers builds each architecture."""
    attention, mlp = ("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj", "down_proj")
    if config.model_type == "qwen2":
        return attention
    found = (*attention, "o_proj") if getattr(config, "attention_bias", False) else ()
    return found + (mlp if getattr(config, "mlp_bias", False) else ())
