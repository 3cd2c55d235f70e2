"""Comparing a segment's own bytes with their checksums, its footer and the index.

The log is the truth: what the index says otherwise is wrong, and `truth_of` tells what it should
say. Everything here only reads, and may run beside the writer.
"""

from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Final

from molia.store.disk import File
from molia.store.files import SegmentFiles
from molia.store.frame import Head, head_size, parse_head
from molia.store.index import ENTRY, TOMBSTONE, Entry
from molia.store.keys import DATA_KINDS, Kind
from molia.store.log import Log
from molia.store.ops import DamagedFrame, NamedKey, SegmentAudit
from molia.store.segment import (
    COMPACTED,
    HEADER_SIZE,
    FooterEntry,
    Found,
    Gap,
    Seal,
    Walker,
    encode_entry,
    parse_entries,
    parse_header,
    read_seal,
)

Find = Callable[[bytes], bytes | None]
FOOTER_COST_BYTES: Final = 64 * 1024
"""What looking through one more footer counts for in the steps of an audit."""


class Auditor:
    """Audits the segments of one shard.

    find: returns the packed entry of a tagged key as a reader would find it. segments: returns the
    ids of all segments. is_going: tells whether compaction is taking a segment away, or has.
    """

    def __init__(
        self, log: Log, files: SegmentFiles, find: Find, *, segments: Callable[[], list[int]],
        is_going: Callable[[int], bool],
    ) -> None:  # fmt: skip
        self._log, self._files, self._find = log, files, find
        self.segments, self._is_going = segments, is_going

    # ------------------------------------------------------------------------ one segment

    def audit(self, segment_id: int, unix_s: float) -> SegmentAudit:
        """Return what is wrong with a segment; nothing is with one that compaction takes away.

        Raises OSError, IndexFailed.
        """
        steps = self.audit_steps(segment_id, unix_s)
        try:
            while True:
                next(steps)
        except StopIteration as end:
            audit: SegmentAudit = end.value
            return audit

    def audit_steps(self, segment_id: int, unix_s: float) -> Generator[int, None, SegmentAudit]:
        """Do what `audit` does in steps: each yields how many bytes it has read."""
        try:
            found = yield from self._audit_steps(segment_id, unix_s)
        except FileNotFoundError:
            if not self._is_going(segment_id):
                raise
            return SegmentAudit(segment_id, 0, 0, (), ())
        # the file is emptied before it loses its name
        is_going = bool(found.damaged) and self._is_going(segment_id)
        return SegmentAudit(segment_id, 0, 0, (), ()) if is_going else found

    def _audit_steps(self, segment_id: int, unix_s: float) -> Generator[int, None, SegmentAudit]:
        file, size = self._open(segment_id)
        header = parse_header(file.read(0, HEADER_SIZE))
        seal = read_seal(file, size, seed=self._log.seed)
        judge = _Judge(self, segment_id, file, unix_s)
        if header is None:
            judge.damaged.append(DamagedFrame(0, b"", 0, "the segment's header is damaged"))
        if seal is None and not self._is_open(segment_id):
            judge.damaged.append(DamagedFrame(0, b"", size, "the segment has no sound seal"))
        dense = header is not None and header.kind != COMPACTED
        walker = Walker(file, size, seed=self._log.seed, values=True, dense=dense)
        for item in walker.walk(HEADER_SIZE, header.base_lsn if header is not None else 0):
            judge.take(item)
            yield item.head.size if isinstance(item, Found) else item.stop - item.offset
        if seal is not None:
            judge.compare_footer(seal)
        yield from judge.decide_missing()
        return SegmentAudit(
            segment_id, judge.frames, size, tuple(judge.damaged), tuple(judge.wrong)
        )

    def _open(self, segment_id: int) -> tuple[File, int]:
        """Return a segment and how much of it is acknowledged."""
        tail = self._log.tail
        if tail.segment_id == segment_id and tail.file is not None:
            return self._files.get(segment_id), tail.offset
        file = self._files.get(segment_id)
        size = file.size()
        if not size and self._is_going(segment_id):
            raise FileNotFoundError(f"segment {segment_id} was emptied: it is being taken away")
        return file, size

    def _is_open(self, segment_id: int) -> bool:
        tail = self._log.tail
        return tail.file is not None and tail.segment_id == segment_id

    def current(self, tagged: bytes) -> Entry | None:
        """Return where a key leads now."""
        packed = self._find(tagged)
        return Entry.unpack(packed) if packed is not None else None

    def leads_somewhere(self, tagged: bytes, entry: Entry) -> bool:
        """Tell whether an index entry points at a frame of its key."""
        return self.head_of(tagged, entry) is not None

    def head_of(self, tagged: bytes, entry: Entry) -> Head | None:
        """Return the head of the frame that an index entry points at, None unless of its key."""
        size = head_size(len(tagged) - 1, entry.vlen)
        if entry.value_offset < size:
            return None
        try:
            data = self._files.get(entry.segment_id).read(entry.value_offset - size, size)
        except OSError:
            return None
        head = parse_head(data, 0, seed=self._log.seed)
        if head is None:
            return None
        wanted = (tagged[0], tagged[1:], entry.vlen, entry.expiry)
        return head if (head.kind, head.key, head.vlen, head.expiry) == wanted else None

    def astray(self, entries: Iterable[tuple[bytes, bytes]]) -> list[NamedKey]:
        """Return the keys, of tagged keys and packed entries, that lead to no frame of theirs.

        Also those that were written again since: a checkpoint may take an entry that leads too far
        for the newer one.
        """
        return [
            (Kind(tagged[0]), tagged[1:])
            for tagged, packed in entries
            if not self.leads_somewhere(tagged, Entry.unpack(packed))
        ]

    # ------------------------------------------------------------------------ all segments

    def entries_of(self, segment_id: int) -> Iterator[FooterEntry]:
        """Yield what a segment's footer lists, or would list."""
        file, size = self._open(segment_id)
        if self._is_open(segment_id):
            yield from parse_entries(bytes(self._log.tail.footer))
            return
        seal = read_seal(file, size, seed=self._log.seed)
        if seal is not None:
            yield from parse_entries(seal.entries)
            return
        header = parse_header(file.read(0, HEADER_SIZE))
        dense = header is not None and header.kind != COMPACTED
        walker = Walker(file, size, seed=self._log.seed, values=False, dense=dense)
        for item in walker.walk(HEADER_SIZE, 0):
            if isinstance(item, Found) and item.head.kind != Kind.SEAL:
                yield from parse_entries(encode_entry(item.head, item.value_offset))

    def truth_of(self, tagged_keys: set[bytes], segments: Iterable[int]) -> dict[bytes, bytes]:
        """Return the packed entries that the index should have; tombstones for what is gone.

        segments: in order. Of two copies of a frame the one in the later segment counts.
        """
        truth = {tagged: ENTRY.pack(0, 0, 0, 0, TOMBSTONE) for tagged in tagged_keys}
        best = dict.fromkeys(tagged_keys, 1)
        for segment_id in segments:
            for entry in self.entries_of(segment_id):
                tagged = bytes((entry.target,)) + entry.key
                if entry.lsn >= best.get(tagged, 2**64):
                    best[tagged] = entry.lsn
                    flags = TOMBSTONE if entry.kind == Kind.DELETE else 0
                    truth[tagged] = ENTRY.pack(
                        segment_id, entry.value_offset, entry.vlen, entry.expiry, flags
                    )
        return truth


class _Judge:
    """Collects what is wrong with one segment."""

    def __init__(self, auditor: Auditor, segment_id: int, file: File, unix_s: float) -> None:
        self._auditor, self._segment_id = auditor, segment_id
        self._file, self._unix_s = file, unix_s
        self._holes: list[tuple[int, int]] = []
        self._missing: dict[bytes, int] = {}
        self._listed: set[tuple[int, int, bytes]] = set()
        self.frames = 0
        self.damaged: list[DamagedFrame] = []
        self.wrong: list[NamedKey] = []

    def take(self, item: Found | Gap) -> None:
        if isinstance(item, Gap):
            self.damaged.append(DamagedFrame(0, b"", item.offset, "no frame can be read here"))
            return
        head = item.head
        if head.kind == Kind.SEAL:
            return
        self.frames += 1
        self._listed.add((head.lsn, item.value_offset, head.key))
        if head.target not in DATA_KINDS:
            return
        tagged = bytes((head.target,)) + head.key
        if head.kind == Kind.DELETE:
            self._judge_delete(tagged, item)
        else:
            self._judge_value(tagged, item)

    def _judge_delete(self, tagged: bytes, item: Found) -> None:
        current = self._auditor.current(tagged)
        if current is None or current.place > (self._segment_id, item.value_offset):
            return
        head = self._auditor.head_of(tagged, current)
        if head is None or head.lsn < item.head.lsn:
            self._is_wrong(tagged)

    def _judge_value(self, tagged: bytes, item: Found) -> None:
        head = item.head
        here = (self._segment_id, item.value_offset)
        current = self._auditor.current(tagged)
        alive = current is not None and current.place == here
        # one that has expired may be a hole: the index forgets such keys without a frame
        wanted = alive and not 0 < head.expiry <= self._unix_s
        if not item.value_sound and (wanted or not self._in_hole(item)):
            # it may have been punched, and its key deleted, while it was being read
            if alive and self._auditor.current(tagged) != current:
                return
            reason = "the value does not match its checksum"
            self.damaged.append(DamagedFrame(head.target, head.key, item.offset, reason))
        if current is None:
            if not 0 < head.expiry <= self._unix_s:
                self._missing[tagged] = head.lsn
        elif alive:
            if (current.vlen, current.expiry) != (head.vlen, head.expiry):
                self._is_wrong(tagged)
        elif self._is_astray(tagged, current, head) and self._auditor.current(tagged) == current:
            self._is_wrong(tagged)

    def _is_astray(self, tagged: bytes, current: Entry, here: Head) -> bool:
        """Tell whether an entry that leads elsewhere leads back, or to no frame of its key."""
        head = self._auditor.head_of(tagged, current)
        return head is None or head.lsn < here.lsn

    def _in_hole(self, item: Found) -> bool:
        start, stop = item.value_offset, item.stop
        for _ in range(2):
            if any(low < stop and start < high for low, high in self._holes):
                return True
            self._holes = self._file.holes()
        return False

    def compare_footer(self, seal: Seal) -> None:
        """Compare what the footer lists with the frames that were found."""
        listed = {(entry.lsn, entry.value_offset, entry.key) for entry in seal}
        if listed != self._listed:
            reason = f"the footer and the frames differ in {len(listed ^ self._listed)} places"
            self.damaged.append(DamagedFrame(0, b"", seal.offset, reason))

    def decide_missing(self) -> Iterator[int]:
        """Keys without an index entry are wrong unless a later frame deleted them."""
        looked: set[int] = set()
        while self._missing:
            left = [sid for sid in self._auditor.segments() if sid >= self._segment_id]
            left = [sid for sid in left if sid not in looked]
            have_gone = False
            for segment_id in left:
                if self._missing:
                    yield FOOTER_COST_BYTES
                    have_gone |= not self._find_later(segment_id)
            looked.update(left)
            if not have_gone:  # else what compaction took away lies in a segment that is new
                break
        for tagged in self._missing:
            if self._auditor.current(tagged) is None:
                self._is_wrong(tagged)

    def _find_later(self, segment_id: int) -> bool:
        """Drop what is missing and has a later frame in a segment; False when that has gone."""
        try:
            for entry in self._auditor.entries_of(segment_id):
                tagged = bytes((entry.target,)) + entry.key
                if self._missing.get(tagged, entry.lsn) < entry.lsn:
                    # deleted, or a later value, which is that segment's own affair
                    del self._missing[tagged]
        except FileNotFoundError:
            return False
        return True

    def _is_wrong(self, tagged: bytes) -> None:
        self.wrong.append((Kind(tagged[0]), tagged[1:]))
