"""The hand that goes round a shard's index and takes out what has expired.

Every minute it passes over a part of the blocks, records and provider records, so that it has seen
all of them within `sweep_s`. An expired key leaves the index without a frame in the log: its own
expiry hides it when the index is built anew. Its value is then punched like any other dead one.
"""

from typing import Final

from molia.base.limits import EXPIRY_SLICE_KEYS
from molia.base.now import Now
from molia.store.clock import ClockGuard
from molia.store.index import ENTRY, TOMBSTONE, Dead, Entry, Index, SegmentRow, Slice
from molia.store.keys import Kind
from molia.store.memtable import Memtable
from molia.store.ops import Counters

SWEPT_KINDS: Final = (Kind.BLOCK, Kind.RECORD, Kind.PROVIDER)
"""META rows have no expiry of their own: who wrote them removes them."""
TURN_S: Final = 60.0
_MARK: Final = b"hand"
_KIND_OF: Final = {int(kind): kind for kind in SWEPT_KINDS}


class Hand:
    """Takes expired keys out of the index, a slice a step.

    sweep_s: how long one round over all keys may take; 0 for never. Where it stands is kept in the
    index with each removal.
    """

    def __init__(
        self, *, index: Index, memtable: Memtable, rows: dict[int, SegmentRow],
        counters: Counters, clock: ClockGuard, sweep_s: float, now: Now,
    ) -> None:  # fmt: skip
        self._index, self._memtable, self._rows = index, memtable, rows
        self._counters, self._clock, self._sweep_s = counters, clock, sweep_s
        self._kind, self._after = _parse_mark(index.mark(_MARK))
        self._turn_s = now.mono_s + min(TURN_S, sweep_s)
        self._left = 0
        """Keys that are still to be looked at in this turn."""
        self.rounds = 0

    def due_s(self) -> float | None:
        """Return when `step` is to be called; None for never."""
        return self._turn_s if self._sweep_s else None

    def step(self, now: Now) -> list[Dead]:
        """Look at some keys and remove the expired ones; return the values that died.

        Nothing before it is due, or while the clock is in doubt. Raises IndexFull, IndexFailed.
        """
        if not self._sweep_s or now.mono_s < self._turn_s:
            return []
        if self._clock.doubt(now):
            self._counters.expiry_waits += 1
            self._end_turn(now)
            return []
        if self._left <= 0:
            turns = max(1.0, self._sweep_s / TURN_S)
            self._left = max(EXPIRY_SLICE_KEYS, int(self._index.key_count() / turns) + 1)
        return self._look(now)

    def _look(self, now: Now) -> list[Dead]:
        with self._index.read() as snapshot:
            expired, seen, last = snapshot.expired(
                self._kind, self._after, EXPIRY_SLICE_KEYS, int(now.unix_s)
            )
        kind, after = (self._kind, last) if last is not None else (self._next_kind(), b"")
        # what the memtable knows better is the next checkpoint's affair
        gone = [item for item in expired if self._memtable.get(item[0]) is None]
        dead: list[Dead] = []
        if gone:
            work = Slice([(tagged, _tombstone(packed)) for tagged, packed in gone], self._rows)
            work.marks = {_MARK: bytes((kind,)) + after}
            dead = self._index.write_slice(work)
            self._counters.index_commits += 1
            self._counters.expired_keys += len(gone)
            self._counters.expired_bytes += sum(Entry.unpack(packed).vlen for _, packed in gone)
        self._left -= max(1, seen)
        if last is None and kind == SWEPT_KINDS[0]:
            self.rounds += 1
            self._left = 0  # a small shard is seen once a turn, not over and over
        self._kind, self._after = kind, after
        if self._left <= 0:
            self._end_turn(now)
        return dead

    def _next_kind(self) -> Kind:
        return SWEPT_KINDS[(SWEPT_KINDS.index(self._kind) + 1) % len(SWEPT_KINDS)]

    def _end_turn(self, now: Now) -> None:
        self._left = 0
        self._turn_s = now.mono_s + min(TURN_S, self._sweep_s)


def _tombstone(packed: bytes) -> bytes:
    """Return the entry at the same place that says `deleted`."""
    return ENTRY.pack(*Entry.unpack(packed)[:4], TOMBSTONE)


def _parse_mark(data: bytes) -> tuple[Kind, bytes]:
    """Return where the hand stood; at the start when that is not known."""
    kind = _KIND_OF.get(data[0]) if data else None
    return (kind, data[1:]) if kind is not None else (SWEPT_KINDS[0], b"")
