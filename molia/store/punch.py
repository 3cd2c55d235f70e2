"""Giving the space of dead values back to the file system, page by page.

Only values whose delete or overwrite is durable, vouched for and in the index are on the list. A
frame's head and key stay, so that the log can still be walked and the index rebuilt.
"""

from dataclasses import replace
from typing import Final

from molia.store.files import SegmentFiles
from molia.store.frame import head_size, parse_head
from molia.store.index import Dead, Entry, Index, SegmentRow, punch_range
from molia.store.log import Home
from molia.store.memtable import Memtable
from molia.store.ops import Counters

PAGE_COUNT: Final = 512
STEP_COUNT: Final = 16


class Puncher:
    """Works through the index's list of dead values."""

    def __init__(
        self, home: Home, *, index: Index, memtable: Memtable, files: SegmentFiles,
        rows: dict[int, SegmentRow], counters: Counters, seed: int,
    ) -> None:  # fmt: skip
        self._home, self._index, self._memtable = home, index, memtable
        self._files, self._rows, self._counters = files, rows, counters
        self._seed = seed
        self.held: set[int] = set()
        """Segments that are being rewritten: their dead go with them."""
        self._page: list[Dead] = []
        self._done: list[Dead] = []
        self._gained: dict[int, int] = {}
        """Bytes that those values gave back, by segment; a row has them once the list has not."""
        self.waiting_bytes = index.dead_bytes()
        """What the list would give back."""
        self.epoch = 0
        """Grows before anything is punched: a reader that sees it change looks again."""

    def add(self, dead: list[Dead]) -> None:
        """Count values that a checkpoint has put on the list."""
        self.waiting_bytes += sum(value.size for value in dead)

    @property
    def pending(self) -> bool:
        """Whether there is something to do."""
        return self.waiting_bytes > 0 or bool(self._done)

    @property
    def unnoted_bytes(self) -> int:
        """Bytes that were given back and that no row has yet."""
        return sum(list(self._gained.values()))  # at once: another thread may be asking

    def step(self) -> None:
        """Punch a few values, or drop those that were punched from the list.

        Raises OSError, IndexFull, IndexFailed.
        """
        if self._page:
            self.epoch += 1
            for _ in range(min(STEP_COUNT, len(self._page))):
                self._punch(self._page[-1])
                self._done.append(self._page.pop())
        elif self._done:
            self._forget()
        else:
            self._page = self._index.dead_page(PAGE_COUNT)
            if not self._page:
                self.waiting_bytes = 0

    def _forget(self) -> None:
        """Take what was punched off the list, and count it in the same commit.

        A row that had it earlier could be kept while the list is not: the next writer of the shard
        would punch, and count, the same values again.
        """
        rows = {
            sid: replace(self._rows[sid], punched_bytes=self._rows[sid].punched_bytes + gained)
            for sid, gained in self._gained.items()
            if sid in self._rows
        }
        self._index.forget_dead(self._done, rows)
        self._counters.index_commits += 1
        for segment_id, row in rows.items():
            self._rows[segment_id].punched_bytes = row.punched_bytes
        self._done, self._gained = [], {}

    def _punch(self, dead: Dead) -> None:
        self.waiting_bytes = max(0, self.waiting_bytes - dead.size)
        place = punch_range(dead.value_offset, dead.vlen)
        row = self._rows.get(dead.segment_id)
        if place is None or row is None or dead.segment_id in self.held:
            return
        if not self._is_dead(dead):
            return
        start, stop = place
        file = self._home.disk.open(self._home.segment(dead.segment_id))
        try:
            punched = file.punch(start, stop - start)
        finally:
            file.close()
        if punched:
            gained = self._gained.get(dead.segment_id, 0)
            self._gained[dead.segment_id] = gained + stop - start
            self._counters.punched_values += 1
            self._counters.punched_bytes += stop - start

    def _is_dead(self, dead: Dead) -> bool:
        """Tell whether the frame is the one meant and no look-up leads to it.

        The list is part of the index, which may rot; a wrong punch would destroy a live value.
        """
        size = head_size(len(dead.tagged) - 1, dead.vlen)
        try:
            data = self._files.get(dead.segment_id).read(dead.value_offset - size, size)
        except OSError:
            return False  # a bad sector, or a file that is lost: what cannot be read stays
        head = parse_head(data, 0, seed=self._seed)
        if head is None or (head.key, head.vlen) != (dead.tagged[1:], dead.vlen):
            return False
        if head.kind != dead.tagged[0]:
            return False
        packed = self._memtable.get(dead.tagged) or self._index.get(dead.tagged)
        if packed is None:
            return True
        return Entry.unpack(packed).place != (dead.segment_id, dead.value_offset)
