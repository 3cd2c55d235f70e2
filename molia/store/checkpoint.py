"""Bringing the keys of the memtable into the index, in slices between the batches.

Each slice is one index transaction; what the index knows ahead of its position is harmless, since
replaying the log gives it again. The position moves with the last slice.
"""

from collections.abc import Iterator

from molia.store.delta import Delta
from molia.store.index import Dead, Index, Position, SegmentRow, Slice, mark_rows
from molia.store.lmdb_env import IndexFull
from molia.store.memtable import Memtable, in_slices
from molia.store.ops import Counters


class Checkpoint:
    """One checkpoint under way; `step` until it says that it is done.

    position: where the log ends now. since: the position of the checkpoint before. delta: what
    other processes see, flipped already. retire: segments that nothing leads to but the index.
    unlisted: segments whose rows are to be written wherever they lie.
    """

    def __init__(
        self, *, index: Index, memtable: Memtable, rows: dict[int, SegmentRow],
        position: Position, since: Position, slice_keys: int, epoch: int, max_seen_unix_s: int,
        counters: Counters, delta: Delta | None = None, retire: set[int] | None = None,
        unlisted: set[int] | None = None,
    ) -> None:  # fmt: skip
        self._index, self._memtable, self._rows, self._delta = index, memtable, rows, delta
        self._slice_keys, self._counters = slice_keys, counters
        self._marks = mark_rows(position, epoch=epoch, max_seen_unix_s=max_seen_unix_s)
        self.listed = unlisted or set()
        self._changed = {sid for sid in rows if sid >= since.segment_id} | self.listed
        self.position = position
        self.retire = retire or set()
        """Segments that the last slice retires."""
        self.generation = memtable.freeze()
        self.dead: list[Dead] = []
        """Values that died by this checkpoint."""
        self.full = False
        """The last step did not fit on the disk; the next one tries it again."""
        self._steps = self._run()

    def step(self) -> bool:
        """Do a few milliseconds of work, with at most one commit; True when all is done.

        Raises IndexFailed.
        """
        return next(self._steps, None) is None

    def _run(self) -> Iterator[bool]:
        self._counters.readers_cleared += self._index.forget_dead_readers()
        if self._delta is not None:
            self._counters.readers_cleared += self._delta.forget_dead_readers()
        waiting: list[bytes] = []
        for cut in in_slices(self.generation.entries, self._slice_keys):
            if cut is None:
                yield True
                continue
            if waiting:
                yield from self._write(waiting, {}, ())
                yield True
            waiting = cut
        yield from self._write(waiting, self._marks, self.generation.dead)
        self._memtable.forget_frozen()
        if self._delta is not None:
            yield from self._clear(self._delta)
        self._counters.checkpoints += 1

    def _clear(self, delta: Delta) -> Iterator[bool]:
        """Drop from the delta what the index has now."""
        while True:
            try:
                delta.clear_old()
            except IndexFull:
                self.full = True
                yield True
                continue
            self.full = False
            return

    def _write(
        self, keys: list[bytes], marks: dict[bytes, bytes], dead: list[Dead] | tuple[()]
    ) -> Iterator[bool]:
        entries = self.generation.entries
        items = [(tagged, entries[tagged]) for tagged in keys]
        changed, self._changed = self._changed, (self._changed if not marks else set())
        while True:
            try:
                retire = self.retire if marks else set()
                work = Slice(items, self._rows, changed, dead, marks, retire)
                self.dead += self._index.write_slice(work)
            except IndexFull:
                self.full = True
                yield True
                continue
            self.full = False
            self._counters.index_commits += 1
            return
