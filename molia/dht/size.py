"""How many nodes there are, reckoned from how close together they lie.

Only lookups of random targets count: who gathers nodes around one key cannot move the estimate.
Source: docs/reference/lookups.md, "The size of the network".
"""

from collections import deque
from collections.abc import Sequence
from statistics import median
from typing import Final

from molia.base import limits
from molia.dht.contact import ID_BITS

K: Final = 20
"""Nodes that a reply names, and about as many as hold a record."""
REGION_NODES: Final = 24
"""Honest nodes expected in a region: 1.2 K."""
SPACE: Final = 1 << ID_BITS


def nodes_by_distances(distances: Sequence[int], *, are_some: bool = False) -> float:
    """Return how many nodes there are when the closest to a random target are this far from it.

    distances: ascending. Fewer than K are all that there are, unless they are only the closest
    (are_some). The i-th of N nodes is expected at i/(N+1) of the space; least squares over the
    first K give 1/(N+1).
    """
    count = min(K, len(distances))
    if not count or (count < K and not are_some):
        return float(count)
    weighted = sum(i * distance for i, distance in enumerate(distances[:K], 1))
    squares = count * (count + 1) * (2 * count + 1) // 6
    return max(float(count), squares * SPACE / max(1, weighted) - 1)


def radius_for(nodes: float) -> int:
    """Return the distance within which REGION_NODES of so many nodes are expected."""
    return min(SPACE, SPACE * REGION_NODES * 256 // max(256, int(nodes * 256)))


class SizeEstimate:
    """The number of nodes of the network: the median of the last estimates."""

    def __init__(self) -> None:
        self.nodes = 1.0
        """At least 1. Of a guess until the first estimate."""
        self.radius = SPACE
        """Distance from a location within which a record's holders are looked for."""
        self._estimates: deque[float] = deque(maxlen=limits.SIZE_ESTIMATES_MAX)

    @property
    def count(self) -> int:
        """Estimates that the number comes from; 0: it is a guess."""
        return len(self._estimates)

    def with_radius(self, radius: int) -> "SizeEstimate":
        """Return the same estimate for lookups in a region of another radius."""
        other = SizeEstimate()
        other.nodes, other.radius = self.nodes, radius
        return other

    def guess(self, distances: Sequence[int]) -> None:
        """Take the distances of our own neighbours, ascending; ignored after an estimate."""
        if not self._estimates:
            self._set(nodes_by_distances(distances))

    def add(self, distances: Sequence[int], *, are_some: bool = False) -> None:
        """Take the distances, ascending, of the closest nodes to a target drawn at random.

        are_some: there are more, even if these are fewer than K.
        """
        self._estimates.append(nodes_by_distances(distances, are_some=are_some))
        self._set(median(self._estimates))

    def _set(self, nodes: float) -> None:
        self.nodes = max(1.0, nodes)
        self.radius = radius_for(self.nodes)
