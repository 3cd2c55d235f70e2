"""Reading everything once a month, at a bounded rate, before rot piles up.

A pass goes over the sealed segments (checksums, footers, what the index says of their keys), then
over the index (whether each entry leads to a frame of its key). How far it is stands in the index,
so a restart goes on where the last run was. What it finds is handed out; nothing is mended here.
Checks against BLAKE3 need leaf lists, which a store knows nothing of: who owns the blobs does them.
"""

import struct
from collections import deque
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

from molia.base.limits import DAMAGE_QUEUE_MAX, SCRUB_BYTES_PER_S, SCRUB_STEP_BYTES
from molia.base.now import Now
from molia.store.audit import Auditor
from molia.store.index import TAGS, Index, SegmentRow, Slice
from molia.store.keys import DATA_KINDS, Kind
from molia.store.lmdb_env import IndexFailed, IndexFull
from molia.store.ops import Counters, SegmentAudit

_MARK: Final = b"scrub"
_STATE: Final = struct.Struct("<QQQQQQB")
_INDEX_PAGE: Final = 200
_SAVE_PAGES: Final = 500
HEAD_BYTES: Final = 4096
"""What looking at one frame's head costs."""
IDLE, SEGMENTS, INDEX = range(3)
Steps = Generator[int, None, None]


class Finding(NamedTuple):
    """Damage that a pass met. No kind and key when they are not known."""

    segment_id: int
    """0 for an index entry that leads nowhere."""
    kind: int
    key: bytes
    reason: str
    is_index: bool
    """The log is sound and the index is wrong: `Shard.reindex` mends it."""


@dataclass(frozen=True, slots=True)
class ScrubStatus:
    """How far scrubbing is."""

    phase: int = IDLE
    started_unix_s: int = 0
    """When the pass began, or the last one that ended; 0 before the first."""
    ended_unix_s: int = 0
    """When the last pass ended; 0 before that."""
    segment_id: int = 0
    """The last segment that was read."""
    last_segment_id: int = 0
    """The last segment that this pass reads."""
    size_bytes: int = 0
    """Bytes that the pass has read."""
    damaged: int = 0
    """Damaged places and wrong entries that the pass has met."""

    def encode(self, after: tuple[int, bytes]) -> bytes:
        """Return the bytes that are kept in the index. after: kind and key, in the index."""
        kind, key = after
        assert self.phase < 16 > kind, "both fit into one byte"
        return _STATE.pack(
            self.started_unix_s, self.ended_unix_s, self.segment_id, self.last_segment_id,
            self.size_bytes, self.damaged, self.phase << 4 | kind,
        ) + key  # fmt: skip

    @classmethod
    def decode(cls, data: bytes) -> "tuple[ScrubStatus, tuple[int, bytes]]":
        """Return what was kept; a status before the first pass when that cannot be read."""
        if len(data) < _STATE.size:
            return cls(), (0, b"")
        started, ended, segment, last, size, damaged, tag = _STATE.unpack_from(data)
        if tag >> 4 not in (IDLE, SEGMENTS, INDEX):
            return cls(), (0, b"")
        status = cls(tag >> 4, started, ended, segment, last, size, damaged)
        return status, (tag & 15, data[_STATE.size :])


class Scrubber:
    """Scrubs one shard in steps of a few milliseconds.

    every_s: from the start of a pass to that of the next; 0 for never. segments: returns the ids of
    all segments. is_open: tells whether one is still being written.
    """

    def __init__(
        self, *, index: Index, auditor: Auditor, rows: dict[int, SegmentRow], counters: Counters,
        segments: Callable[[], list[int]], is_open: Callable[[int], bool], every_s: float, now: Now,
    ) -> None:  # fmt: skip
        self._index, self._auditor, self._rows = index, auditor, rows
        self._counters, self._segments, self._is_open = counters, segments, is_open
        self._every_s = every_s
        self.status, self._after = ScrubStatus.decode(index.mark(_MARK))
        self._steps: Steps | None = None
        self._due_s = now.mono_s
        self._unix_s = now.unix_s
        self._found: deque[Finding] = deque(maxlen=DAMAGE_QUEUE_MAX)

    def take(self) -> list[Finding]:
        """Return what was found since the last call, at most the newest few thousand."""
        found = list(self._found)
        self._found.clear()
        return found

    def due_s(self) -> float | None:
        """Return when `step` is to be called; None for never."""
        return self._due_s if self._every_s else None

    def step(self, now: Now) -> None:
        """Read a little if it is time. Raises IndexFull, IndexFailed, OSError."""
        if not self._every_s or now.mono_s < self._due_s:
            return
        self._unix_s = now.unix_s
        if self.status.phase == IDLE and not self._begin(now):
            return
        if self._steps is None:
            self._steps = self._segment_steps() if self.status.phase == SEGMENTS else self._pages()
        size = 0
        while size < SCRUB_STEP_BYTES:
            try:
                read = next(self._steps, None)
            except (IndexFull, IndexFailed, OSError):
                self._steps = None  # they have ended: the next step goes on from the status
                raise
            if read is None:
                self._steps = None
                self._next_phase(now)
                break
            size += read
            self.status = replace(self.status, size_bytes=self.status.size_bytes + read)
        self._counters.scrubbed_bytes += size
        self._due_s = now.mono_s + size / SCRUB_BYTES_PER_S

    def _begin(self, now: Now) -> bool:
        """Start a pass if it is time; else note when."""
        since_s = now.unix_s - self.status.started_unix_s
        if self.status.started_unix_s and 0 <= since_s < self._every_s:
            self._due_s = now.mono_s + min(self._every_s - since_s, 86_400.0)
            return False
        sealed = [sid for sid in self._segments() if not self._is_open(sid)]
        self.status = ScrubStatus(
            SEGMENTS, max(1, int(now.unix_s)), self.status.ended_unix_s,
            last_segment_id=max(sealed, default=0),
        )  # fmt: skip
        self._after = (0, b"")
        self._save()
        return True

    def _next_phase(self, now: Now) -> None:
        if self.status.phase == SEGMENTS:
            self.status = replace(self.status, phase=INDEX)
        else:
            self.status = replace(self.status, phase=IDLE, ended_unix_s=int(now.unix_s))
            self._counters.scrubs += 1
        self._after = (0, b"")
        self._save()

    def _save(self) -> None:
        marks = {_MARK: self.status.encode(self._after)}
        self._index.write_slice(Slice([], self._rows, marks=marks))
        self._counters.index_commits += 1

    # ------------------------------------------------------------------------ segments

    def _segment_steps(self) -> Steps:
        while True:
            low, high = self.status.segment_id, self.status.last_segment_id
            sealed = [sid for sid in self._segments() if not self._is_open(sid)]
            left = [sid for sid in sealed if low < sid <= high]
            if not left:
                return
            yield from self._segment(left[0])
            self.status = replace(self.status, segment_id=left[0])
            self._save()

    def _segment(self, segment_id: int) -> Steps:
        steps = self._auditor.audit_steps(segment_id, self._unix_s)
        try:
            while True:
                yield next(steps)
        except StopIteration as end:
            self._report(end.value)
        except OSError as error:
            if segment_id in self._segments():  # else it was given up meanwhile
                reason = f"it cannot be read: {error.strerror or error}"
                self._note([Finding(segment_id, 0, b"", reason, is_index=False)])

    def _report(self, audit: SegmentAudit) -> None:
        damaged = [
            Finding(audit.segment_id, frame.kind, frame.key, frame.reason, is_index=False)
            for frame in audit.damaged
        ]
        reason = "its index entry is wrong"
        wrong = [
            Finding(audit.segment_id, kind, key, reason, is_index=True)
            for kind, key in audit.index_wrong
        ]
        self._note([*damaged, *wrong])

    def _note(self, found: Iterable[Finding]) -> None:
        for finding in found:
            self._found.append(finding)
            self._counters.scrub_findings += 1
            self.status = replace(self.status, damaged=self.status.damaged + 1)

    # ------------------------------------------------------------------------ the index

    def _pages(self) -> Steps:
        first, after = self._after
        pages = 0
        for kind in DATA_KINDS:
            if kind < first:
                continue
            last: bytes | None = after if kind == first else b""
            while last is not None:
                last = yield from self._page(kind, last)
                pages += 1
                if last is not None and pages % _SAVE_PAGES == 0:
                    self._after = (int(kind), last)
                    self._save()

    def _page(self, kind: Kind, after: bytes) -> Generator[int, None, bytes | None]:
        with self._index.read() as snapshot:
            page = snapshot.page(kind, after, b"", _INDEX_PAGE)
        astray = self._auditor.astray([(TAGS[kind] + key, packed) for key, packed in page])
        reason = "its index entry leads to no frame of it"
        # one that has moved meanwhile is fine
        still = [key for _, key in astray if self._leads_nowhere(TAGS[kind] + key)]
        self._note(Finding(0, int(kind), key, reason, is_index=True) for key in still)
        yield len(page) * HEAD_BYTES
        return page[-1][0] if len(page) == _INDEX_PAGE else None

    def _leads_nowhere(self, tagged: bytes) -> bool:
        entry = self._auditor.current(tagged)
        return entry is not None and not self._auditor.leads_somewhere(tagged, entry)
