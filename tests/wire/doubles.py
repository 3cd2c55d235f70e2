"""What the tests of the wire share: entropy from a seed, and instants."""

import random

from molia.base.now import Now

UNIX_S = 1_700_000_000.0


class Seeded:
    """An Entropy that replays a seed."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def token(self, size: int) -> bytes:
        """The next bytes of the seed."""
        return self._random.randbytes(size)


def at(mono_s: float) -> Now:
    """Return an instant of a world whose monotonic clock started at UNIX_S."""
    return Now(mono_s, UNIX_S + mono_s)
