"""Opening a shard: what the log holds beyond the index, what of its end is torn, what is damage.

A torn tail is cut off; damage is reported and never cut off. The two are told apart by what sound
frames say: each carries the highest LSN that was synced when it was written, so a bad frame with an
LSN that a later sound frame vouches for was once whole. Sealed segments are taken from their
footers, the one open segment is read with all its CRCs.
Source: docs/explanation/store.md, "Recovery".
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from molia.store.frame import Head
from molia.store.index import ENTRY, OPEN, RETIRED, SEALED, TOMBSTONE, Position, SegmentRow
from molia.store.keys import DATA_KINDS, Kind
from molia.store.log import Home, Tail
from molia.store.memtable import Generation
from molia.store.ops import Damage, RecoveryReport
from molia.store.plain import Plain, read_frames, read_lines
from molia.store.segment import (
    COMPACTED,
    FOREGROUND,
    HEADER_SIZE,
    Found,
    Gap,
    Seal,
    SegmentHeader,
    Walker,
    encode_entry,
    parse_header,
    read_seal,
    segment_id_of,
)
from molia.store.unreadable import PatchedFile, Patience

__all__ = ["Recovery", "RecoveryReport"]

DAMAGE_SHOWN: Final = 1_000
_TAGS: Final = frozenset(int(kind) for kind in DATA_KINDS)
Flush = Callable[[Generation], bool]


@dataclass(slots=True)
class Findings:
    """What recovery has to report."""

    damaged: list[Damage] = field(default_factory=list)
    damage_count: int = 0
    frames: int = 0
    bytes_scanned: int = 0
    truncated_bytes: int = 0
    removed: list[str] = field(default_factory=list)

    def damage(
        self, segment_id: int, offset: int, reason: str, *, kind: int = 0, key: bytes = b""
    ) -> None:
        """Note damage."""
        self.damage_count += 1
        if len(self.damaged) < DAMAGE_SHOWN:
            self.damaged.append(Damage(segment_id, offset, reason, kind, key))


@dataclass(slots=True)
class Suspect:
    """A frame whose value is bad where there is a hole: fine, if the key has moved on."""

    segment_id: int
    offset: int
    tagged: bytes
    entry: bytes


class Recovery:
    """Reads the log from the last checkpoint on; `run` does it all.

    position: up to where the index is; None to build the index anew, from the first segment.
    rows: segment rows as the index has them; they are brought up to date.
    gaps_to: up to this LSN compaction may have taken segments away, so that none is missed there.
    flush: takes a generation into the index when it has grown to `flush_keys`; False when it does
    not fit there.
    """

    def __init__(
        self, home: Home, *, seed: int, position: Position | None, rows: dict[int, SegmentRow],
        flush: Flush, flush_keys: int, gaps_to: int = 0,
    ) -> None:  # fmt: skip
        self._gaps_to = gaps_to
        self._home, self._seed, self._rows = home, seed, rows
        self._rebuilding = position is None
        self._position = position or Position(0, 0, 0)
        self._flush, self._flush_keys = flush, flush_keys
        self._expected = self._position.lsn + 1 if position is not None else 0
        self.generation = Generation()
        """What is to go into the index."""
        self.findings = Findings()
        self.suspects: list[Suspect] = []
        self._unknown: list[int] = []
        """Outputs of compactions that the index does not know."""
        self.newest_unix_s = 0
        """When the newest segment that was read was begun."""
        self.tail = Tail()
        self.failure = ""
        """Why what was read may not be on the disk; empty when it is."""
        self.cut: int | None = None
        """Where the open segment is to be cut off; None when its end is sound."""
        self._patience = Patience()

    # ------------------------------------------------------------------------ the whole

    def run(self) -> None:
        """Read everything; nothing is changed on the disk but junk files. See `remove_unknown`."""
        names = self._home.disk.list_dir(f"{self._home.name}/seg")
        found = sorted(sid for sid in map(segment_id_of, names) if sid is not None)
        outputs = self._outputs(found)
        written = [sid for sid in found if sid not in outputs]
        self._make_durable(written)
        self._check_rows(set(found))
        known = max([*found, *self._rows, self._position.segment_id], default=0)
        last = written[-1] if written else 0
        for segment_id in found:
            if self._rebuilding or (segment_id in written and self._is_new(segment_id)):
                self._segment(segment_id, is_last=segment_id == last)
            elif segment_id in outputs and segment_id not in self._rows:
                self._unknown.append(segment_id)  # nothing leads there yet
        tail = self.tail
        tail.next_segment_id = known + 1
        tail.next_lsn = max(self._expected, self._position.lsn + 1, 1)
        if tail.file is None and not tail.last_position.segment_id:
            tail.last_position = self._position

    def remove_unknown(self) -> None:
        """Remove outputs that nothing leads to, once no other process reads the old delta."""
        for segment_id in self._unknown:
            self._remove(segment_id)

    def report(self, *, created: bool, rebuild_reason: str) -> RecoveryReport:
        """Return what was found."""
        found = self.findings
        return RecoveryReport(
            created=created,
            index_rebuilt=bool(rebuild_reason),
            rebuild_reason=rebuild_reason,
            segments=len(self._rows),
            frames_replayed=found.frames,
            bytes_scanned=found.bytes_scanned,
            truncated_bytes=found.truncated_bytes,
            removed_files=tuple(found.removed),
            damaged=tuple(found.damaged),
            damage_count=found.damage_count,
        )

    def _is_new(self, segment_id: int) -> bool:
        return segment_id >= self._position.segment_id

    def _outputs(self, found: list[int]) -> set[int]:
        """Return which segments are outputs of compactions, of all that may matter.

        They are whole, for they were sealed and synced before they got their names, and hold
        nothing that the index does not know from elsewhere.
        """
        outputs = set()
        for segment_id in found:
            row = self._rows.get(segment_id)
            kind = row.kind if row is not None and not self._is_new(segment_id) else 0
            if not kind:
                header = self._header(segment_id)
                kind = header.kind if header is not None else row.kind if row is not None else 0
            if kind == COMPACTED:
                outputs.add(segment_id)
        return outputs

    def _header(self, segment_id: int) -> SegmentHeader | None:
        file = self._home.disk.open(self._home.segment(segment_id), writable=False)
        try:
            return parse_header(PatchedFile(file, self._patience).read(0, HEADER_SIZE))
        finally:
            file.close()

    def _make_durable(self, found: list[int]) -> None:
        """Sync what a killed process may have left in the page cache, before anything relies on it.

        Only the newest segment can have such bytes, and only its name can be as new.
        """
        disk = self._home.disk
        try:
            disk.sync_dir(f"{self._home.name}/seg")
            if found:
                file = disk.open(self._home.segment(found[-1]))
                try:
                    file.sync()
                finally:
                    file.close()
        except OSError as error:
            self.failure = error.strerror or str(error)

    def _check_rows(self, found: set[int]) -> None:
        for segment_id in sorted(set(self._rows) - found):
            if self._rows[segment_id].state == RETIRED:
                continue
            self.findings.damage(segment_id, 0, "the segment's file is gone")
        lost = self._position.segment_id not in found | set(self._rows)
        if self._position.segment_id and lost:
            self.findings.damage(self._position.segment_id, 0, "the segment's file is gone")

    def _segment(self, segment_id: int, *, is_last: bool) -> None:
        opened = self._home.disk.open(self._home.segment(segment_id), writable=is_last)
        file, keep_open = PatchedFile(opened, self._patience), False
        try:
            # after a failed sync the cache may show what the disk does not hold
            opened.drop_cache()
            size = file.size()
            header = parse_header(file.read(0, HEADER_SIZE))
            seal = read_seal(file, size, seed=self._seed)
            self.findings.bytes_scanned += HEADER_SIZE
            if header is None and seal is None and self._is_junk(file, size, is_last=is_last):
                self._remove(segment_id)
                return
            self._check_header(segment_id, header)
            if seal is not None:
                self._sealed(segment_id, size, header, seal)
                if header is None or header.kind != COMPACTED:
                    self._expected = seal.head.lsn + 1
                    self.tail.last_position = Position(segment_id, size, seal.head.lsn)
            else:
                keep_open = is_last
                self._unsealed(segment_id, file, size, header, is_last=is_last)
                if is_last:
                    self.tail.file = opened
        finally:
            if not keep_open:
                opened.close()
        is_large = len(self.generation.entries) >= self._flush_keys
        if is_large and not self.failure and self._flush(self.generation):
            self.generation = Generation()

    # ------------------------------------------------------------------------ headers

    def _is_junk(self, file: PatchedFile, size: int, *, is_last: bool) -> bool:
        """Tell whether a segment without header was never finished: no frame is in it."""
        if file.unreadable:
            return False
        if size <= HEADER_SIZE:
            return True
        walker = Walker(file, size, seed=self._seed, values=False)
        first = next(iter(walker.walk(HEADER_SIZE, self._expected)), None)
        return is_last and isinstance(first, Gap) and first.stop == size

    def _remove(self, segment_id: int) -> None:
        name = self._home.segment(segment_id)
        self._home.disk.unlink(name)
        self._home.disk.sync_dir(f"{self._home.name}/seg")
        self._rows.pop(segment_id, None)
        self.findings.removed.append(name)

    def _check_header(self, segment_id: int, header: SegmentHeader | None) -> None:
        if header is None:
            self.findings.damage(segment_id, 0, "the segment's header is damaged")
            return
        self.newest_unix_s = max(self.newest_unix_s, header.created_unix_ms // 1000)
        if header.store_uuid != self._home.store_uuid or header.segment_id != segment_id:
            self.findings.damage(segment_id, 0, "the segment belongs elsewhere")
        if header.kind == COMPACTED:
            return
        at_start = segment_id > self._position.segment_id
        is_new = header.base_lsn > self._gaps_to + 1
        if at_start and is_new and self._expected and header.base_lsn > self._expected:
            missing = header.base_lsn - self._expected
            self.findings.damage(segment_id, 0, f"{missing} frames before the segment are missing")
        if at_start:
            self._expected = max(self._expected, header.base_lsn)

    # ------------------------------------------------------------------------ sealed segments

    def _sealed(self, segment_id: int, size: int, header: SegmentHeader | None, seal: Seal) -> None:
        row = self._new_row(segment_id, header, size)
        row.state = SEALED
        self.findings.bytes_scanned += size - seal.offset
        listed = read_lines(
            seal.entries, segment_id=segment_id, above=self._position.lsn,
            dense=row.kind != COMPACTED, expected=row.min_lsn,
        )  # fmt: skip
        for missing in listed.missing:
            self.findings.damage(segment_id, 0, f"{missing} frames are missing")
        row.frames, row.max_expiry = listed.frames, listed.max_expiry
        self.findings.frames += listed.new_frames
        self.generation.put_all(listed.keys, listed.entries)
        row.max_lsn = seal.head.lsn

    # ------------------------------------------------------------------------ the open segment

    def _unsealed(
        self, segment_id: int, file: PatchedFile, size: int, header: SegmentHeader | None, *,
        is_last: bool,
    ) -> None:  # fmt: skip
        row = self._new_row(segment_id, header, size)
        reader = _OpenSegment(self, segment_id, row)
        start, lsn = HEADER_SIZE, header.base_lsn if header is not None else 0
        if segment_id == self._position.segment_id:
            start, lsn = self._position.offset, self._position.lsn + 1
            if size < start:
                self.findings.damage(segment_id, size, "the segment ends before the checkpoint")
            base = header.base_lsn if header is not None else 0
            reader.read_before(Walker(file, start, seed=self._seed, values=False), base)
        elif header is None:
            lsn = self._expected
        if not is_last:
            self.findings.damage(segment_id, size, "the segment has no sound seal")
        dense = row.kind != COMPACTED
        walker = Walker(file, size, seed=self._seed, values=True, dense=dense)
        end, last_lsn = reader.read_after(
            walker, start, lsn, file, vouched=self._position.lsn if is_last else None
        )
        self.findings.bytes_scanned += max(0, size - start)
        row.bytes, row.max_lsn = size, last_lsn
        if dense:
            self._expected = last_lsn + 1
        if is_last:
            self._leave_open(segment_id, file, size, end, reader.footer)

    def _leave_open(
        self, segment_id: int, file: PatchedFile, size: int, end: int, footer: bytearray
    ) -> None:
        if file.is_unreadable(end, size):  # it may have been acknowledged: nothing is cut off
            self.findings.damage(segment_id, end, "the disk cannot read the segment's end")
            end = size
        tail = self.tail
        tail.segment_id, tail.offset = segment_id, end
        tail.footer, tail.must_seal = footer, True
        if end != size:
            self.cut = end
            self.findings.truncated_bytes = size - end
            self._rows[segment_id].bytes = end

    def _new_row(self, segment_id: int, header: SegmentHeader | None, size: int) -> SegmentRow:
        """Return a row counted anew; what is live is as the index says."""
        before = self._rows.get(segment_id, SegmentRow())
        base_lsn = header.base_lsn if header is not None else max(before.min_lsn, self._expected)
        row = SegmentRow(
            OPEN,
            header.kind if header is not None else FOREGROUND,
            size,
            live_bytes=before.live_bytes,
            live_frames=before.live_frames,
            min_lsn=base_lsn,
            max_lsn=max(0, base_lsn - 1),
            punched_bytes=before.punched_bytes,
        )
        self._rows[segment_id] = row
        return row

    # ------------------------------------------------------------------------ frames

    def take_plain(self, plain: Plain) -> None:
        """Bring whole transactions into the generation."""
        self.findings.frames += len(plain.lines)
        self.generation.put_all(plain.keys, plain.entries)

    def take_frame(self, segment_id: int, found: Found) -> None:
        """Bring one frame into the generation."""
        head = found.head
        self.findings.frames += 1
        if head.target in _TAGS:
            flags = TOMBSTONE if head.kind == Kind.DELETE else 0
            packed = ENTRY.pack(segment_id, found.value_offset, head.vlen, head.expiry, flags)
            self.generation.put(bytes((head.target,)) + head.key, packed)


class _OpenSegment:
    """Reads a segment without a seal: first what the index has, then what it has not."""

    def __init__(self, recovery: Recovery, segment_id: int, row: SegmentRow) -> None:
        self._recovery, self._segment_id, self._row = recovery, segment_id, row
        self._findings = recovery.findings
        self.footer = bytearray()
        self._pending: list[Found] = []
        self._end = HEADER_SIZE
        self._last_lsn = row.max_lsn

    def read_before(self, walker: Walker, lsn: int) -> None:
        """Collect the footer of what the index has already; values are not looked at."""
        for item in read_frames(walker, HEADER_SIZE, lsn, segment_id=self._segment_id):
            if isinstance(item, Plain):
                self._list_plain(item)
            elif isinstance(item, Gap):
                self._damage(item.offset, "no frame can be read here")
            else:
                self._list(item)

    def read_after(
        self, walker: Walker, start: int, lsn: int, file: PatchedFile, *, vouched: int | None
    ) -> tuple[int, int]:
        """Take in whole transactions; return where they end and the last LSN.

        vouched: the highest LSN that is known to have been synced; None when all were. What the
        disk cannot read counts as synced: a power cut leaves no bad sectors.
        """
        self._end, self._last_lsn = start, lsn - 1 if lsn else self._last_lsn
        durable = vouched if vouched is not None else 2**64
        later: list[Found | Gap] = []
        for item in read_frames(walker, start, lsn, segment_id=self._segment_id):
            if isinstance(item, Plain):
                durable = max(durable, item.durable)
                self._accept_plain(item)
                continue
            if isinstance(item, Found):
                durable = max(durable, item.head.durable)
            if later or isinstance(item, Gap) or not item.value_sound:
                later.append(item)
            else:
                self._accept(item)
        if file.is_unreadable(start, walker.size):
            vouched, durable = None, 2**64
        holes: list[tuple[int, int]] | None = None
        for item in later:
            is_gap = isinstance(item, Gap)
            bad_lsn = item.lsn if isinstance(item, Gap) else item.head.lsn
            if (is_gap or not item.value_sound) and bad_lsn > durable:  # type: ignore[union-attr]
                return self._end, self._last_lsn
            if isinstance(item, Gap):
                self._damage(item.offset, "no frame can be read here")
                self._accept_pending()
                self._end = item.stop
                continue
            if not item.value_sound and holes is None:
                holes = file.holes()
            self._accept(item, holes=holes)
        if vouched is None:
            self._accept_pending()
        return self._end, self._last_lsn

    def _accept_plain(self, plain: Plain) -> None:
        assert not self._pending, "whole transactions follow on whole ones"
        self._list_plain(plain)
        self._recovery.take_plain(plain)
        self._end, self._last_lsn = plain.stop, self._last_lsn + len(plain.lines)

    def _accept(self, item: Found, *, holes: list[tuple[int, int]] | None = None) -> None:
        self._pending.append(item)
        if not item.value_sound:
            self._bad_value(item, holes or [])
        if not item.head.more:
            self._accept_pending()

    def _accept_pending(self) -> None:
        for item in self._pending:
            self._list(item)
            self._recovery.take_frame(self._segment_id, item)
            self._end, self._last_lsn = item.stop, item.head.lsn
        self._pending.clear()

    def _list(self, item: Found) -> None:
        if item.head.kind == Kind.SEAL:
            return
        self._row.frames += 1
        self._row.max_expiry = max(self._row.max_expiry, item.head.expiry)
        self.footer += encode_entry(item.head, item.value_offset)

    def _list_plain(self, plain: Plain) -> None:
        self._row.frames += len(plain.lines)
        self._row.max_expiry = max(self._row.max_expiry, plain.max_expiry)
        self.footer += b"".join(plain.lines)

    def _bad_value(self, item: Found, holes: list[tuple[int, int]]) -> None:
        head = item.head
        inside = any(
            start < item.value_offset + head.vlen and item.value_offset < stop
            for start, stop in holes
        )
        if not inside or head.target not in _TAGS:
            self._damage(item.offset, "the value does not match its checksum", head)
            return
        packed = ENTRY.pack(self._segment_id, item.value_offset, head.vlen, head.expiry, 0)
        tagged = bytes((head.target,)) + head.key
        self._recovery.suspects.append(Suspect(self._segment_id, item.offset, tagged, packed))

    def _damage(self, offset: int, reason: str, head: Head | None = None) -> None:
        kind, key = (head.target, head.key) if head is not None else (0, b"")
        self._findings.damage(self._segment_id, offset, reason, kind=kind, key=key)
