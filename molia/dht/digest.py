"""Digests: what of a neighbour's we lack, by the 13 bytes a row that it told us.

Source: docs/reference/upkeep.md, "Digests"; docs/reference/messages.md.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from typing import Final, TypeAlias

from molia.base.limits import DIGEST_PAGE, DIGEST_PAGES_MAX
from molia.dht.contact import ID_BITS
from molia.dht.held import PROVIDERS, RECORD, Summary
from molia.dht.ports import Shelf

KINDS: Final = (RECORD, PROVIDERS)
_HEAD_SIZE: Final = 8
_REST: Final = ID_BITS // 8 - _HEAD_SIZE

SummaryOf: TypeAlias = Callable[[int, bytes], bytes | None]
"""Gives 4 bytes that differ when two rows of a kind do (kind, row); None of what has expired:
`held.summary_of` at a moment."""


def entry(kind: int, loc: bytes, row: bytes, summary_of: SummaryOf) -> Summary | None:
    """Return what a digest says of a row; None when nothing of it is valid."""
    summary = summary_of(kind, row)
    return None if summary is None else Summary(loc[:_HEAD_SIZE], summary, kind)


def is_wanted(
    offered: Summary, shelf: Shelf, *, own_id: int, radius: int, summary_of: SummaryOf
) -> bool:
    """Tell whether we lack an entry of a neighbour's digest.

    radius: of a region; what is twice as far from us is nothing to us.
    """
    if offered.kind not in KINDS or not _is_near(offered.loc_head, own_id, 2 * radius):
        return False
    for loc in shelf.locations(offered.kind, offered.loc_head + bytes(_REST), 1):
        row = shelf.read(offered.kind, loc)
        if loc.startswith(offered.loc_head) and row is not None:
            return summary_of(offered.kind, row) != offered.summary
    return True


def _is_near(head: bytes, own_id: int, radius: int) -> bool:
    """Tell whether the location may be closer than the radius; its end is not known."""
    distance = int.from_bytes(head, "big") ^ own_id >> 8 * _REST
    return distance << 8 * _REST < min(radius, 1 << ID_BITS)


class Ahead:
    """The rows of a shelf as one digest asks for them: in order, so that a page serves many.

    Looking for each location by itself costs a search of all shards; a digest has 80.
    """

    def __init__(self, shelf: Shelf) -> None:
        self._shelf = shelf
        self._pages: dict[int, tuple[bytes, list[bytes]]] = {}
        """By kind: where the last page starts, and its locations."""
        self.pages_read = 0

    @property
    def is_spent(self) -> bool:
        """Whether it was asked for more pages than a digest in order needs: it knows no more."""
        return self.pages_read > DIGEST_PAGES_MAX

    def read(self, kind: int, loc: bytes) -> bytes | None:
        """See `Shelf.read`."""
        return self._shelf.read(kind, loc)

    def locations(self, kind: int, start: bytes, limit: int) -> Iterable[bytes]:
        """Return as `Shelf.locations` up to `limit`, or fewer; none once it is spent."""
        first, page = self._pages.get(kind, (b"", []))
        is_last = bool(first) and len(page) < DIGEST_PAGE
        if not first or start < first or not (is_last or (page and start <= page[-1])):
            self.pages_read += 1
            if self.is_spent:
                return []
            page = list(self._shelf.locations(kind, start, DIGEST_PAGE))
            self._pages[kind] = start, page
        at = bisect_left(page, start)
        return page[at : at + limit]
