"""Reading values: from any thread, beside the one that writes."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from threading import Lock
from typing import Final, Protocol

from molia.base.errors import Damaged, ShardUnavailable
from molia.base.limits import KIB, SCAN_ROWS_MAX
from molia.store.disk import File
from molia.store.files import SegmentFiles
from molia.store.frame import CHUNK_SIZE, chunks_sound, crc, expected_sums, head_size
from molia.store.index import ENTRY, TAGS, TOMBSTONE, Entry, Index
from molia.store.keys import Kind
from molia.store.lmdb_env import IndexFailed
from molia.store.memtable import Memtable
from molia.store.ops import Counters, Row

_TRIES: Final = 3
_UNPACK: Final = ENTRY.unpack
_ONE_READ_MAX: Final = 16 * KIB
"""Up to this size head and value come with one read; above, cutting the head off would copy the
value, which costs more than a second read."""
_PAGE_COUNT: Final = 256
_HEADS_MAX: Final = 1_024
"""Heads of long values that are remembered; with its chunk CRCs one takes some 300 bytes."""
_ASTRAY: Final = "no such frame is where the index says"
Sums = tuple[int, bytes]
"""A value's CRC, or the CRCs of its chunks."""
Items = list[tuple[bytes, bytes]]


@dataclass(slots=True)
class Known:
    """What is remembered of a long value: it may be read piece by piece."""

    packed: bytes
    sums: Sums
    version: int = -1
    """Of the index when it last said so; -1: nobody looked."""


class Punched(Protocol):
    """Knows whether values were punched between two looks at it."""

    @property
    def epoch(self) -> int:
        """A number that grows before any value is punched; where nobody knows, with each look."""
        ...


class ValueReader(ABC):
    """Looks keys up and reads what they lead to."""

    def __init__(
        self, *, files: SegmentFiles, counters: Counters, seed: int, punched: Punched
    ) -> None:
        self._files = files
        self._counters, self._seed, self._punched = counters, seed, punched
        self._heads: dict[bytes, Known] = {}
        """Long values whose head was found sound, by tagged key.

        A place in a segment is never taken by another frame that anybody was told of.
        """
        self._heads_lock = Lock()

    @abstractmethod
    def find(self, tagged: bytes) -> bytes | None:
        """Return the packed entry of a key that is there, expired or not. Raises IndexFailed."""

    def find_again(self, tagged: bytes, known: Known) -> bytes | None:  # noqa: ARG002
        """Return the same; known: what was found before. Raises IndexFailed."""
        return self.find(tagged)

    @abstractmethod
    def pages(
        self, kind: Kind, prefix: bytes, after: bytes, count: int
    ) -> tuple[list[tuple[Items, bool]], Items]:
        """Return some next entries: of what the index does not know yet, newest first, with whether
        they are all; and at most `count` of the index. The index is to be looked at last.

        Raises IndexFailed.
        """

    def size_of(self, kind: Kind, key: bytes, unix_s: float) -> int | None:
        """Return the size of a live value."""
        packed = self._find(TAGS[kind] + key)
        if packed is None:
            return None
        entry = _entry(packed)
        return None if 0 < entry.expiry <= unix_s else entry.vlen

    def get(
        self, kind: Kind, key: bytes, unix_s: float, *, start: int = 0, stop: int | None = None,
        check: bool = True,
    ) -> bytes | None:  # fmt: skip
        """Return bytes [start, stop) of a live value, or None. Raises Damaged."""
        tagged = TAGS[kind] + key
        before, reason = None, ""
        for _ in range(_TRIES):
            epoch = self._punched.epoch
            known = self._heads.get(tagged)
            try:
                packed = self.find(tagged) if known is None else self.find_again(tagged, known)
            except IndexFailed as error:
                raise _unreadable(error) from None
            if packed is None:
                return None
            entry = _UNPACK(packed) if len(packed) == ENTRY.size else _entry(packed)
            vlen, expiry = entry[2], entry[3]
            if 0 < expiry <= unix_s:
                return None
            if packed == before:
                break
            low = min(start, vlen) if start > 0 else 0
            high = vlen if stop is None or stop >= vlen else max(stop, low)
            if known is not None and known.packed == packed:
                found = self._read_long(known.sums, entry, low, high, check=check)
            else:
                found = self._read(tagged, packed, entry, low, high, check=check)
            if type(found) is bytes and (
                # unchecked bytes may be those of a value that was being punched
                check or epoch == self._punched.epoch or self._find(tagged) == packed
            ):
                return found
            before, reason = packed, found if isinstance(found, str) else "it keeps moving"
            self._heads.pop(tagged, None)
            self._counters.reread += 1
            if isinstance(found, bytes):
                before = None
        self._counters.damaged_reads += 1
        name = f"{kind.name.lower()} {key.hex()}"
        raise Damaged(f"the stored {name} is damaged: {reason}", kind=kind, key=key)

    def _find(self, tagged: bytes) -> bytes | None:
        try:
            return self.find(tagged)
        except IndexFailed as error:
            raise _unreadable(error) from None

    def _read(
        self, tagged: bytes, packed: bytes, entry: tuple[int, ...], low: int, high: int, *,
        check: bool,
    ) -> bytes | str:  # fmt: skip
        """Return bytes [low, high) of a value, or what is wrong with them."""
        segment_id, value_offset, vlen, _, _ = entry
        ahead = head_size(len(tagged) - 1, vlen)
        try:
            file = self._files.get(segment_id)
            if vlen > _ONE_READ_MAX:
                long = self._look_at(file, tagged, packed, entry)
                if long is None:
                    return _ASTRAY
                return self._read_long(long, entry, low, high, check=check)
            frame = file.read(value_offset - ahead, ahead + vlen) if value_offset > ahead else b""
        except OSError as error:
            return error.strerror or "it cannot be read"
        sums = self._sums(tagged, entry, frame)
        if sums is None:
            return _ASTRAY
        return _piece(sums, frame[ahead:], 0, low, high, check=check)

    def _read_long(
        self, sums: Sums, entry: tuple[int, ...], low: int, high: int, *, check: bool
    ) -> bytes | str:
        """Return the same of a long value; sums: from its head, which is not read again."""
        segment_id, value_offset, vlen, _, _ = entry
        base, top = low, high
        if check:
            base = low // CHUNK_SIZE * CHUNK_SIZE
            top = min(-(-high // CHUNK_SIZE) * CHUNK_SIZE, vlen)
        try:
            value = self._files.get(segment_id).read(value_offset + base, top - base)
        except OSError as error:
            return error.strerror or "it cannot be read"
        if not check and len(value) == high - low:
            return value
        return _piece(sums, value, base, low, high, check=check)

    def _forget_all(self) -> None:
        """Let go of all files, and of what is known of them."""
        self._files.forget_all()
        with self._heads_lock:
            self._heads.clear()

    def _look_at(
        self, file: File, tagged: bytes, packed: bytes, entry: tuple[int, ...]
    ) -> Sums | None:
        """Return the checksums of a long value; remember them: it may be read piece by piece."""
        ahead = head_size(len(tagged) - 1, entry[2])
        at = entry[1] - ahead
        sums = self._sums(tagged, entry, file.read(at, ahead)) if at > 0 else None
        if sums is not None:
            with self._heads_lock:
                if len(self._heads) >= _HEADS_MAX:
                    self._heads.clear()
                self._heads[tagged] = Known(packed, sums)
        return sums

    def _sums(self, tagged: bytes, entry: tuple[int, ...], head: bytes) -> Sums | None:
        """Return the checksums of a value, None unless its head says just what its entry does."""
        return expected_sums(
            head, kind=tagged[0], key=tagged[1:], vlen=entry[2], expiry=entry[3], seed=self._seed
        )

    # ------------------------------------------------------------------------ scans

    def scan(
        self, kind: Kind, prefix: bytes, unix_s: float, *, after: bytes, limit: int
    ) -> list[Row]:
        """Return up to `limit` live keys with `prefix` that are above `after`, in order."""
        rows: list[Row] = []
        limit = min(limit, SCAN_ROWS_MAX)
        complete = False
        while len(rows) < limit and not complete:
            page, complete, after = self._page(kind, prefix, after, limit - len(rows))
            for key, packed in page:
                entry = _entry(packed)
                expired = 0 < entry.expiry <= unix_s
                if not entry.flags & TOMBSTONE and not expired:
                    rows.append(Row(key, entry.vlen, entry.expiry))
        return rows[:limit]

    def _page(
        self, kind: Kind, prefix: bytes, after: bytes, wanted: int
    ) -> tuple[Items, bool, bytes]:
        """Return some next keys with their newest entries, whether they are all, and the last."""
        count = min(max(wanted, 16), _PAGE_COUNT) + 16
        try:
            newer, old = self.pages(kind, prefix, after, count)
        except IndexFailed as error:
            raise ShardUnavailable(f"the index cannot be read: {error}") from None
        stops = [page[-1][0][1:] for page, complete in newer if not complete]
        if len(old) == count:
            stops.append(old[-1][0])
        merged = dict(old)
        for page, _ in reversed(newer):
            merged.update([(tagged[1:], packed) for tagged, packed in page])
        horizon = min(stops, default=None)
        keys = sorted(key for key in merged if horizon is None or key <= horizon)
        last = horizon if horizon is not None else after
        return [(key, merged[key]) for key in keys], horizon is None, last


class OwnReader(ValueReader):
    """Reads in the process that writes: memtable, then index."""

    def __init__(
        self, *, index: Index, memtable: Memtable, files: SegmentFiles, counters: Counters,
        seed: int, punched: Punched,
    ) -> None:  # fmt: skip
        super().__init__(files=files, counters=counters, seed=seed, punched=punched)
        self._index, self._memtable = index, memtable

    def find(self, tagged: bytes) -> bytes | None:
        """Return the packed entry of a key that is there, expired or not."""
        packed = self._memtable.get(tagged)
        if packed is None:
            return self._index.get(tagged)
        return None if packed[-1] & TOMBSTONE else packed

    def find_again(self, tagged: bytes, known: Known) -> bytes | None:
        """See `ValueReader.find_again`: the index is not asked while nothing in it changes."""
        packed = self._memtable.get(tagged)
        if packed is not None:
            return None if packed[-1] & TOMBSTONE else packed
        version = self._index.version  # before the look-up: a change during it counts as later
        if known.version == version:
            return known.packed
        packed = self._index.get(tagged)
        if packed == known.packed:
            known.version = version
        return packed

    def pages(
        self, kind: Kind, prefix: bytes, after: bytes, count: int
    ) -> tuple[list[tuple[Items, bool]], Items]:
        """See `ValueReader.pages`."""
        tag = TAGS[kind]
        newer = []
        for generation in self._memtable.generations():  # before the index: see memtable.py
            keys, complete = generation.page(tag + after, tag + prefix, count)
            newer.append(([(key, generation.entries[key]) for key in keys], complete))
        with self._index.read() as snapshot:
            return newer, snapshot.page(kind, after, prefix, count)


def _entry(packed: bytes) -> Entry:
    """Return what a look-up found. Raises ShardUnavailable when that is no entry."""
    try:
        return Entry.unpack(packed)
    except IndexFailed as error:
        raise _unreadable(error) from None


def _unreadable(error: IndexFailed) -> ShardUnavailable:
    return ShardUnavailable(
        f"the index cannot be read: {error}",
        hint="restart the node; molia verify --rebuild-index makes a new index",
    )


def _piece(sums: Sums, value: bytes, base: int, low: int, high: int, *, check: bool) -> bytes | str:
    """Return bytes [low, high) of a value of which those from `base` on were read."""
    if low == high:
        return b""
    if check and not _sound(sums, base, value):
        return "it does not match its checksum"
    if base == low and len(value) == high - low:
        return value
    cut = value[low - base : high - base]
    return cut if len(cut) == high - low else "it ends too soon"


def _sound(sums: tuple[int, bytes], base: int, value: bytes) -> bool:
    vcrc, table = sums
    return chunks_sound(table, base // CHUNK_SIZE, value) if table else crc(value) == vcrc
