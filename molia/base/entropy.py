"""Randomness as an argument: a core is given an `Entropy` at birth and draws from nothing else.

`node.system.SystemEntropy` is the real one; `sim.entropy.SeededEntropy` replays a seed.
"""

from typing import Protocol


class Entropy(Protocol):
    """A source of random bytes."""

    def token(self, size: int) -> bytes:
        """Return `size` bytes that nobody could have guessed."""
        ...
