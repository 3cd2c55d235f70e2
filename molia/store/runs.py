"""Sorted runs: an index that is made anew is put together on the disk and not in memory.

What recovery has read is written out, sorted, whenever it has grown to a run's size. At the end the
runs are merged: of each key the newest entry counts, and the older ones' values are dead. The keys
come in order, so the new index is filled from left to right. Nothing here is synced: after a cut
the index is made anew once more.
"""

import heapq
from collections.abc import Iterator
from typing import Final

from molia.base.limits import KIB
from molia.store.disk import Disk, File
from molia.store.index import ENTRY, TOMBSTONE, Dead, Entry, punch_range
from molia.store.memtable import Generation, in_order

_BUFFER_SIZE: Final = 256 * KIB
_PACKED: Final = ENTRY.size
Item = tuple[bytes, bytes]
Part = tuple[list[Item], list[Dead]]
"""Tagged keys in order with their entries, and values that died."""


class Runs:
    """The runs of one shard, in a directory of their own below it."""

    def __init__(self, disk: Disk, shard: str) -> None:
        self._disk, self._name = disk, f"{shard}/rebuild"
        self._files: list[File] = []

    def __len__(self) -> int:
        return len(self._files)

    def add(self, generation: Generation) -> None:
        """Write a generation out; it is newer than those before. Raises OSError."""
        self._disk.make_dir(self._name)
        name = f"{self._name}/{len(self._files):06d}.run"
        if self._disk.exists(name):  # of a try that did not fit
            self._disk.unlink(name)
        file = self._disk.open(name, create=True)
        try:
            self._write(file, generation)
        except BaseException:
            file.close()
            raise
        self._files.append(file)

    def _write(self, file: File, generation: Generation) -> None:
        buffer, at = bytearray(), 0
        for tagged, packed in in_order(generation.entries):
            buffer.append(len(tagged))
            buffer += tagged
            buffer += packed
            if len(buffer) >= _BUFFER_SIZE:
                file.write(at, [buffer])
                at += len(buffer)
                buffer = bytearray()
        file.write(at, [buffer])

    def merge(self, newest: Generation, count: int) -> Iterator[Part]:
        """Yield all keys that are there, in parts of `count`, with the values that died."""
        runs = [self._items(file) for file in self._files]
        runs.append(iter(in_order(newest.entries)))
        items: list[Item] = []
        dead = list(newest.dead)
        last: Item | None = None
        for item in heapq.merge(*runs, key=lambda item: item[0]):
            if last is not None and item[0] == last[0]:
                last, older = _newer(last, item)
                _note_dead(older, dead)
                continue
            if last is not None and not last[1][-1] & TOMBSTONE:
                items.append(last)
            last = item
            if len(items) >= count:
                yield items, dead
                items, dead = [], []
        if last is not None and not last[1][-1] & TOMBSTONE:
            items.append(last)
        yield items, dead

    def _items(self, file: File) -> Iterator[Item]:
        size, at = file.size(), 0
        while at < size:
            buffer = file.read(at, _BUFFER_SIZE)
            inside, stop = 0, len(buffer)
            while inside < stop:
                end = inside + 1 + buffer[inside] + _PACKED
                if end > stop:
                    break
                yield buffer[inside + 1 : end - _PACKED], buffer[end - _PACKED : end]
                inside = end
            assert inside, "a buffer holds more than one entry"
            at += inside

    def forget(self) -> None:
        """Remove all runs."""
        for file in self._files:
            file.close()
        self._files = []
        self._disk.remove_tree(self._name)


def _newer(one: Item, other: Item) -> tuple[Item, Item]:
    """Return the newer of two entries of a key, then the older: later frames lie higher."""
    if Entry.unpack(one[1]).place > Entry.unpack(other[1]).place:
        return one, other
    return other, one


def _note_dead(item: Item, dead: list[Dead]) -> None:
    tagged, packed = item
    entry = Entry.unpack(packed)
    if not entry.flags & TOMBSTONE and punch_range(entry.value_offset, entry.vlen):
        dead.append(Dead(entry.segment_id, entry.value_offset, entry.vlen, tagged))
