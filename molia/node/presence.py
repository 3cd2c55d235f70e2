"""Which nodes answer, and how long they were away: asked for all blobs that a node has a part in.

Whether a holder is there is asked once for all blobs: a node that holds 100,000 shares asks those
who hold the others of them as often as if it held one.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Final

from molia.base import limits
from molia.base.errors import MoliaError

TRIES: Final = 2
"""Requests without an answer after which a node that was there counts as away."""
COUNT_MAX: Final = 1_024
"""Answers and silences of a node that are counted before half of them are forgotten."""
Ask = Callable[[], Awaitable[object]]


@dataclass(slots=True)
class _Node:
    asked_s: float = float("-inf")
    is_here: bool = False
    away_since_s: float | None = None
    longest_absence_s: float = 0.0
    reached: int = 0
    asked: int = 0
    """How often it answered, of how many times: the last some hundred."""
    asking: "asyncio.Future[bool] | None" = None


class Presences:
    """What one worker knows of who answers."""

    def __init__(self, now_s: Callable[[], float], *, fresh_s: float) -> None:
        """fresh_s: how long an answer, or none, stands for what would be heard now."""
        self._now_s, self._fresh_s = now_s, fresh_s
        self._nodes: OrderedDict[bytes, _Node] = OrderedDict()
        self.reached = self.asked = 0
        """How often nodes answered, of how many times."""

    def heard(self, key: bytes) -> bool | None:
        """Tell whether a node answers as far as that was asked lately; None: `is_here` asks."""
        node = self._nodes.get(key)
        if node is None or node.asking is not None or self._now_s() - node.asked_s >= self._fresh_s:
            return None
        self._nodes.move_to_end(key)
        return node.is_here

    async def is_here(self, key: bytes, ask: Ask, *, anew: bool = False) -> bool:
        """Tell whether a node answers. ask: sends it a request. anew: whatever was heard."""
        node = self._nodes.setdefault(key, _Node())
        self._nodes.move_to_end(key)
        while len(self._nodes) > limits.PRESENCES_MAX:
            self._nodes.popitem(last=False)
        if node.asking is not None:
            return await asyncio.shield(node.asking)
        if not anew and self._now_s() - node.asked_s < self._fresh_s:
            return node.is_here
        node.asking = asyncio.ensure_future(self._ask(node, ask))
        try:
            return await asyncio.shield(node.asking)
        finally:
            node.asking = None

    def is_away(self, key: bytes) -> bool:
        """Tell whether a node did not answer when it was asked last."""
        node = self._nodes.get(key)
        return node is not None and node.away_since_s is not None

    def longest_absence_s(self, key: bytes) -> float:
        """Return the longest that a node was away and came back from."""
        node = self._nodes.get(key)
        return 0.0 if node is None else node.longest_absence_s

    def counts(self, keys: Iterable[bytes]) -> tuple[int, int]:
        """Return how often those of these nodes that are here answered, of how many times.

        One that is away now may be gone for good: that is a matter of repair.
        """
        named = [node for key in keys if (node := self._nodes.get(key)) is not None]
        known = [node for node in named if node.away_since_s is None]
        return sum(node.reached for node in known), sum(node.asked for node in known)

    async def _ask(self, node: _Node, ask: Ask) -> bool:
        tries = TRIES if node.away_since_s is None else 1
        is_here = False
        for _ in range(tries):
            try:
                await ask()
                is_here = True
                break
            except MoliaError:
                continue
        now_s = self._now_s()
        self.asked, self.reached = self.asked + 1, self.reached + is_here
        node.asked, node.reached = node.asked + 1, node.reached + is_here
        if node.asked >= COUNT_MAX:  # what was long ago counts for less and less
            node.asked, node.reached = node.asked // 2, node.reached // 2
        node.asked_s, node.is_here = now_s, is_here
        if not is_here:
            node.away_since_s = now_s if node.away_since_s is None else node.away_since_s
        elif node.away_since_s is not None:
            away_s = now_s - node.away_since_s
            node.longest_absence_s = max(node.longest_absence_s, away_s)
            node.away_since_s = None
        return is_here
