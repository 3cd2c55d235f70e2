"""What a node outside the region learns of a target: which region, and no more.

Source: docs/reference/lookups.md, "What is asked of whom".
"""

from math import ceil, log2
from typing import Final

from molia.base.entropy import Entropy
from molia.dht.contact import ID_BITS
from molia.dht.size import K

_EXTRA_BITS: Final = 2
"""The blurred target lies within a quarter of K/N of the real one: well inside the region."""


def real_bits(nodes: float) -> int:
    """Return how many leading bits of a target are told in a network of so many nodes."""
    return min(ID_BITS, ceil(log2(max(1.0, nodes / K))) + _EXTRA_BITS)


def region_bits(radius: int) -> int:
    """Return how many leading bits all of a region shares."""
    return ID_BITS - (radius - 1).bit_length()


def blurred(target: int, *, bits: int, entropy: Entropy) -> int:
    """Return a random target that shares so many leading bits with `target`."""
    low = (1 << ID_BITS - bits) - 1
    return target & ~low | int.from_bytes(entropy.token(ID_BITS // 8), "big") & low
