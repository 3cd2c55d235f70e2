"""The open end of a shard's log: append, seal, roll. One thread uses it.

Nothing is ever written behind a tail that may be torn: a batch that does not fit is cut off again
and the cut made durable; after any other failed write or sync the log takes no more writes.
Source: docs/explanation/store.md, "Failures".
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final, NoReturn

from molia.base.errors import NoSpace, ShardUnavailable
from molia.base.now import Now
from molia.store.disk import Buffer, Disk, File, is_full
from molia.store.frame import encode_head, store_seed
from molia.store.index import OPEN, SEALED, Position, SegmentRow
from molia.store.keys import Kind
from molia.store.ops import Counters
from molia.store.segment import (
    ENTRY,
    FOOTER_ROLL_BYTES,
    FOREGROUND,
    HEADER_SIZE,
    SegmentHeader,
    encode_footer,
    segment_name,
)

START: Final = Position(0, 0, 0)


@dataclass(slots=True)
class Home:
    """Where a shard lives."""

    disk: Disk
    name: str
    index: int
    store_uuid: bytes

    def segment(self, segment_id: int) -> str:
        """Return the file name of a segment."""
        return segment_name(self.name, segment_id)


@dataclass(slots=True)
class Tail:
    """The state of a log's open end, as recovery leaves it."""

    next_lsn: int = 1
    next_segment_id: int = 1
    segment_id: int = 0
    """The segment being written; 0 while there is none."""
    file: File | None = None
    offset: int = 0
    footer: bytearray = field(default_factory=bytearray)
    must_seal: bool = False
    """The segment may only be sealed, not appended to: it was open in an earlier run."""
    last_position: Position = START
    """Where the log ends while no segment is open."""


class Log:
    """Appends batches of frames to segments."""

    def __init__(
        self, home: Home, *, segment_bytes: int, rows: dict[int, SegmentRow], counters: Counters
    ) -> None:
        self._home, self._segment_bytes = home, segment_bytes
        self._rows, self._counters = rows, counters
        self.seed: Final = store_seed(home.store_uuid)
        self.tail = Tail()
        self.durable_lsn = 0
        """Highest LSN that is synced."""
        self.vouched_lsn = 0
        """Highest LSN that a synced frame says is durable."""
        self.data_lsn = 0
        """Highest LSN of a frame that is not a MARK or a SEAL."""
        self.failure = ""

    # ------------------------------------------------------------------------ for the writer

    def adopt(self, tail: Tail) -> None:
        """Go on where recovery ended; all of it is to be synced before this."""
        self.tail = tail
        self.durable_lsn = self.data_lsn = tail.next_lsn - 1
        self.vouched_lsn = self.durable_lsn if tail.file is None else 0

    def position(self) -> Position:
        """Return where the log ends."""
        tail = self.tail
        if tail.file is None:
            return tail.last_position
        return Position(tail.segment_id, tail.offset, tail.next_lsn - 1)

    def take_ids(self, count: int) -> list[int]:
        """Return ids for segments that lie above all there are, and below all that will be.

        No segment may be open: what is written from here on is newer than what they will hold.
        """
        assert self.tail.file is None, "what is open is sealed first"
        first = self.tail.next_segment_id
        self.tail.next_segment_id += count
        return list(range(first, first + count))

    def prepare(self, now: Now) -> None:
        """Make sure that the next batch has a segment to go to.

        Raises NoSpace (try again later) or ShardUnavailable.
        """
        self.check()
        tail = self.tail
        too_long = tail.offset >= self._segment_bytes or len(tail.footer) >= FOOTER_ROLL_BYTES
        if tail.file is not None and (tail.must_seal or too_long):
            self.seal(now)
            self._counters.rolls += 1
        if self.tail.file is None:
            self._new_segment(now)

    def append(self, buffers: Sequence[Buffer], *, size: int, entries: list[bytes]) -> None:
        """Write and sync the frames of a batch, which `prepare` made room for.

        size: bytes of all buffers. entries: the frames' footer entries. Raises NoSpace when it
        did not fit (nothing of it is left), ShardUnavailable when the disk failed.
        """
        tail = self.tail
        assert tail.file is not None, "prepare opened a segment"
        assert not tail.must_seal, "nothing is appended behind an old tail"
        self._commit(tail.file, buffers, size)
        count = len(entries)
        self.vouched_lsn = self.durable_lsn
        tail.next_lsn += count
        self.durable_lsn = tail.next_lsn - 1
        tail.footer += b"".join(entries)
        row = self._rows[tail.segment_id]
        row.bytes, row.frames, row.max_lsn = tail.offset, row.frames + count, self.durable_lsn
        self._counters.frames += count

    def note_data(self, expiry: int) -> None:
        """Remember that the last batch held data, and the highest expiry in it."""
        self.data_lsn = self.durable_lsn
        row = self._rows[self.tail.segment_id]
        row.max_expiry = max(row.max_expiry, expiry)

    def mark(self, now: Now) -> None:
        """Write a MARK, which vouches for all frames before it."""
        self.prepare(now)
        tail = self.tail
        lsn = tail.next_lsn
        head = encode_head(
            Kind.MARK, 0, b"", b"", lsn, self.durable_lsn, 0, int(now.unix_s), self.seed
        )
        entry = ENTRY.pack(Kind.MARK, 0, 0, 0, lsn, tail.offset + len(head))
        self.append([head], size=len(head), entries=[entry])
        self._counters.marks += 1

    def seal(self, now: Now) -> None:
        """End the open segment with its footer; the next batch gets a new one."""
        self.check()
        tail = self.tail
        assert tail.file is not None, "there is a segment to seal"
        value = encode_footer(tail.footer, tail.offset)
        lsn = tail.next_lsn
        head = encode_head(
            Kind.SEAL, 0, b"", value, lsn, self.durable_lsn, 0, int(now.unix_s), self.seed
        )
        self._commit(tail.file, [head, value], len(head) + len(value))
        row = self._rows[tail.segment_id]
        row.state, row.bytes, row.max_lsn = SEALED, tail.offset, lsn
        self.durable_lsn = self.vouched_lsn = lsn
        tail.file.close()
        self.tail = Tail(
            next_lsn=lsn + 1,
            next_segment_id=tail.next_segment_id,
            last_position=Position(tail.segment_id, tail.offset, lsn),
        )

    def check(self) -> None:
        """Raise ShardUnavailable if a write or a sync has failed."""
        if self.failure:
            raise ShardUnavailable(
                f"{self._home.name} takes no writes: {self.failure}",
                hint="check the disk, then restart the node",
            )

    def latch(self, reason: str) -> None:
        """Take no more writes: what the disk holds is not known any more."""
        self.failure = self.failure or reason

    def stop(self, reason: str) -> NoReturn:
        """Take no more writes, and say so."""
        self.latch(reason)
        self.check()
        raise AssertionError("a latched log lets nothing pass")

    def close(self) -> None:
        """Let go of the open segment."""
        if self.tail.file is not None:
            self.tail.file.close()

    # ------------------------------------------------------------------------ the disk

    def _commit(self, file: File, buffers: Sequence[Buffer], size: int) -> None:
        """Write and sync at the tail's end; move the end."""
        try:
            self._write(file, buffers)
        except OSError as error:
            if not is_full(error):
                self._fail("writing the log", error)
            self._truncate_back(file)
            self._counters.no_space += 1
            raise NoSpace(f"{self._home.name}: the disk is full") from None
        try:
            self._sync(file)
        except OSError as error:
            # also when it says that there is no space: the system may have given up on any page
            self._fail("syncing the log", error)
        self.tail.offset += size
        self._counters.bytes += size

    def _write(self, file: File, buffers: Sequence[Buffer]) -> None:
        file.write(self.tail.offset, buffers)

    def _sync(self, file: File) -> None:
        file.sync()
        self._counters.syncs += 1

    def _truncate_back(self, file: File) -> None:
        """Cut off a batch that did not fit: a shorter one would leave its end behind."""
        try:
            file.truncate(self.tail.offset)
            file.sync()
        except OSError as error:
            self._fail("cutting off a batch that did not fit", error)

    def _new_segment(self, now: Now) -> None:
        tail = self.tail
        segment_id = tail.next_segment_id
        tail.next_segment_id += 1
        header = SegmentHeader(
            self._home.index, FOREGROUND, self._home.store_uuid, segment_id, tail.next_lsn,
            now.unix_ms,
        )  # fmt: skip
        try:
            file = self._create(self._home.segment(segment_id), header)
        except OSError as error:
            if not is_full(error):
                self._fail("making a segment", error)
            self._remove(self._home.segment(segment_id))
            self._counters.no_space += 1
            raise NoSpace(f"{self._home.name}: the disk is full") from None
        tail.segment_id, tail.file, tail.offset = segment_id, file, HEADER_SIZE
        tail.footer, tail.must_seal = bytearray(), False
        self._rows[segment_id] = SegmentRow(
            OPEN, FOREGROUND, HEADER_SIZE, min_lsn=tail.next_lsn, max_lsn=tail.next_lsn - 1
        )

    def _create(self, name: str, header: SegmentHeader) -> File:
        file = self._home.disk.open(name, create=True)
        try:
            file.write(0, [header.encode()])
            file.sync()
            self._sync_names()
        except OSError:
            file.close()
            raise
        return file

    def _sync_names(self) -> None:
        self._home.disk.sync_dir(f"{self._home.name}/seg")

    def _remove(self, name: str) -> None:
        """Remove a segment that was never used; a junk file must not be taken for a lost one."""
        try:
            with contextlib.suppress(FileNotFoundError):
                self._home.disk.unlink(name)
            self._sync_names()
        except OSError as error:
            self._fail("removing an unfinished segment", error)

    def _fail(self, what: str, error: OSError) -> NoReturn:
        self.stop(f"{what} failed: {error.strerror or error}")
