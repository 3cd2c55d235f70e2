"""The writer's side of compaction: choosing, putting outputs in place, moving, retiring, unlinking.

A victim is retired by the checkpoint that brings its last moved location into the index, and
unlinked after it; until the directory is synced it counts among the files that may come back.
"""

import contextlib
from collections.abc import Callable, Iterator
from itertools import chain, islice
from typing import Final

from molia.base.limits import COMPACT_BYTES_PER_S, COMPACT_PIECE_FRAMES, KIB
from molia.base.now import Now
from molia.store.compact import CLASSES, Copy, Floors, Output, Stage, lowest
from molia.store.delta import Delta
from molia.store.disk import is_full
from molia.store.files import SegmentFiles
from molia.store.index import ENTRY, RETIRED, SEALED, Entry, Index, SegmentRow
from molia.store.keys import Kind
from molia.store.log import Home, Log
from molia.store.memtable import Memtable
from molia.store.ops import Counters, ShardOptions
from molia.store.segment import FooterEntry, parse_entries
from molia.store.victims import choose, garbage_of, share_of

RETRY_S: Final = 60.0
"""So long after a failed compaction the next one is tried."""
IDLE_AFTER_S: Final = 1.0
IDLE_FACTOR: Final = 4
REST_AFTER_S: Final = 10.0
GARBAGE_TOTAL_SHARE: Final = 0.25
"""More garbage than this in all segments together makes less of it in each worth a compaction."""
_STEP_BYTES: Final = 16 * KIB
"""What a step counts for that copies nothing: it looks up some hundred keys."""


class Compactor:
    """Compacts one shard, one output at a time; `phase` tells what it is at."""

    def __init__(
        self, home: Home, *, log: Log, index: Index, memtable: Memtable, files: SegmentFiles,
        rows: dict[int, SegmentRow], options: ShardOptions, counters: Counters,
        delta: Delta | None,
    ) -> None:  # fmt: skip
        self._home, self._log, self._index, self._memtable = home, log, index, memtable
        self._files, self._rows, self._options = files, rows, options
        self._counters, self._delta = counters, delta
        self._copy: Copy | None = None
        self._moves: Iterator[tuple[Output, FooterEntry]] = iter(())
        self._for_garbage = False
        self._hidden: dict[int, int] = {}
        self._unfit: set[int] = set()
        self._retry_s = 0.0
        self._written_s = 0.0
        self._idle_due_s: float | None = None
        self._resting = False
        """Nothing has been written for a while: less garbage is worth a compaction."""
        self._pressed = False
        self._look = True
        """Something has changed since it was last looked for victims."""
        self.retiring: set[int] = set()
        """Victims whose frames have all moved; the next checkpoint retires them."""
        self.retired = {sid for sid, row in rows.items() if row.state == RETIRED}
        """Victims that the index says are retired; they are to be unlinked, then forgotten."""
        self.held = set(self.retired)
        """Segments that are being rewritten, or may be gone already: nothing is punched there."""
        self.unlisted: set[int] = set()
        """Outputs whose rows are not in the index yet. They must be there before their victims are
        retired: a start takes an output that the index does not know for one that was given up."""
        self.phase = ""
        """"", "copy", "rename", "move", "retire", "unlink"."""

    # ------------------------------------------------------------------------ any one thread

    @property
    def is_copying(self) -> bool:
        """Whether `copy_step` has something to do."""
        copy = self._copy
        return copy is not None and copy.stage in (Stage.SURVEY, Stage.COPY)

    def copy_step(self, now: Now) -> float | None:
        """Copy one piece; return the seconds to wait before the next, None when none is left."""
        copy = self._copy
        if copy is None or not self.is_copying:
            return None
        copied = copy.step()
        self._counters.compacted_bytes += copied
        is_idle = now.mono_s > self._written_s + IDLE_AFTER_S
        rate = COMPACT_BYTES_PER_S * (IDLE_FACTOR if is_idle else 1)
        return (copied + _STEP_BYTES) / rate

    # ------------------------------------------------------------------------ the writer

    def note_batch(self, now: Now) -> None:
        """Take note of a batch: copying is slow beside it."""
        self._written_s = now.mono_s
        self._idle_due_s = now.mono_s + REST_AFTER_S if self._options.compact else None
        self._resting = False

    def press(self, *, pressed: bool) -> None:
        """Say whether the quota is nearly used up: less garbage is worth a compaction then."""
        self._look = self._look or pressed != self._pressed
        self._pressed = pressed

    @property
    def wants_checkpoint(self) -> bool:
        """Whether a checkpoint would give space back."""
        return bool(self.retiring)

    @property
    def is_busy(self) -> bool:
        """Whether a compaction is under way."""
        return self._copy is not None or bool(self.retiring or self.retired)

    def takes(self, segment_id: int) -> bool:
        """Tell whether a segment is being rewritten, or is to be unlinked."""
        return segment_id in self.held or segment_id in self.retired

    def garbage_bytes(self) -> int:
        """Return the bytes of dead frames that are not given back."""
        hidden = self._hidden
        rows = list(self._rows.items())  # at once: another thread may be asking
        return sum(garbage_of(row, hidden.get(sid, 0)) for sid, row in rows)

    def copied_bytes(self) -> int:
        """Return what outputs that are not in place yet take on the disk."""
        copy = self._copy
        if copy is None or self.phase != "copy":
            return 0
        return sum(output.offset for output in list(copy.outputs.values()))

    def step(self, now: Now, *, below: int, make_room: Callable[[], bool]) -> bool:
        """Do one piece of what is due; False when nothing is.

        below: the segment of the last checkpoint. make_room: gives up the ballast, if there is one.
        Raises NoSpace, ShardUnavailable, IndexFull, IndexFailed, OSError.
        """
        if self.retired:
            self._unlink()
        elif self.retiring:
            return False  # a checkpoint comes first
        elif self._copy is None:
            return self._choose(now, below, make_room)
        elif self._copy.stage is Stage.SURVEYED:
            self._begin(self._copy, now)
        elif self._copy.stage is Stage.FAILED:
            self._give_up(self._copy, now)
        elif self._copy.stage is Stage.DONE:
            self._go_on(self._copy)
        else:
            return False
        return True

    def due_s(self) -> float | None:
        """Return when it is to be looked for victims again, None while nothing calls for it."""
        if self._copy is not None:
            return None  # there is nothing to look for before it has ended
        due = [at_s for at_s in (self._retry_s, self._idle_due_s) if at_s]
        return min(due, default=None)

    def close(self) -> None:
        """Let go of files; what is half done is removed at the next start."""
        if self._copy is not None:
            self._copy.give_up()

    def note_retired(self, segments: set[int], listed: set[int]) -> None:
        """Take note that the index says that these are retired, and has the rows of others."""
        self.unlisted -= listed
        self.retiring -= segments
        self.retired |= segments
        self._look = True
        if segments:
            self.phase = "unlink"

    # ------------------------------------------------------------------------ the stages

    @property
    def _share(self) -> float:
        """Return how much garbage makes a segment worth it: less when there is much, or time."""
        options = self._options
        is_much = share_of(self._rows, self._hidden) > GARBAGE_TOTAL_SHARE
        if self._pressed or self._resting or is_much:
            return options.garbage_share_pressed
        return options.garbage_share

    def _choose(self, now: Now, below: int, make_room: Callable[[], bool]) -> bool:
        if self._idle_due_s is not None and now.mono_s >= self._idle_due_s:
            self._idle_due_s, self._resting, self._look = None, True, True
        if not self._look or now.mono_s < self._retry_s:
            return False
        self._look, self._retry_s = False, 0.0
        free_bytes = self._home.disk.free_bytes()
        options = self._options
        rows = {sid: row for sid, row in self._rows.items() if sid not in self._unfit}

        def look(room: int) -> dict[int, SegmentRow]:
            victims, self._for_garbage = choose(
                rows, hidden=self._hidden, below=below, segment_bytes=options.segment_bytes,
                room=room, share=self._share,
            )  # fmt: skip
            return victims

        victims = look(free_bytes)
        if not victims and free_bytes < options.segment_bytes:
            spare = free_bytes + options.ballast_bytes
            self._look = True
            self._retry_s = now.mono_s + RETRY_S
            if look(spare) and make_room():
                self._retry_s = 0.0
                return True
        if not victims:
            return False
        self._copy = Copy(
            self._home, victims, find_many=self._find_many, floors=Floors(self._rows),
            seed=self._log.seed, unix_s=now.unix_s, segment_bytes=options.segment_bytes,
        )  # fmt: skip
        self.phase = "copy"
        return True

    def _find_many(self, tagged_keys: list[bytes]) -> list[bytes | None]:
        newer = [self._memtable.get(tagged) for tagged in tagged_keys]  # before the index
        with self._index.read() as snapshot:
            find = snapshot.finder()
            return [
                packed if packed is not None else find(tagged)
                for packed, tagged in zip(newer, tagged_keys, strict=True)
            ]

    def _begin(self, copy: Copy, now: Now) -> None:
        """Start copying what the survey found, unless it is not worth it."""
        found = copy.surveys
        self._hidden |= {sid: survey.hidden_bytes for sid, survey in found.items()}
        rows = {sid: self._rows[sid] for sid in copy.victims}
        if copy.is_empty:
            self._retire(copy)
        elif self._for_garbage and share_of(rows, self._hidden) < self._share:
            self._give_up(copy, now, failed=False)
        elif copy.size > self._home.disk.free_bytes():
            self._give_up(copy, now, failed=False)
            self._retry_s = now.mono_s + RETRY_S
        else:
            self.held.update(copy.victims)
            if self._log.tail.file is not None:
                self._log.seal(now)  # so that what is written from here on is above the outputs
            copy.begin(self._log.take_ids(CLASSES), lsn=self._log.durable_lsn, now=now)

    def _go_on(self, copy: Copy) -> None:
        if self.phase == "copy":
            self._rename(copy)
        else:
            self._move(copy)

    def _rename(self, copy: Copy) -> None:
        """Give the outputs their names; no location leads to them yet."""
        self.phase = "rename"
        disk = self._home.disk
        for output in copy.outputs.values():
            name = self._home.segment(output.segment_id)
            disk.rename(output.name, name)
            output.name = name
        self._sync_names()
        for output in copy.outputs.values():
            self._rows[output.segment_id] = output.row()
            self.unlisted.add(output.segment_id)
            self._hidden[output.segment_id] = output.hidden_bytes
        self._moves = (
            (output, entry)
            for output in copy.outputs.values()
            for entry in parse_entries(bytes(output.footer))
        )
        self.phase = "move"

    def _sync_names(self) -> None:
        self._home.disk.sync_dir(f"{self._home.name}/seg")

    def _move(self, copy: Copy) -> None:
        """Move some locations, each only if it is still in a victim."""
        piece = list(islice(self._moves, COMPACT_PIECE_FRAMES))
        if not piece:
            self._counters.compactions += 1
            self._retire(copy)
            return
        victims = set(copy.victims)
        tagged_keys = [bytes((entry.target,)) + entry.key for _, entry in piece]
        moved = []
        found = self._find_many(tagged_keys)
        for tagged, packed, (output, entry) in zip(tagged_keys, found, piece, strict=True):
            if packed is None or entry.kind == Kind.DELETE:
                continue
            segment_id, _, _, _, flags = Entry.unpack(packed)
            if segment_id in victims and not flags:
                place = (output.segment_id, entry.value_offset, entry.vlen, entry.expiry, 0)
                moved.append((tagged, ENTRY.pack(*place)))
        if self._delta is not None and moved:
            try:
                self._delta.add(moved)
            except BaseException:
                self._moves = chain(piece, self._moves)
                raise
        for tagged, packed in moved:
            self._memtable.active.put(tagged, packed)

    def _retire(self, copy: Copy) -> None:
        self._counters.dropped_tombstones += copy.dropped
        self._copy = None
        self.held.update(copy.victims)
        self.retiring.update(copy.victims)
        self.phase = "retire"

    def _unlink(self) -> None:
        """Unlink what is retired, durably, then forget it."""
        disk = self._home.disk
        self._keep_alive()
        for segment_id in sorted(self.retired):
            with contextlib.suppress(FileNotFoundError):
                self._empty(segment_id)
                disk.unlink(self._home.segment(segment_id))
            self._files.forget(segment_id)  # earlier, a reader might open it once more
        disk.sync_dir(f"{self._home.name}/seg")
        self._index.forget_segments(self.retired)
        self._counters.index_commits += 1
        self._counters.retired_segments += len(self.retired)
        before = lowest(self._rows)
        for segment_id in self.retired:
            self._rows.pop(segment_id, None)
            self._hidden.pop(segment_id, None)
        if lowest(self._rows) != before:
            self._hidden.clear()  # fewer DELETE frames are needed now
        self.held -= self.retired
        self.retired = set()
        self._look = True
        self.phase = ""

    def _keep_alive(self) -> None:
        """Keep victims that live keys are counted in: an entry was mended while they were copied.

        The copy took what it leads to for dead.
        """
        for segment_id in sorted(self.retired):
            row = self._rows.get(segment_id)
            if row is not None and (row.live_frames or row.live_bytes):
                row.state = SEALED
                self._unfit.add(segment_id)
                self.retired.discard(segment_id)
                self.held.discard(segment_id)

    def _empty(self, segment_id: int) -> None:
        """Give the space back at once, even if another process has the file open."""
        if self._delta is None:
            return
        file = self._home.disk.open(self._home.segment(segment_id))
        try:
            file.truncate(0)
        finally:
            file.close()

    def abandon(self, now: Now) -> None:
        """Give up what is not in place yet, for want of space. Raises OSError."""
        if self._copy is not None and self.phase in ("copy", "rename"):
            self._give_up(self._copy, now)
        self._retry_s = now.mono_s + RETRY_S

    def _give_up(self, copy: Copy, now: Now, *, failed: bool = True) -> None:
        """Remove what a copy has made; the victims are as they were."""
        failure = copy.failure
        names = copy.give_up()
        self._copy = None
        self.held.difference_update(copy.victims)
        self.phase = ""
        self._look = True
        if failed:
            self._counters.compaction_failures += 1
            self._retry_s = now.mono_s + RETRY_S
            if not (isinstance(failure, OSError) and is_full(failure)):
                self._unfit.update(copy.victims)
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self._home.disk.unlink(name)
        if names:
            self._home.disk.sync_dir(f"{self._home.name}/seg")
