"""Where nodes live: operators of very different sizes, their /24s, and a spot on the map.

The five largest operators hold half of the nodes, as Zipf's law with the exponent that gives this
says. No address is local, none is given twice.
Source: docs/reference/simulator.md, "Addresses".
"""

import itertools
import math
import random
from bisect import bisect_left
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from molia.wire.addresses import Address

OPERATORS: Final = 400
TOP: Final = 5
TOP_SHARE: Final = 0.5
PORT: Final = 7_071
_NODES_PER_24: Final = 1.5
"""Nodes that share a /24 with others are the exception, as among today's DHT servers."""
_FIRST_OCTETS: Final = tuple(
    octet for octet in range(5, 220) if octet not in (10, 100, 127, 169, 172, 192, 198, 203)
)
_CONTINENTS: Final = ((0.0, 0.0, 0.36), (1.0, 0.25, 0.34), (1.9, 0.1, 0.2), (0.35, -0.8, 0.1))
"""x, y and share of the places that nodes gather around."""
_SPREAD: Final = 0.16


def zipf_exponent(count: int, *, top: int, share: float) -> float:
    """Return the exponent for which the first `top` of `count` weights hold `share` of all."""
    low, high = 0.0, 4.0
    for _ in range(60):
        middle = (low + high) / 2
        weights = zipf_weights(count, middle)
        low, high = (middle, high) if sum(weights[:top]) < share else (low, middle)
    return low


def zipf_weights(count: int, exponent: float) -> list[float]:
    """Return weights that fall as rank to the minus `exponent`; they sum to 1."""
    raw = [rank**-exponent for rank in range(1, count + 1)]
    total = math.fsum(raw)
    return [weight / total for weight in raw]


class Picker:
    """Draws ranks by their weights."""

    def __init__(self, weights: Sequence[float]) -> None:
        self._upto = list(itertools.accumulate(weights))

    def draw(self, rng: random.Random) -> int:
        """Return a rank; the first is 0."""
        return bisect_left(self._upto, rng.random() * self._upto[-1])


class Spot(NamedTuple):
    """A place in the plane of delays, and the height of the last mile above it."""

    x: float
    y: float
    height: float


class Places:
    """Gives out addresses and spots, always the same for a seed.

    expected: about how many nodes there will be; it sets how many /24s there are.
    """

    def __init__(self, rng: random.Random, *, expected: int) -> None:
        self._rng = rng
        exponent = zipf_exponent(OPERATORS, top=TOP, share=TOP_SHARE)
        weights = zipf_weights(OPERATORS, exponent)
        self._operators = Picker(weights)
        self._pools = [max(1, math.ceil(expected * weight / _NODES_PER_24)) for weight in weights]
        blocks = (math.ceil(pool / 256) for pool in self._pools)
        self._first_blocks = list(itertools.accumulate(blocks, initial=0))
        """Of each operator: its first /16, of all /16s in a row."""
        self._spots = Picker([share for _, _, share in _CONTINENTS])
        self._used: set[str] = set()
        self.per_24: Counter[str] = Counter()
        """How many nodes were given an address in each /24."""
        self.per_operator: Counter[int] = Counter()

    def address(self) -> Address:
        """Return a public address that nobody has."""
        while True:
            operator = self._operators.draw(self._rng)
            host = self.host_in(self.prefix(operator, self._rng.randrange(self._pools[operator])))
            if host is not None:
                self.per_operator[operator] += 1
                return host, PORT

    def prefix(self, operator: int, number: int) -> str:
        """Return an operator's /24, as the first three bytes of its hosts are written."""
        block, rank = divmod(number, 256)
        second, first = divmod(self._first_blocks[operator] + block, len(_FIRST_OCTETS))
        return f"{_FIRST_OCTETS[first]}.{second * 37 % 256}.{rank * 77 % 256}"

    def host_in(self, prefix: str) -> str | None:
        """Return a free host of a /24; None when it is full."""
        if self.per_24[prefix] >= 250:
            return None
        while True:
            host = f"{prefix}.{self._rng.randrange(2, 254)}"
            if host not in self._used:
                self._used.add(host)
                self.per_24[prefix] += 1
                return host

    def fresh_prefix(self, index: int) -> str:
        """Return a /24 of nobody else, for those who own many: 2^16 of them."""
        return f"{221 + index // 65_536 % 2}.{index // 256 % 256}.{index % 256}"

    def spot(self) -> Spot:
        """Return a place for a node."""
        x, y, _ = _CONTINENTS[self._spots.draw(self._rng)]
        gauss = self._rng.gauss
        height = self._rng.lognormvariate(math.log(0.07), 1.0)
        return Spot(x + gauss(0, _SPREAD), y + gauss(0, _SPREAD), height)

    @property
    def top_share(self) -> float:
        """Return which share of all nodes the five largest operators have."""
        total = sum(self.per_operator.values())
        largest = self.per_operator.most_common(TOP)
        return sum(count for _, count in largest) / total if total else 0.0
