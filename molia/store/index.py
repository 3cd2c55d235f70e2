"""A shard's index: where the newest frame of each key is. A cache: the log can rebuild it.

Named databases `b`, `r`, `p`, `x` hold the entries of blocks, records, providers and META rows;
`g` one row per segment, `d` the dead values that are still to be punched, `m` a few marks.
Source: docs/reference/index-format.md.
"""

import struct
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final, NamedTuple, Self

from molia.store.frame import CHUNK_SIZE, FIXED_SIZE, crc, frame_size
from molia.store.keys import Kind
from molia.store.lmdb_env import Env, IndexFailed, Reader, Writer
from molia.store.segment import FOREGROUND

INDEX_FORMAT: Final = 1
PAGE_SIZE: Final = 4096
PUNCH_MIN_BYTES: Final = 2 * PAGE_SIZE
"""A dead value that would give back less stays until its segment is rewritten."""
ENTRY: Final = struct.Struct("<IIIIB")
_UNPACK: Final = ENTRY.unpack
TOMBSTONE: Final = 1
"""Flag of an entry that says `deleted`; such entries live in memory only."""
DB_OF: Final = {Kind.BLOCK: "b", Kind.RECORD: "r", Kind.PROVIDER: "p", Kind.META: "x"}
_TAG_DB: Final = {int(kind): name for kind, name in DB_OF.items()}
_DB_TAG: Final = {name: bytes((kind,)) for kind, name in DB_OF.items()}
_NAMES: Final = ("b", "r", "p", "x", "g", "d", "m")
_SEGMENT_ROW: Final = struct.Struct("<BBQQIIQQIQ")
_SEGMENT_KEY: Final = struct.Struct(">Q")
_DEAD_KEY: Final = struct.Struct(">II")
_POSITION: Final = struct.Struct("<QQQ")
TAGS: Final = tuple(bytes((number,)) for number in range(16))
"""The first byte of a tagged key, by kind; an enum's own hash is too slow for a dict here."""

_NEVER: Final = bytes(4)
OPEN: Final = 0
SEALED: Final = 1
RETIRED: Final = 6
"""All that was alive in it lies elsewhere: it is to be unlinked. No one flipped bit says so."""


class Entry(NamedTuple):
    """Where a key's value is."""

    segment_id: int
    value_offset: int
    vlen: int
    expiry: int
    flags: int

    @classmethod
    def unpack(cls, packed: bytes) -> Self:
        """Return the entry in its 17 bytes. Raises IndexFailed when they are not 17."""
        try:
            return cls._make(_UNPACK(packed))
        except struct.error:
            raise IndexFailed("an index entry has another length") from None

    @property
    def place(self) -> tuple[int, int]:
        """Segment and offset; of two frames the later one has the higher place."""
        return self.segment_id, self.value_offset


class Position(NamedTuple):
    """A place in the log: everything with an LSN up to `lsn` lies before it."""

    segment_id: int
    offset: int
    lsn: int


@dataclass(slots=True)
class SegmentRow:
    """What the index knows about a segment. Live: what the index points at."""

    state: int = OPEN
    kind: int = FOREGROUND
    bytes: int = 0
    live_bytes: int = 0
    frames: int = 0
    live_frames: int = 0
    min_lsn: int = 0
    max_lsn: int = 0
    max_expiry: int = 0
    punched_bytes: int = 0


def encode_row(row: SegmentRow) -> bytes:
    """Return the bytes of a segment row."""
    return _SEGMENT_ROW.pack(
        row.state, row.kind, row.bytes, row.live_bytes, row.frames, row.live_frames,
        row.min_lsn, row.max_lsn, row.max_expiry, row.punched_bytes,
    )  # fmt: skip


def decode_row(data: bytes) -> SegmentRow:
    """Return the segment row in `data`. Raises IndexFailed."""
    if len(data) != _SEGMENT_ROW.size:
        raise IndexFailed("a segment row has another length")
    return SegmentRow(*_SEGMENT_ROW.unpack(data))


def encode_position(position: Position) -> bytes:
    """Return the bytes of a position, with their CRC: rot here would cost the log its end."""
    data = _POSITION.pack(*position)
    return data + crc(data).to_bytes(4, "little")


def decode_position(data: bytes) -> Position:
    """Return the position in `data`. Raises IndexFailed."""
    fields, checksum = data[: _POSITION.size], data[_POSITION.size :]
    if checksum != crc(fields).to_bytes(4, "little") or len(fields) != _POSITION.size:
        raise IndexFailed("the index's position does not match its checksum")
    return Position(*_POSITION.unpack(fields))


def punch_range(value_offset: int, vlen: int) -> tuple[int, int] | None:
    """Return the whole pages inside a value, or None when they are not worth a punch."""
    start = -(-value_offset // PAGE_SIZE) * PAGE_SIZE
    stop = (value_offset + vlen) // PAGE_SIZE * PAGE_SIZE
    return (start, stop) if stop - start >= PUNCH_MIN_BYTES else None


@dataclass(slots=True)
class Dead:
    """A dead value that can be punched."""

    segment_id: int
    value_offset: int
    vlen: int
    tagged: bytes
    """Its key: nothing is punched that turns out to be another frame, or alive."""

    @property
    def size(self) -> int:
        """Bytes that punching it gives back."""
        found = punch_range(self.value_offset, self.vlen)
        return found[1] - found[0] if found is not None else 0


@dataclass(slots=True)
class Slice:
    """One index transaction of a checkpoint."""

    entries: Sequence[tuple[bytes, bytes]]
    """Tagged keys in order, and their packed entries."""
    rows: dict[int, SegmentRow]
    """All segments known; the transaction updates their live numbers."""
    changed: set[int] = field(default_factory=set)
    """Segments whose rows are to be written in any case."""
    dead: Sequence[Dead] = ()
    """Values that died before they ever were in the index."""
    marks: dict[bytes, bytes] = field(default_factory=dict)
    """Rows of `m` to set."""
    retire: set[int] = field(default_factory=set)
    """Segments that nothing leads to any more once this is in the index."""
    force: bool = False
    """Let an entry replace one with a higher place, as when mending a wrong one."""


class Index:
    """The index of a shard, in one directory."""

    def __init__(self, path: str, *, map_bytes: int, writable: bool = True) -> None:
        self._env = Env(path, map_bytes=map_bytes, names=_NAMES, writable=writable)

    # ------------------------------------------------------------------------ reading

    @property
    def version(self) -> int:
        """A number that grows with each change: what was found at the same one is still so."""
        return self._env.version

    def get(self, tagged: bytes) -> bytes | None:
        """Return the packed entry of a tagged key."""
        return self._env.get(_TAG_DB[tagged[0]], tagged[1:])

    @contextmanager
    def read(self) -> Iterator["Snapshot"]:
        """Give one snapshot for several look-ups."""
        with self._env.read() as reader:
            yield Snapshot(reader)

    def position(self) -> Position | None:
        """Return up to where the log is in the index, or None before the first checkpoint.

        Raises IndexFailed.
        """
        data = self._env.get("m", b"ckpt")
        return decode_position(data) if data is not None else None

    def number(self, name: bytes) -> int:
        """Return a number kept in `m`, 0 when it is not there."""
        return int.from_bytes(self._env.get("m", name) or b"", "little")

    def mark(self, name: bytes) -> bytes:
        """Return a row of `m`, empty when it is not there."""
        return self._env.get("m", name) or b""

    def rows(self) -> dict[int, SegmentRow]:
        """Return all segment rows."""
        with self._env.read() as reader:
            return {int.from_bytes(key, "big"): decode_row(data) for key, data in reader.items("g")}

    def dead_bytes(self) -> int:
        """Return how much waits to be punched."""
        with self._env.read() as reader:
            return sum(_dead(key, data).size for key, data in reader.items("d"))

    def dead_page(self, count: int, after: Dead | None = None) -> list[Dead]:
        """Return the first dead values, by segment and offset, behind `after`."""
        start = b"" if after is None else _DEAD_KEY.pack(after.segment_id, after.value_offset + 1)
        with self._env.read() as reader:
            page = zip(range(count), reader.items("d", start), strict=False)
            return [_dead(key, data) for _, (key, data) in page]

    def key_count(self) -> int:
        """Return the number of keys."""
        with self._env.read() as reader:
            return sum(reader.count(name) for name in DB_OF.values())

    # ------------------------------------------------------------------------ writing

    def write_slice(self, work: Slice) -> list[Dead]:
        """Bring one slice into the index, durably; return the values that died by it.

        The live numbers in `work.rows` follow only when the commit has succeeded.
        Raises IndexFull, IndexFailed.
        """
        dead, updated = self._env.write(lambda writer: _fill(writer, work))
        work.rows.update(updated)
        return dead

    def forget_dead(self, punched: Iterable[Dead], rows: dict[int, SegmentRow]) -> None:
        """Drop values that were punched from the list, and write the given segment rows."""

        def fill(writer: Writer) -> None:
            for dead in punched:
                writer.delete("d", _DEAD_KEY.pack(dead.segment_id, dead.value_offset))
            for segment_id, row in rows.items():
                writer.put("g", _SEGMENT_KEY.pack(segment_id), encode_row(row))

        self._env.write(fill)

    def forget_segments(self, segments: Iterable[int]) -> None:
        """Drop the rows of segments whose files are gone. Raises IndexFull, IndexFailed."""
        keys = [_SEGMENT_KEY.pack(segment_id) for segment_id in sorted(segments)]

        def fill(writer: Writer) -> None:
            for key in keys:
                writer.delete("g", key)

        self._env.write(fill)

    def set_epoch(self, epoch: int) -> None:
        """Say which delta belongs to the index now. Raises IndexFull, IndexFailed."""
        self._env.write(lambda writer: writer.put("m", b"epoch", epoch.to_bytes(8, "little")))

    def forget_dead_readers(self) -> int:
        """Free what readers that died would hold; return how many there were."""
        return self._env.forget_dead_readers()

    def reader_lag(self) -> int:
        """Return how many commits the oldest snapshot is behind that anybody holds."""
        return self._env.reader_lag()

    def close(self) -> None:
        """Close the index; nobody may be reading."""
        self._env.close()


class Snapshot:
    """The index as it was at one moment."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader

    def get(self, tagged: bytes) -> bytes | None:
        """Return the packed entry of a tagged key."""
        return self._reader.get(_TAG_DB[tagged[0]], tagged[1:])

    def getter(self, kind: Kind) -> Callable[[bytes], bytes | None]:
        """Return a look-up of the keys of one kind, untagged."""
        return self._reader.getter(DB_OF[kind])

    def finder(self) -> Callable[[bytes], bytes | None]:
        """Return a function that does what `get` does with fewer calls."""
        return self._reader.finder(_TAG_DB)

    def page(
        self, kind: Kind, after: bytes, prefix: bytes, count: int
    ) -> list[tuple[bytes, bytes]]:
        """Return up to `count` keys with `prefix` that are above `after`, and their entries."""
        found: list[tuple[bytes, bytes]] = []
        start = max(prefix, after)
        for key, packed in self._reader.items(DB_OF[kind], start):
            if not key.startswith(prefix) or len(found) == count:
                break
            if not after or key > after:
                found.append((key, packed))
        return found

    def expired(
        self, kind: Kind, after: bytes, count: int, unix_s: int
    ) -> tuple[list[tuple[bytes, bytes]], int, bytes | None]:
        """Look at `count` keys above `after`: the expired ones, tagged, with their entries.

        Also how many keys were looked at, and the last one; None when no more follow.
        """
        found: list[tuple[bytes, bytes]] = []
        tag, seen, last = TAGS[kind], 0, after
        for key, packed in self._reader.items(DB_OF[kind], after):
            if seen == count:
                return found, seen, last
            seen += 1
            last = key
            expiry = packed[12:16]
            if expiry != _NEVER and int.from_bytes(expiry, "little") <= unix_s and key != after:
                found.append((tag + key, packed))
        return found, seen, None


def mark_rows(position: Position, *, epoch: int, max_seen_unix_s: int) -> dict[bytes, bytes]:
    """Return the rows of `m` that end a checkpoint."""
    return {
        b"ckpt": encode_position(position),
        b"epoch": epoch.to_bytes(8, "little"),
        b"format": INDEX_FORMAT.to_bytes(8, "little"),
        b"max_seen_time": max_seen_unix_s.to_bytes(8, "little"),
    }


def _fill(writer: Writer, work: Slice) -> tuple[list[Dead], dict[int, SegmentRow]]:
    live: defaultdict[int, list[int]] = defaultdict(lambda: [0, 0])
    dead = list(work.dead)
    entries, first = work.entries, 0
    while first < len(entries):
        tag = entries[first][0][0]
        stop = bisect_left(entries, (bytes((tag + 1,)),), first)
        items = [(tagged[1:], packed) for tagged, packed in entries[first:stop]]
        dead += _fill_kind(writer, _TAG_DB[tag], items, live, force=work.force)
        first = stop
    for value in dead:
        key = _DEAD_KEY.pack(value.segment_id, value.value_offset)
        writer.put("d", key, value.vlen.to_bytes(4, "little") + value.tagged)
    updated = _counted(work.rows, live)
    for segment_id in work.retire:
        updated[segment_id] = replace(updated.get(segment_id, work.rows[segment_id]), state=RETIRED)
    rows = {sid: work.rows[sid] for sid in work.changed if sid in work.rows} | updated
    for segment_id, row in rows.items():
        writer.put("g", _SEGMENT_KEY.pack(segment_id), encode_row(row))
    for name, data in work.marks.items():
        writer.put("m", name, data)
    return dead, updated


def _counted(rows: dict[int, SegmentRow], live: dict[int, list[int]]) -> dict[int, SegmentRow]:
    """Return the rows whose live bytes and frames change, changed."""
    updated = {}
    for segment_id, (size, frames) in live.items():
        known = rows.get(segment_id)
        if known is not None:  # a wrong entry may point anywhere, and take off more than there is
            updated[segment_id] = replace(
                known,
                live_bytes=max(0, known.live_bytes + size),
                live_frames=max(0, known.live_frames + frames),
            )
    return updated


def _fill_kind(
    writer: Writer, name: str, items: list[tuple[bytes, bytes]], live: dict[int, list[int]],
    *, force: bool,
) -> list[Dead]:  # fmt: skip
    """Set the entries of one kind; add bytes and frames to `live`; return what died."""
    old = writer.get_many(name, [key for key, _ in items]) if writer.count(name) else {}
    fresh = [item for item in items if item[0] not in old] if old else items
    puts = _count_new(fresh, live)
    if puts:
        writer.put_many(name, puts)
    return _replace(writer, name, items, old, live, force=force) if old else []


def _count_new(
    items: list[tuple[bytes, bytes]], live: dict[int, list[int]]
) -> list[tuple[bytes, bytes]]:
    """Add the frames of keys that were not there; return all but those that are deleted."""
    if not items:
        return items
    keys, entries = zip(*items, strict=True)
    segments, _, sizes, _, flags = zip(*ENTRY.iter_unpack(b"".join(entries)), strict=True)
    if any(map(TOMBSTONE.__and__, flags)):
        return _count_new([item for item in items if not item[1][-1] & TOMBSTONE], live)
    if len(set(segments)) == 1 and max(sizes) <= CHUNK_SIZE:  # as nearly all are after a start
        counts = live[segments[0]]
        counts[0] += FIXED_SIZE * len(keys) + sum(map(len, keys)) + sum(sizes)
        counts[1] += len(keys)
        return items
    for key, segment_id, size in zip(keys, segments, sizes, strict=True):
        counts = live[segment_id]
        counts[0] += frame_size(len(key), size)
        counts[1] += 1
    return items


def _replace(
    writer: Writer, name: str, items: list[tuple[bytes, bytes]], old: dict[bytes, bytes],
    live: dict[int, list[int]], *, force: bool,
) -> list[Dead]:  # fmt: skip
    """Set or drop the entries of keys that are there; return what died."""
    puts: list[tuple[bytes, bytes]] = []
    dead: list[Dead] = []
    for item in items:
        key, packed = item
        before = old.get(key)
        if before is None or before == packed:
            continue
        segment_id, value_offset, vlen, _, flags = _UNPACK(packed)
        gone = Entry.unpack(before)
        if gone.place > (segment_id, value_offset) and not force:
            continue  # the index is ahead of what is replayed: it knows a later frame
        counts = live[gone.segment_id]
        counts[0] -= frame_size(len(key), gone.vlen)
        counts[1] -= 1
        moved = bool(flags & TOMBSTONE) or gone.place != (segment_id, value_offset)
        if moved and punch_range(gone.value_offset, gone.vlen):
            tagged = _DB_TAG[name] + key
            dead.append(Dead(gone.segment_id, gone.value_offset, gone.vlen, tagged))
        if flags & TOMBSTONE:
            writer.delete(name, key)
            continue
        counts = live[segment_id]
        counts[0] += frame_size(len(key), vlen)
        counts[1] += 1
        puts.append(item)
    if puts:
        writer.put_many(name, puts)
    return dead


def _dead(key: bytes, data: bytes) -> Dead:
    if len(key) != _DEAD_KEY.size or len(data) < 5:
        raise IndexFailed("a row of dead values has another length")
    segment_id, value_offset = _DEAD_KEY.unpack(key)
    return Dead(segment_id, value_offset, int.from_bytes(data[:4], "little"), data[4:])
