"""Copying what is alive out of segments that are mostly garbage, in pieces, beside the writer.

A survey reads the victims' footers and counts; then the frames that are worth it are copied as they
are, into one output per time-to-live class, each sealed and synced under a name that no recovery
takes for a segment. Nothing that exists is changed: a copy may be given up at any moment.
Source: docs/explanation/store.md, "Compaction".
"""

from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from threading import Lock
from typing import Final

from molia.base.limits import COMPACT_PIECE_BYTES, COMPACT_PIECE_FRAMES, COMPACT_SYNC_BYTES
from molia.base.now import Now
from molia.store.disk import Buffer, File
from molia.store.frame import encode_head, head_size
from molia.store.index import SEALED, TOMBSTONE, Entry, SegmentRow
from molia.store.keys import DATA_KINDS, Kind
from molia.store.lmdb_env import IndexFailed
from molia.store.log import Home
from molia.store.segment import (
    COMPACTED,
    ENTRY,
    HEADER_SIZE,
    FooterEntry,
    SegmentHeader,
    encode_footer,
    read_seal,
)

FindMany = Callable[[list[bytes]], list[bytes | None]]
"""Tagged keys -> the newest packed entry of each, be it a tombstone, or None."""
CLASSES: Final = 4
_SPLIT_SHARE: Final = 4
"""A time-to-live class of less than one 4th of a segment goes with the largest one: at most one
output is so small that it is gathered again."""
_TAGS: Final = frozenset(int(kind) for kind in DATA_KINDS)


class Stage(Enum):
    """How far a copy is."""

    SURVEY = "survey"
    SURVEYED = "surveyed"
    """It waits for `begin`, or to be taken as it is when nothing is to be copied."""
    COPY = "copy"
    DONE = "done"
    FAILED = "failed"


class Fate(Enum):
    """What becomes of a frame of a victim."""

    DROP = 0
    KEEP = 1
    HIDE = 2
    """It is dead, but a rebuild of the index needs it to hide older frames of its key."""


def ttl_class(expiry: int, unix_s: int) -> int:
    """Return the class of a frame: no expiry, within an hour, within a day, later."""
    if not expiry:
        return 0
    left = expiry - unix_s
    return 1 if left <= 3_600 else 2 if left <= 86_400 else 3


@dataclass(slots=True)
class Output:
    """A segment in the making."""

    segment_id: int
    name: str
    file: File
    offset: int = HEADER_SIZE
    footer: bytearray = field(default_factory=bytearray)
    frames: int = 0
    max_expiry: int = 0
    hidden_bytes: int = 0
    """Bytes of frames that are there only to hide others, and of the footer."""
    unsynced: int = 0
    lsn: int = 0

    def row(self) -> SegmentRow:
        """Return the row of the finished segment; nothing leads to it yet."""
        return SegmentRow(
            SEALED, COMPACTED, self.offset, frames=self.frames, min_lsn=self.lsn,
            max_lsn=self.lsn, max_expiry=self.max_expiry,
        )  # fmt: skip


@dataclass(slots=True)
class Survey:
    """What a victim holds that must not be lost."""

    live_bytes: int = 0
    hidden_bytes: int = 0
    """Bytes of needed DELETE frames, and of the footer's lines."""
    needed: int = 0
    """Frames that are to be copied."""


def lowest(rows: dict[int, SegmentRow]) -> list[tuple[int, int]]:
    """Return the lowest LSNs of the two files that go back furthest, with their segments."""
    return sorted((row.min_lsn, sid) for sid, row in rows.items())[:2]


class Floors:
    """For each file the lowest LSN of a frame in it that a DELETE may have to hide.

    A DELETE may go once no other file on the disk, those to be unlinked included, is below it.
    """

    def __init__(self, rows: dict[int, SegmentRow]) -> None:
        self._lowest = lowest(rows)

    def needs(self, lsn: int, segment_id: int) -> bool:
        """Tell whether a frame of `segment_id` with this LSN may still hide one elsewhere."""
        return any(floor < lsn for floor, sid in self._lowest if sid != segment_id)


class Copy:
    """One compaction's reading and writing. One thread calls `step`, the writer all else."""

    def __init__(
        self, home: Home, victims: dict[int, SegmentRow], *, find_many: FindMany, floors: Floors,
        seed: int, unix_s: float, segment_bytes: int,
    ) -> None:  # fmt: skip
        self._home, self._find_many, self._floors = home, find_many, floors
        self._seed, self._unix_s, self._segment_bytes = seed, int(unix_s), segment_bytes
        self.victims = sorted(victims)
        self.surveys: dict[int, Survey] = {}
        self.outputs: dict[int, Output] = {}
        self.stage = Stage.SURVEY
        self.failure: Exception | None = None
        self.dropped = 0
        """DELETE frames that nothing needs any more."""
        self._classes: Counter[int] = Counter()
        self._ids: list[int] = []
        self._header = SegmentHeader(0, COMPACTED, b"", 0, 0, 0)
        self._steps: Generator[int] = self._survey()
        self._lock = Lock()

    @property
    def is_empty(self) -> bool:
        """Whether the victims hold nothing that must not be lost."""
        return not any(found.needed for found in self.surveys.values())

    @property
    def size(self) -> int:
        """Bytes that are to be copied, once surveyed."""
        return sum(found.live_bytes + found.hidden_bytes for found in self.surveys.values())

    def begin(self, ids: list[int], *, lsn: int, now: Now) -> None:
        """Go on from the survey. ids: of the outputs, above every segment's that there is.

        lsn: the newest durable one. Every frame that is copied is alive at it, or hides others.
        """
        assert self.stage is Stage.SURVEYED, "a survey comes first"
        self._ids = ids
        home = self._home
        self._header = SegmentHeader(
            home.index, COMPACTED, home.store_uuid, 0, lsn, now.unix_ms
        )  # fmt: skip
        self._steps = self._copy()
        self.stage = Stage.COPY

    def step(self) -> int:
        """Do one bounded piece; return the bytes that it copied."""
        with self._lock:
            if self.stage not in (Stage.SURVEY, Stage.COPY):
                return 0
            try:
                copied = next(self._steps, None)
            except (OSError, IndexFailed, ValueError) as error:
                self.failure, self.stage = error, Stage.FAILED
                return 0
            if copied is None:
                self.stage = Stage.SURVEYED if self.stage is Stage.SURVEY else Stage.DONE
            return copied or 0

    def give_up(self) -> list[str]:
        """End it wherever it is; return the names of files that were made."""
        with self._lock:
            self._steps.close()
            self.stage = Stage.FAILED
            for output in self.outputs.values():
                output.file.close()
            return [output.name for output in self.outputs.values()]

    # ------------------------------------------------------------------------ the survey

    def _survey(self) -> Generator[int]:
        for segment_id in self.victims:
            found = self.surveys[segment_id] = Survey()
            for _, judged in self._judged(segment_id):
                for entry, fate in judged:
                    size = _size_of(entry)
                    if fate is not Fate.DROP:
                        found.needed += 1
                        found.hidden_bytes += ENTRY.size + len(entry.key)
                    if fate is Fate.KEEP:
                        found.live_bytes += size
                        self._classes[ttl_class(entry.expiry, self._unix_s)] += size
                    elif fate is Fate.HIDE:
                        found.hidden_bytes += head_size(len(entry.key), 0)
                    elif entry.kind == Kind.DELETE:
                        self.dropped += 1
                yield 0

    def _judged(self, segment_id: int) -> Iterator[tuple[File, list[tuple[FooterEntry, Fate]]]]:
        """Yield the frames of a victim with what becomes of each, a piece at a time."""
        file = self._home.disk.open(self._home.segment(segment_id), writable=False)
        try:
            seal = read_seal(file, file.size(), seed=self._seed)
            if seal is None:
                raise ValueError(f"segment {segment_id} has no sound seal")
            entries = (entry for entry in seal if entry.target in _TAGS)  # a MARK has no key
            while piece := list(islice(entries, COMPACT_PIECE_FRAMES)):
                found = self._find_many([bytes((entry.target,)) + entry.key for entry in piece])
                fates = [
                    self._fate(segment_id, entry, packed)
                    for entry, packed in zip(piece, found, strict=True)
                ]
                yield file, list(zip(piece, fates, strict=True))
        finally:
            file.close()

    def _fate(self, segment_id: int, entry: FooterEntry, packed: bytes | None) -> Fate:
        is_there = packed is not None and not packed[-1] & TOMBSTONE
        is_delete = entry.kind == Kind.DELETE
        if is_there:
            place = Entry.unpack(packed or b"").place
            is_live = not is_delete and place == (segment_id, entry.value_offset)
            return Fate.KEEP if is_live else Fate.DROP  # a newer frame hides what this one did
        if (is_delete or entry.expiry) and self._needs(segment_id, entry.lsn):
            return Fate.HIDE
        return Fate.DROP

    def _needs(self, segment_id: int, lsn: int) -> bool:
        return self._floors.needs(lsn, segment_id)

    # ------------------------------------------------------------------------ the copy

    def _copy(self) -> Generator[int]:
        for segment_id in self.victims:
            for file, judged in self._judged(segment_id):
                for run in _runs(judged, self._class_of):
                    yield self._copy_run(file, run)
                yield 0
        for output in self.outputs.values():
            yield self._finish(output)

    def _class_of(self, expiry: int) -> int:
        """Return the class whose output takes a frame."""
        wanted = ttl_class(expiry, self._unix_s)
        if self._classes[wanted] * _SPLIT_SHARE >= self._segment_bytes:
            return wanted
        return max(range(CLASSES), key=lambda number: (self._classes[number], -number))

    def _output(self, number: int) -> Output:
        output = self.outputs.get(number)
        if output is None:
            segment_id = self._ids[number]
            name = f"{self._home.name}/seg/{segment_id:016x}.cmp"
            file = self._home.disk.open(name, create=True)
            output = Output(segment_id, name, file, lsn=self._header.base_lsn)
            self.outputs[number] = output
            file.write(0, [self._header._replace(segment_id=segment_id).encode()])
        return output

    def _copy_run(self, file: File, run: "Run") -> int:
        """Copy frames that lie side by side, or write one that hides others."""
        output = self._output(run.number)
        if run.is_new:
            data = self._hiding(run.entries[0])
        else:
            data = file.read(run.start, run.stop - run.start)
            if len(data) != run.stop - run.start:
                raise ValueError("a victim ends too soon")
        for entry in run.entries:
            stop = run.start + len(data) if run.is_new else entry.value_offset
            _list(output, entry, stop - run.start + output.offset, hides=run.is_new)
        self._write(output, [data], len(data))
        return len(data)

    def _hiding(self, entry: FooterEntry) -> bytes:
        """Return a DELETE in the place of a value that hides older ones of its key."""
        lsn = self._header.base_lsn
        return encode_head(
            Kind.DELETE, entry.target << 4, entry.key, b"", entry.lsn, lsn, 0, self._unix_s,
            self._seed,
        )  # fmt: skip

    def _write(self, output: Output, buffers: list[Buffer], size: int) -> None:
        output.file.write(output.offset, buffers)
        output.offset += size
        output.unsynced += size
        if output.unsynced >= COMPACT_SYNC_BYTES:
            self._sync(output)

    def _finish(self, output: Output) -> int:
        value = encode_footer(output.footer, output.offset)
        head = encode_head(
            Kind.SEAL, 0, b"", value, output.lsn, output.lsn, 0, self._unix_s, self._seed
        )
        self._write(output, [head, value], len(head) + len(value))
        output.hidden_bytes += len(head) + len(value)
        self._sync(output)
        output.file.close()
        return len(head) + len(value)

    def _sync(self, output: Output) -> None:
        output.file.sync()
        output.unsynced = 0


@dataclass(slots=True)
class Run:
    """Frames of a victim, side by side, for one output."""

    number: int
    start: int
    stop: int
    is_new: bool
    """It is not copied: a DELETE takes its place."""
    entries: list[FooterEntry]

    def takes(self, other: "Run") -> bool:
        """Take the run that follows in, if the two can be copied as one."""
        alike = self.number == other.number and not self.is_new and not other.is_new
        if not alike or self.stop != other.start:
            return False
        if other.stop - self.start > COMPACT_PIECE_BYTES:
            return False
        self.stop = other.stop
        self.entries += other.entries
        return True


def _runs(judged: list[tuple[FooterEntry, Fate]], class_of: Callable[[int], int]) -> Iterator[Run]:
    """Yield what is to be written, in order, in runs of a bounded length."""
    run: Run | None = None
    for entry, fate in judged:
        if fate is Fate.DROP:
            continue
        hides = fate is Fate.HIDE
        start = entry.value_offset - head_size(len(entry.key), entry.vlen)
        stop = entry.value_offset + entry.vlen
        is_new = hides and entry.kind != Kind.DELETE
        following = Run(class_of(0 if hides else entry.expiry), start, stop, is_new, [entry])
        if run is None or not run.takes(following):
            if run is not None:
                yield run
            run = following
    if run is not None:
        yield run


def _list(output: Output, entry: FooterEntry, value_offset: int, *, hides: bool) -> None:
    """Note a frame in the footer of an output."""
    is_delete = hides or entry.kind == Kind.DELETE
    tag = Kind.DELETE | entry.target << 4 if is_delete else entry.kind
    vlen, expiry = (0, 0) if is_delete else (entry.vlen, entry.expiry)
    key = entry.key
    output.footer += ENTRY.pack(tag, len(key), vlen, expiry, entry.lsn, value_offset) + key
    output.frames += 1
    output.max_expiry = max(output.max_expiry, expiry)
    if is_delete:
        output.hidden_bytes += head_size(len(key), 0)


def _size_of(entry: FooterEntry) -> int:
    return head_size(len(entry.key), entry.vlen) + entry.vlen
