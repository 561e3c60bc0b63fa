"""What a run can be exported as."""

from __future__ import annotations

from dataclasses import dataclass

from blob_pyro.errors import ConfigError

MOST_DRAWS = 1000


@dataclass(frozen=True)
class Kind:
    """What a run is exported as.

    Attributes:
        name: "mean", "draws" or "merged".
        num_draws: of draws: how many.
    """

    name: str
    num_draws: int = 0

    @classmethod
    def parse(cls, text: str) -> Kind:
        """The kind that "mean", "draws:10" or "merged" names.

        Raises:
            ConfigError: it names none.

        Example:
            >>> Kind.parse("draws:10")
            Kind(name='draws', num_draws=10)
        """
        name, colon, count = text.partition(":")
        if name in ("mean", "merged") and not colon:
            return cls(name)
        if name == "draws" and count.isdecimal() and 1 <= int(count) <= MOST_DRAWS:
            return cls(name, int(count))
        raise ConfigError(f"--as: expected mean, draws:K (K from 1 to {MOST_DRAWS}) or merged; got {text!r}")

    @property
    def folder(self) -> str:
        """What its folder is called where nobody says."""
        return f"{self.name}_{self.num_draws}" if self.num_draws else self.name
