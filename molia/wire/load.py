"""How busy the node is with handshakes, and what a handshake therefore costs.

Source: docs/reference/admission.md, "Load" and "Difficulty".
"""

import math
from collections import deque
from typing import Final, Generic, TypeVar

from molia.base.limits import (
    HANDSHAKE_QUEUE_MAX,
    HANDSHAKE_WAIT_S,
    LOADED_QUEUE,
    PUZZLE_BITS_MAX,
)

LOAD_HOLD_S: Final = 1.0
METER_S: Final = 1.0
FIRST_COST_S: Final = 180e-6
_COST_MIN_S, _COST_MAX_S = 20e-6, 10e-3
_COST_WEIGHT: Final = 1 / 64
BASE_BITS: Final = 14
PERIOD_S: Final = 5.0
FALL_S: Final = 60.0

Item = TypeVar("Item")


class LoadMeter:
    """Says whether handshakes take more than their share of a core, held for a second.

    The share is an exponential average over a second, so a flood is seen within a quarter of one.
    """

    __slots__ = ("_at_s", "_busy_s", "_cost_s", "_share", "_until_s")

    def __init__(self, *, share: float) -> None:
        assert 0 < share <= 1, "a share of a core"
        self._share = share
        self._busy_s, self._at_s = 0.0, 0.0
        self._until_s = -math.inf
        self._cost_s = FIRST_COST_S

    @property
    def capacity_per_s(self) -> float:
        """Handshakes a second that fit the share, by what they have cost lately."""
        return self._share / self._cost_s

    def on_handshake(self, now_s: float, *, cost_s: float | None = None) -> None:
        """Take note of one handshake, and of what it cost where that was measured."""
        if cost_s is not None:
            bounded_s = min(max(cost_s, _COST_MIN_S), _COST_MAX_S)
            self._cost_s += (bounded_s - self._cost_s) * _COST_WEIGHT
        gap_s = max(0.0, now_s - self._at_s)
        spent_s = self._cost_s if cost_s is None else max(0.0, cost_s)
        self._busy_s = self._busy_s * math.exp(-gap_s / METER_S) + spent_s
        self._at_s = now_s
        if self._busy_s > self._share * METER_S:
            self._until_s = now_s + LOAD_HOLD_S

    def under_load(self, waiting: int, now_s: float) -> bool:
        """Tell whether the node is under load, with so many handshakes waiting."""
        if waiting >= LOADED_QUEUE:
            self._until_s = now_s + LOAD_HOLD_S
        return now_s < self._until_s


class PuzzleLevel:
    """The bits of the request puzzle: up at once, down one a minute.

    Every 5 s: bits = base + ceil(log2(max(1, offered / capacity))), base 14 under load and 0 else.
    """

    __slots__ = ("_held_s", "_since_s", "bits", "offered")

    def __init__(self) -> None:
        self.bits = 0
        self.offered = 0
        """Handshakes that somebody with a proved address has wanted in this period."""
        self._since_s = -math.inf
        self._held_s = 0.0

    def update(self, now_s: float, *, under_load: bool, capacity_per_s: float) -> int:
        """Return the bits that hold now; call it as often as they matter."""
        base = BASE_BITS if under_load else 0
        if base > self.bits:
            self._rise(base, now_s)
        elapsed_s = now_s - self._since_s
        if elapsed_s < PERIOD_S:
            return self.bits
        excess = max(1.0, self.offered / elapsed_s / capacity_per_s)
        self.offered, self._since_s = 0, now_s
        target = min(PUZZLE_BITS_MAX, base + math.ceil(math.log2(excess)))
        if target >= self.bits:
            self._rise(target, now_s)
        else:
            steps = int((now_s - self._held_s) / FALL_S)
            self.bits = max(target, self.bits - steps)
            self._held_s += steps * FALL_S
        return self.bits

    def _rise(self, bits: int, now_s: float) -> None:
        self.bits, self._held_s = bits, now_s


class HandshakeQueue(Generic[Item]):
    """Admitted initiations that wait: most effort first, oldest first among equals.

    A full queue refuses what offers no more than its cheapest, and else drops the newest of those.
    """

    __slots__ = ("_count", "_levels", "_mask", "dropped", "expired")

    def __init__(self) -> None:
        self._levels: list[deque[tuple[float, Item]]] = [
            deque() for _ in range(PUZZLE_BITS_MAX + 1)
        ]
        self._mask = 0
        self._count = 0
        self.dropped = self.expired = 0

    def __len__(self) -> int:
        return self._count

    def push(self, item: Item, *, effort: int, now_s: float) -> bool:
        """Let the item wait; False when there is no room for so little effort."""
        if self._count >= HANDSHAKE_QUEUE_MAX:
            cheapest = (self._mask & -self._mask).bit_length() - 1
            self.dropped += 1
            if effort <= cheapest:
                return False
            self._levels[cheapest].pop()
            self._shrunk(cheapest)
        self._levels[effort].append((now_s, item))
        self._mask |= 1 << effort
        self._count += 1
        return True

    def pop(self, now_s: float) -> Item | None:
        """Return the next to be served; None when nobody waits. Who waited too long is dropped."""
        while self._mask:
            dearest = self._mask.bit_length() - 1
            since_s, item = self._levels[dearest].popleft()
            self._shrunk(dearest)
            if now_s - since_s <= HANDSHAKE_WAIT_S:
                return item
            self.expired += 1
        return None

    def _shrunk(self, effort: int) -> None:
        self._count -= 1
        if not self._levels[effort]:
            self._mask &= ~(1 << effort)
