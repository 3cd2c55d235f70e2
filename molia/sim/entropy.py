"""Randomness that a seed replays; `base.entropy.Entropy` for cores under test."""

import random


class SeededEntropy:
    """An `Entropy` whose every byte follows from its seed, with the generator itself beside it."""

    def __init__(self, seed: int | str) -> None:
        self.random = random.Random(seed)
        """The same stream, for choices that are not bytes."""

    def token(self, size: int) -> bytes:
        """Return the next `size` bytes of the stream."""
        return self.random.randbytes(size)
