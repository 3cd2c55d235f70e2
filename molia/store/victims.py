"""Which segments are worth being rewritten: those with most garbage, many small ones, the oldest.

Garbage is what a segment takes on the disk beyond what the index leads to, less what is known to be
needed still: DELETE frames that hide older ones, and the footer.
"""

from collections.abc import Iterable
from typing import Final

from molia.base.limits import COMPACT_VICTIMS_MAX
from molia.store.index import SEALED, SegmentRow
from molia.store.segment import HEADER_SIZE

SMALL_SHARE: Final = 4
"""A segment of less than one 4th of the full size is small."""
SMALL_COUNT: Final = 4
"""So many small segments are made one."""
Rows = dict[int, SegmentRow]


def size_of(row: SegmentRow) -> int:
    """Return the disk bytes of a segment."""
    return max(0, row.bytes - row.punched_bytes)


def garbage_of(row: SegmentRow, hidden_bytes: int = 0) -> int:
    """Return the bytes that rewriting a segment would give back."""
    overhead = min(row.bytes, HEADER_SIZE)
    return max(0, size_of(row) - overhead - row.live_bytes - hidden_bytes)


def share_of(rows: Rows, hidden: dict[int, int]) -> float:
    """Return the share of garbage in what segments take."""
    total = sum(size_of(row) - HEADER_SIZE for row in rows.values())
    garbage = sum(garbage_of(row, hidden.get(sid, 0)) for sid, row in rows.items())
    return garbage / max(1, total)


def choose(
    rows: Rows, *, hidden: dict[int, int], below: int, segment_bytes: int, room: int, share: float
) -> tuple[Rows, bool]:
    """Return the segments to be rewritten into one, none when nothing is worth it.

    And whether it is their garbage that makes it so.

    hidden: the bytes of needed DELETE frames, of segments where they are known. below: only
    segments under this one. room: the bytes that the output may have. share: of garbage.
    """
    sealed = {sid: row for sid, row in rows.items() if sid < below and row.state == SEALED}
    worth = {sid: share_of({sid: row}, hidden) for sid, row in sealed.items()}
    rotten = [sid for sid, garbage in worth.items() if garbage >= share and garbage > 0]
    best = sorted(rotten, key=lambda sid: (-worth[sid], sid))
    chosen = _fill(sealed, best, hidden, min(room, segment_bytes))
    if chosen:
        return chosen, True
    small = [sid for sid, row in sealed.items() if size_of(row) * SMALL_SHARE < segment_bytes]
    if len(small) >= SMALL_COUNT:
        gathered = _fill(sealed, sorted(small), hidden, min(room, segment_bytes))
        if len(gathered) >= SMALL_COUNT:
            return gathered, False
    return _oldest(sealed, hidden, segment_bytes, room), False


def _fill(sealed: Rows, wanted: Iterable[int], hidden: dict[int, int], room: int) -> Rows:
    """Return of the wanted segments, in order, as many as fit into `room` once rewritten."""
    chosen: Rows = {}
    for sid in wanted:
        row = sealed[sid]
        kept = row.live_bytes + hidden.get(sid, 0)
        if kept <= room and len(chosen) < COMPACT_VICTIMS_MAX:
            chosen[sid] = row
            room -= kept
    return chosen


def _oldest(sealed: Rows, hidden: dict[int, int], segment_bytes: int, room: int) -> Rows:
    """Return the segment that most DELETE frames are kept for, once they take much room.

    What is copied is known to be alive: the DELETE frames until then need hide nothing in it.
    """
    limit = max(segment_bytes // 2, sum(row.live_bytes for row in sealed.values()) // 10)
    if sum(hidden.get(sid, 0) for sid in sealed) <= limit:
        return {}
    oldest = min(sealed, key=lambda sid: (sealed[sid].min_lsn, sid))
    return {oldest: sealed[oldest]} if sealed[oldest].live_bytes <= room else {}
