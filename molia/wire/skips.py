"""Packet numbers left out, to catch who acknowledges what it never saw (RFC 9000 21.4)."""

from collections.abc import Sequence
from typing import Final

from molia.base.entropy import Entropy
from molia.base.limits import SKIPS_MAX
from molia.wire.intervals import Intervals
from molia.wire.stream_frames import NUMBER_STOP

SKIP_MIN: Final = 128
"""Packets between two numbers left out; up to 255 more are added at random."""


class Skips:
    """Decides which numbers are left out, and remembers them."""

    __slots__ = ("_entropy", "_next", "_skipped", "lowest")

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy
        self._skipped = Intervals()
        self._next = self._draw(0)
        self.lowest = NUMBER_STOP
        """The lowest number left out that is remembered."""

    def _draw(self, number: int) -> int:
        return number + SKIP_MIN + self._entropy.token(1)[0]

    def next_number(self, number: int) -> int:
        """Return `number`, or now and then the one after it."""
        if number < self._next:
            return number
        self._skipped.add(number, number + 1)
        if len(self._skipped) > SKIPS_MAX:
            self._skipped.drop_lowest()
        self.lowest = next(iter(self._skipped))[0]
        self._next = self._draw(number)
        return number + 1

    def caught(self, runs: Sequence[tuple[int, int]]) -> bool:
        """Tell whether runs of acknowledged numbers, highest first, hold one that was left out."""
        for first, stop in runs:
            if stop <= self.lowest:
                return False
            if next(self._skipped.overlaps(first, stop), None) is not None:
                return True
        return False
