"""Digests: what a node holds, in 13 bytes a row, so that only what is missing must travel.

An entry is the first 8 bytes of the location, 4 that summarise the row, and its kind.
Source: docs/reference/upkeep.md, "Digests"; docs/reference/messages.md.
"""

from collections.abc import Callable
from typing import Final, TypeAlias

from molia.base.limits import DIGEST_ENTRIES_MAX
from molia.dht.contact import ID_BITS
from molia.dht.ports import Shelf
from molia.wire.dht_messages import DIGEST_ENTRY_SIZE

KINDS: Final = (1, 2)
"""Records, provider records: as in entries and on the shelf."""
PREFIX_SIZE: Final = 8
SUMMARY_SIZE: Final = 4
_REST: Final = 32 - PREFIX_SIZE
_REST_BITS: Final = 8 * _REST

Summary: TypeAlias = Callable[[int, bytes], bytes]
"""Gives 4 bytes that differ when two rows of a kind do (kind, row)."""


def entry(kind: int, loc: bytes, row: bytes, summary: Summary) -> bytes:
    """Return the entry of one row."""
    return loc[:PREFIX_SIZE] + summary(kind, row) + bytes((kind,))


def wanted(entries: bytes, shelf: Shelf, *, own_id: int, radius: int, summary: Summary) -> bytes:
    """Return the bitmap of what we lack of a neighbour's entries: a bit each, lowest bit first.

    entries: joined, at most 80. radius: what is twice as far from us is nothing to us.
    """
    count = min(len(entries) // DIGEST_ENTRY_SIZE, DIGEST_ENTRIES_MAX)
    bits = 0
    for place in range(count):
        at = place * DIGEST_ENTRY_SIZE
        one = entries[at : at + DIGEST_ENTRY_SIZE]
        if _is_near(one, own_id, 2 * radius) and _is_news(one, shelf, summary):
            bits |= 1 << place
    return bits.to_bytes((count + 7) // 8, "little")


def wanted_places(bitmap: bytes, count: int) -> list[int]:
    """Return the places, below `count`, whose bit is set."""
    bits = int.from_bytes(bitmap, "little")
    return [place for place in range(count) if bits >> place & 1]


def _is_near(one: bytes, own_id: int, radius: int) -> bool:
    """Tell whether the location may be closer than the radius; its end is not known."""
    prefix = int.from_bytes(one[:PREFIX_SIZE], "big")
    return (prefix ^ own_id >> _REST_BITS) << _REST_BITS < min(radius, 1 << ID_BITS)


def _is_news(one: bytes, shelf: Shelf, summary: Summary) -> bool:
    """Tell whether we hold another row than the entry's, or none."""
    prefix, kind = one[:PREFIX_SIZE], one[-1]
    if kind not in KINDS:
        return False
    for loc in shelf.locations(kind, prefix + bytes(_REST), 1):
        row = shelf.read(kind, loc)
        if loc.startswith(prefix) and row is not None:
            return summary(kind, row) != one[PREFIX_SIZE : PREFIX_SIZE + SUMMARY_SIZE]
    return True
