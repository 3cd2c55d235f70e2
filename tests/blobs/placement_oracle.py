"""The slow and obvious answers about placement."""

from collections.abc import Iterator, Sequence
from itertools import combinations, product


def losses_survived(holdings: Sequence[Sequence[int]], needed: int = 10) -> int:
    """Try every set of nodes that may vanish."""
    nodes = range(len(holdings))
    for lost in range(len(holdings) + 1):
        for gone in combinations(nodes, lost):
            left = {share for node in nodes if node not in gone for share in holdings[node]}
            if len(left) < needed:
                return lost - 1
    raise AssertionError("without nodes nothing is left")


def even_layouts(capacities: Sequence[int], count: int) -> Iterator[tuple[int, ...]]:
    """Yield the layouts, a node for each share, that are the most even ones."""
    every = product(range(len(capacities)), repeat=count)
    fitting = [
        at for at in every if all(at.count(node) <= most for node, most in enumerate(capacities))
    ]
    best = min((profile(at, len(capacities)) for at in fitting), default=None)
    yield from (at for at in fitting if profile(at, len(capacities)) == best)


def loads(layout: Sequence[int], nodes: int) -> list[int]:
    """How many shares each node has."""
    return [layout.count(node) for node in range(nodes)]


def profile(layout: Sequence[int], nodes: int) -> tuple[int, int]:
    """The highest load, and how many nodes have it."""
    found = loads(layout, nodes)
    return max(found), found.count(max(found))
