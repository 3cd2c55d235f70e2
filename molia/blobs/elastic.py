"""How much parity, or how many copies, the holders' measured availability asks for.

10 of 14 is enough for steady nodes. Where holders come and go, parity 14 and up is added to the
same blob under the same CID; a `Supplement` lists its roots. Nobody signs one: who has the blob
computes the roots anew. Parity is only added: what a good week makes superfluous a bad one needs.
Source: docs/reference/placement.md, "Elastic parity".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from typing import Final

from molia.base.cid import Cid, Codec
from molia.base.hashing import DIGEST_SIZE
from molia.base.limits import COPIES_MAX, COPIES_MIN, DATA_SHARES, SHARES_MAX, TOTAL_SHARES

TARGET: Final = 0.9999
"""How often a blob shall be readable at any moment."""
WATCHES_MIN: Final = 100
"""Times that holders were asked before their availability is worth something."""
READS_PER_COPY: Final = 1_000
"""Reads a day that one copy of a small blob is good for."""
_LABEL: Final = b"molia/supplement/1"
_VERSION: Final = 1
_HEAD_SIZE: Final = len(_LABEL) + 1 + DIGEST_SIZE + 1


def readable(availability: float, shares: int, *, needed: int = DATA_SHARES) -> float:
    """Return how likely at least `needed` of the shares, each on its own node, can be reached."""
    p, q = availability, 1.0 - availability
    return sum(comb(shares, up) * p**up * q ** (shares - up) for up in range(needed, shares + 1))


def shares_wanted(*, reached: int, asked: int, present: int) -> int:
    """Return how many shares a blob shall have: `present`, or as many more as it takes.

    reached, asked: how often its holders answered, of how many times. Up to `SHARES_MAX`: where
    that is not enough, more does not help.
    """
    assert 0 <= reached <= asked, "nobody answers unasked"
    least = max(present, TOTAL_SHARES)
    if asked < WATCHES_MIN:
        return least
    for count in range(least, SHARES_MAX):
        if readable(reached / asked, count) >= TARGET:
            return count
    return SHARES_MAX


def copies_wanted(*, reached: int, asked: int, reads_a_day: float) -> int:
    """Return on how many nodes a small blob shall be kept: 5 to 20."""
    assert 0 <= reached <= asked, "nobody answers unasked"
    popular = COPIES_MIN + int(reads_a_day / READS_PER_COPY)
    least = min(popular, COPIES_MAX)
    if asked < WATCHES_MIN:
        return least
    for count in range(least, COPIES_MAX):
        if readable(reached / asked, count, needed=1) >= TARGET:
            return count
    return COPIES_MAX


@dataclass(frozen=True, slots=True)
class Supplement:
    """The roots of parity shares 14 and up of a blob."""

    cid: Cid
    roots: tuple[bytes, ...]
    """Of share 14, 15 and so on, without a gap."""

    def __post_init__(self) -> None:
        assert self.cid.codec is Codec.MANIFEST, "a small blob has no shares"
        assert 1 <= len(self.roots) <= SHARES_MAX - TOTAL_SHARES, "a supplement adds some shares"
        assert all(len(root) == DIGEST_SIZE for root in self.roots), "a root is a digest"

    @property
    def shares(self) -> range:
        """The shares that it describes."""
        return range(TOTAL_SHARES, TOTAL_SHARES + len(self.roots))

    def encode(self) -> bytes:
        """Return the supplement's one encoding."""
        head = _LABEL + bytes([_VERSION]) + self.cid.digest + bytes([len(self.roots)])
        return head + b"".join(self.roots)

    @classmethod
    def decode(cls, data: bytes) -> "Supplement | None":
        """Return the supplement in bytes of a stranger; None when it is none of this version."""
        if len(data) < _HEAD_SIZE or not data.startswith(_LABEL + bytes([_VERSION])):
            return None
        count = data[_HEAD_SIZE - 1]
        if not 1 <= count <= SHARES_MAX - TOTAL_SHARES:
            return None
        if len(data) != _HEAD_SIZE + count * DIGEST_SIZE:
            return None
        digest = data[_HEAD_SIZE - 1 - DIGEST_SIZE : _HEAD_SIZE - 1]
        starts = range(_HEAD_SIZE, len(data), DIGEST_SIZE)
        roots = tuple(data[at : at + DIGEST_SIZE] for at in starts)
        return cls(Cid(Codec.MANIFEST, digest), roots)

    def agrees(self, computed: Sequence[bytes]) -> bool:
        """Tell whether roots that were computed from the blob, from share 14 on, are its own."""
        return len(computed) <= len(self.roots) and self.roots[: len(computed)] == tuple(computed)

    def fits(self, other: "Supplement") -> bool:
        """Tell whether both say the same of the shares that both list."""
        return all(ours == theirs for ours, theirs in zip(self.roots, other.roots, strict=False))
