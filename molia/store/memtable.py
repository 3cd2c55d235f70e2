"""The keys written since the last checkpoint, and those that a checkpoint is carrying over.

Keys are tagged: one byte of kind, then the key. Entries are packed as in the index; a tombstone
is an entry with its flag. One thread writes, any thread reads; readers must look here before they
open a snapshot of the index, so that a checkpoint that ends between the two hides nothing.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from itertools import islice
from operator import itemgetter

from molia.store.index import Dead, Entry, punch_range

_TAIL_MAX = 2_000
"""So many unsorted keys are searched one by one before they are sorted in."""


class Generation:
    """One dict of keys, which only ever gains keys, and the values that died within it."""

    def __init__(self) -> None:
        self.entries: dict[bytes, bytes] = {}
        self.dead: list[Dead] = []
        """Values that were superseded before the index knew them."""
        self._sorted: tuple[int, list[bytes]] = (0, [])

    def put(self, tagged: bytes, packed: bytes) -> None:
        """Set the newest entry of a key."""
        before = self.entries.get(tagged)
        if before is not None:
            self.note_dead(tagged, before)
        self.entries[tagged] = packed

    def put_all(self, keys: list[bytes], entries: list[bytes]) -> None:
        """Set the newest entries of many keys, the last one of a key that comes twice."""
        fresh = dict(zip(keys, entries, strict=True))
        if len(fresh) == len(keys) and self.entries.keys().isdisjoint(fresh):
            self.entries.update(fresh)
            return
        for tagged, packed in zip(keys, entries, strict=True):
            self.put(tagged, packed)

    def note_dead(self, tagged: bytes, packed: bytes) -> None:
        """Remember that the value of an entry will never be in the index."""
        entry = Entry.unpack(packed)
        if punch_range(entry.value_offset, entry.vlen):
            dead = Dead(entry.segment_id, entry.value_offset, entry.vlen, tagged)
            self.dead.append(dead)

    def page(self, after: bytes, prefix: bytes, count: int) -> tuple[list[bytes], bool]:
        """Return some `count` first keys with `prefix` above `after`, and whether it is all."""
        length, ordered = self._sorted
        tail = self._tail(length)
        if len(tail) > _TAIL_MAX:
            ordered = sorted([*ordered, *tail])
            self._sorted = (length + len(tail), ordered)
            tail = []
        first = max(bisect_left(ordered, prefix), bisect_right(ordered, after))
        found: list[bytes] = []
        for tagged in islice(ordered, first, first + count):
            if not tagged.startswith(prefix):
                break
            found.append(tagged)
        complete = len(found) < count
        fresh = [tagged for tagged in tail if tagged > after and tagged.startswith(prefix)]
        if fresh:
            if not complete:  # keys above the last of a cut page belong to a later page
                fresh = [tagged for tagged in fresh if tagged < found[-1]]
            found = sorted([*found, *fresh])
        return found, complete

    def _tail(self, length: int) -> list[bytes]:
        while True:
            try:
                return list(islice(self.entries, length, None))
            except RuntimeError:  # the writer added a key meanwhile
                continue


class Memtable:
    """What the index does not know yet."""

    def __init__(self) -> None:
        self.active = Generation()
        self.frozen: Generation | None = None

    def get(self, tagged: bytes) -> bytes | None:
        """Return the newest entry of a key, be it a tombstone, or None when none is here."""
        found = self.active.entries.get(tagged)
        if found is None:
            frozen = self.frozen
            if frozen is not None:
                found = frozen.entries.get(tagged)
        return found

    def freeze(self) -> Generation:
        """Start a new generation and return the one that a checkpoint is to carry over."""
        assert self.frozen is None, "one checkpoint at a time"
        # in this order: a reader sees the old keys as active, or as frozen, or as both
        self.frozen = self.active
        self.active = Generation()
        return self.frozen

    def forget_frozen(self) -> None:
        """Drop the frozen generation: the index has all of it."""
        self.frozen = None

    def __len__(self) -> int:
        frozen = self.frozen
        return len(self.active.entries) + (len(frozen.entries) if frozen is not None else 0)

    def generations(self) -> list[Generation]:
        """Return the generations, the newest first."""
        active, frozen = self.active, self.frozen
        return [active] if frozen is None else [active, frozen]


def in_order(entries: dict[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    """Return all keys in order, each with its entry, while nobody waits.

    The entries are sorted along: a dict asked for them in the order of the keys finds each one in
    another place of the memory, which takes longer than sorting them.
    """
    return sorted(entries.items(), key=itemgetter(0))


def in_slices(entries: dict[bytes, bytes], count: int) -> Iterator[list[bytes] | None]:
    """Yield all keys in order in lists of about `count`; between, None after each bounded step.

    Sorting 100,000 keys at once would hold every thread for 60 ms. So they are sorted in runs,
    cut at splitters drawn from all runs, and each cut is sorted for itself.
    """
    keys = list(entries)
    runs: list[list[bytes]] = []
    for first in range(0, len(keys), count):
        runs.append(sorted(keys[first : first + count]))
        yield None
    stride = max(1, count // 16)
    samples = sorted(key for run in runs for key in run[::stride])
    splitters = samples[:: max(1, count // stride)][1:]
    starts = [0] * len(runs)
    for splitter in [*splitters, None]:
        cut: list[bytes] = []
        for number, run in enumerate(runs):
            stop = len(run) if splitter is None else bisect_left(run, splitter, starts[number])
            cut += run[starts[number] : stop]
            starts[number] = stop
        if cut:
            cut.sort()
            yield cut
