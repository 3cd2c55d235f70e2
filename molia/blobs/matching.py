"""As many shares as possible stay where they lie: a largest flow from shares to their holders.

No node may get more than its even part: `Level` says how much that is when some have little room.
Source: docs/reference/placement.md, "Matching"; L. R. Ford and D. R. Fulkerson, "Maximal flow
through a network", 1956.
"""

from collections.abc import Collection, Sequence
from typing import NamedTuple


class Level(NamedTuple):
    """What each node may hold: its base, and one more for `spare` of those that may."""

    bases: tuple[int, ...]
    may_exceed: tuple[bool, ...]
    spare: int

    @classmethod
    def of(cls, capacities: Sequence[int], count: int) -> "Level":
        """Return the most even way to lay `count` shares on nodes of these capacities.

        The highest load is the least possible, and no more nodes have it than must. With too
        little room for all every node is full.
        """
        top = next((c for c in range(count + 1) if sum(_cut(capacities, c)) >= count), None)
        if top is None:
            return cls(tuple(_cut(capacities, count)), tuple(False for _ in capacities), 0)
        bases = _cut(capacities, max(top - 1, 0))
        return cls(tuple(bases), tuple(c >= top > 0 for c in capacities), count - sum(bases))

    def has_room(self, loads: Sequence[int], index: int) -> bool:
        """Tell whether node `index` may get one more when nodes hold `loads`.

        Before a node goes beyond its base, all others are filled to theirs: see `_fill`'s order.
        """
        if loads[index] < self.bases[index]:
            return True
        exceeding = sum(1 for load, base in zip(loads, self.bases, strict=True) if load > base)
        within = loads[index] == self.bases[index] and self.may_exceed[index]
        return within and exceeding < self.spare


def _cut(capacities: Sequence[int], at: int) -> list[int]:
    return [min(capacity, at) for capacity in capacities]


def keep_most(
    held: Sequence[Collection[int]], shares: Sequence[int], level: Level
) -> dict[int, int]:
    """Return for as many shares as possible one of their holders, by index, within the level.

    held: the shares of each node. Shares that nobody holds, or that must move, are left out.
    """
    flow = _Flow()
    for share in shares:
        holders = [index for index, mine in enumerate(held) if share in mine]
        if holders:
            flow.add(_SOURCE, ("share", share), 1)
        for index in holders:
            flow.add(("share", share), ("node", index), 1)
    for index, base in enumerate(level.bases):
        flow.add(("node", index), _SINK, base)
        flow.add(("node", index), _SPARE, int(level.may_exceed[index]))
    flow.add(_SPARE, _SINK, level.spare)
    while flow.augment():
        pass
    return {
        share: index
        for share in shares
        for index in range(len(held))
        if flow.runs(("share", share), ("node", index))
    }


_Point = tuple[str, int]
_SOURCE, _SINK, _SPARE = ("source", 0), ("sink", 0), ("spare", 0)


class _Flow:
    """A flow of whole units, made larger path by path."""

    def __init__(self) -> None:
        self._left: dict[_Point, dict[_Point, int]] = {}
        self._edges: dict[tuple[_Point, _Point], int] = {}

    def add(self, start: _Point, end: _Point, capacity: int) -> None:
        """Add an edge."""
        self._edges[start, end] = capacity
        self._left.setdefault(start, {})[end] = capacity
        self._left.setdefault(end, {}).setdefault(start, 0)

    def runs(self, start: _Point, end: _Point) -> bool:
        """Tell whether anything flows along an edge."""
        capacity = self._edges.get((start, end), 0)
        return capacity > 0 and self._left[start][end] < capacity

    def augment(self) -> bool:
        """Let one more unit through; False when no more goes."""
        before: dict[_Point, _Point] = {_SOURCE: _SOURCE}
        queue = [_SOURCE]
        for point in queue:  # grows while it is walked: breadth first
            for neighbour, left in self._left.get(point, {}).items():
                if left > 0 and neighbour not in before:
                    before[neighbour] = point
                    queue.append(neighbour)
        if _SINK not in before:
            return False
        point = _SINK
        while point != _SOURCE:
            previous = before[point]
            self._left[previous][point] -= 1
            self._left[point][previous] += 1
            point = previous
        return True
