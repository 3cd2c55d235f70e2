"""One shard of the store: a log, its index and what keeps them sound.

One thread, the writer, calls apply, work, checkpoint, reindex and close, and another one copy_step.
Any thread calls the rest, at any time. There are no threads and no clocks inside.
Source: docs/explanation/store.md.
"""

from collections.abc import Callable, Sequence
from typing import Final

from molia.base.errors import NoSpace, ShardUnavailable
from molia.base.limits import BATCH_BYTES_MAX, VALUE_SIZE_MAX
from molia.base.now import Now
from molia.store.audit import Auditor
from molia.store.batch import Batch, Find
from molia.store.chores import Chores
from molia.store.compactor import Compactor
from molia.store.delta import Delta
from molia.store.disk import Disk
from molia.store.files import SegmentFiles
from molia.store.index import TAGS, Slice
from molia.store.keys import Kind
from molia.store.lmdb_env import IndexFailed, IndexFull
from molia.store.memtable import Memtable
from molia.store.opening import Opened, open_parts
from molia.store.ops import (
    Counters,
    DamagedFrame,
    Delete,
    Guard,
    NamedKey,
    Put,
    RecoveryReport,
    Reply,
    Row,
    SegmentAudit,
    ShardOptions,
    ShardStats,
    Transaction,
)
from molia.store.punch import Puncher
from molia.store.reader import OwnReader
from molia.store.scrub import Finding, ScrubStatus
from molia.store.segment import segment_id_of
from molia.store.upkeep import Upkeep

__all__ = [
    "Counters", "DamagedFrame", "Delete", "Guard", "Put", "RecoveryReport", "Reply", "Row",
    "SegmentAudit", "Shard", "ShardOptions", "ShardStats", "Transaction",
]  # fmt: skip

AUDIT_PAGE: Final = 1_000
_META: Final = int(Kind.META)
_BLOCK: Final = int(Kind.BLOCK)
_FEW: Final = 2
"""Up to so many transactions look each key up by itself: one snapshot for them costs more."""
ROOM_LOOK_S: Final = 5.0
"""How often a full shard looks whether there is space again."""


class Shard:
    """An open shard. `Shard.open` makes it ready; after `close` nothing may be called."""

    def __init__(self, opened: Opened, options: ShardOptions, now: Now) -> None:
        self._home, self._lock, self._index = opened.home, opened.lock, opened.index
        self._log, self._rows, self._ballast = opened.log, opened.rows, opened.ballast
        self._options, self._counters = options, opened.counters
        self._memtable = Memtable()
        self._memtable.active = opened.generation
        self._files = SegmentFiles(self._home, options.open_files)
        self._puncher = Puncher(
            self._home, index=self._index, memtable=self._memtable, files=self._files,
            rows=self._rows, counters=self._counters, seed=self._log.seed,
        )  # fmt: skip
        self._reader = OwnReader(
            index=self._index, memtable=self._memtable, files=self._files,
            counters=self._counters, seed=self._log.seed, punched=self._puncher,
        )  # fmt: skip
        self._auditor = Auditor(
            self._log, self._files, self._reader.find, segments=self.audit_segments,
            is_going=self._is_going,
        )  # fmt: skip
        self._compactor = Compactor(
            self._home, log=self._log, index=self._index, memtable=self._memtable,
            files=self._files, rows=self._rows, options=options, counters=self._counters,
            delta=opened.delta,
        )  # fmt: skip
        self._puncher.held = self._compactor.held
        self._upkeep = Upkeep(
            log=self._log, index=self._index, memtable=self._memtable, puncher=self._puncher,
            ballast=self._ballast, rows=self._rows, options=options, counters=self._counters,
            epoch=opened.epoch, position=opened.position, now=now, compactor=self._compactor,
            delta=opened.delta,
        )  # fmt: skip
        self._chores = Chores(
            log=self._log, index=self._index, memtable=self._memtable, rows=self._rows,
            counters=self._counters, puncher=self._puncher, upkeep=self._upkeep,
            auditor=self._auditor, options=options, release=self._release_ballast,
            segments=self.audit_segments, last_seen_unix_s=opened.last_seen_unix_s, now=now,
        )  # fmt: skip
        self._delta = opened.delta
        self.wants_reopening = False
        """What was written could not be shown to other processes: only recovery helps."""
        self._unfit_bytes = 0
        """What the last write that did not fit would have taken; 0 when writes fit."""
        self._closed = False

    @classmethod
    def open(
        cls, disk: Disk, index: int, *, store_uuid: bytes, options: ShardOptions, now: Now,
        rebuild_index: bool = False,
    ) -> "tuple[Shard, RecoveryReport]":  # fmt: skip
        """Return the shard, recovered and ready, and what recovery found.

        The index is built anew from the log when it is lost or broken, or `rebuild_index` asks for
        it. Raises HomeLocked when another process has it, ShardUnavailable when it cannot be read.
        """
        opened = open_parts(
            disk, index, store_uuid=store_uuid, options=options, now=now, rebuild=rebuild_index
        )
        try:
            return cls(opened, options, now), opened.report
        except IndexFailed as error:
            opened.index.close()
            if opened.delta is not None:
                opened.delta.close()
            opened.lock.release()
            raise ShardUnavailable(f"the index cannot be read: {error}") from None

    # ------------------------------------------------------------------------ the writer

    @property
    def index(self) -> int:
        """The shard's number."""
        return self._home.index

    @property
    def failure(self) -> str:
        """Why the shard takes no writes any more; empty while it does."""
        return self._log.failure

    def apply(self, batch: Sequence[Transaction], now: Now) -> list[Reply]:
        """Make a batch durable with one write and one sync, and say what became of each.

        On return everything applied is durable and readable. Guards see earlier transactions of
        the batch. Raises NoSpace (nothing of the batch was kept; the shard lives on) or
        ShardUnavailable (a write failed: there will be no more of them; reading goes on).
        """
        self._log.check()
        data_bytes = _data_bytes(batch)
        try:
            self._admit(data_bytes)
            self._upkeep.hold_back(now)
            try:
                replies = self._apply(batch, now)
            except NoSpace:
                if data_bytes or not self._release_ballast():
                    raise
                replies = self._apply(batch, now)
        except NoSpace:
            self._unfit_bytes = max(1, data_bytes)
            raise
        if data_bytes:
            self._unfit_bytes = 0
        return replies

    def _apply(self, batch: Sequence[Transaction], now: Now) -> list[Reply]:
        log = self._log
        log.prepare(now)
        staged, replies = self._stage(batch, now)
        if not staged.footer:
            return replies
        log.append(staged.buffers, size=staged.size, entries=staged.footer)
        log.note_data(staged.max_expiry)
        self._memtable.active.put_all(staged.keys, staged.packed)
        self._counters.batches += 1
        self._upkeep.note_batch(now, size=staged.size, dying_bytes=staged.dying_bytes)
        if self._delta is not None:
            self._share(self._delta, staged.entries, now)
        return replies

    def _share(self, delta: Delta, entries: list[tuple[bytes, bytes]], now: Now) -> None:
        """Show other processes what was written. Raises ShardUnavailable when that cannot be."""
        try:
            try:
                delta.add(entries)
            except IndexFull:
                self._release_ballast()
                self._upkeep.checkpoint(now)
                delta.add(entries)
        except (IndexFull, IndexFailed, NoSpace) as error:
            self.wants_reopening = True
            self._log.stop(f"other processes cannot be shown what was written: {error}")

    def _stage(self, batch: Sequence[Transaction], now: Now) -> tuple[Batch, list[Reply]]:
        try:
            if len(batch) <= _FEW:
                return self._staged(batch, self._reader.find, now)
            generations = self._memtable.generations()  # this thread alone changes them
            fresh, frozen = generations[0].entries.get, generations[-1].entries.get
            with self._index.read() as snapshot:
                indexed, block, block_get = snapshot.finder(), _BLOCK, snapshot.getter(Kind.BLOCK)

                def find(tagged: bytes) -> bytes | None:
                    found = fresh(tagged) or frozen(tagged)
                    if found is not None:
                        return found
                    return block_get(tagged[1:]) if tagged[0] == block else indexed(tagged)

                return self._staged(batch, find, now)
        except IndexFailed as error:
            self._log.stop(f"the index cannot be read: {error}")

    def _staged(
        self, batch: Sequence[Transaction], find: Find, now: Now
    ) -> tuple[Batch, list[Reply]]:
        def fetch(kind: Kind, key: bytes) -> bytes | None:
            return self._reader.get(kind, key, now.unix_s)

        staged = Batch(self._log, find, fetch, int(now.unix_s))
        return staged, staged.add_all(batch)

    def _admit(self, data_bytes: int) -> None:
        """Refuse data below the reserve; deletes and rows still go."""
        if not data_bytes:
            return
        try:
            free = self._home.disk.free_bytes()
        except OSError as error:
            self._log.stop(f"asking for free space failed: {error.strerror or error}")
        if free < self._options.reserve_bytes + data_bytes:
            self._counters.no_space += 1
            raise NoSpace(
                f"{self._home.name}: {free} bytes are free, below the reserve",
                hint="delete something, or free space on the disk",
            )

    def _release_ballast(self) -> bool:
        try:
            return self._ballast.release()
        except OSError as error:
            self._log.stop(f"removing the ballast failed: {error.strerror or error}")

    def work(self, now: Now, *, idle: bool) -> float | None:
        """Do a few milliseconds of upkeep; return the `mono_s` at which to call again.

        That is no later than `now` while more is to be done at once, and None while nothing is due.
        idle: no batch is waiting. Raises ShardUnavailable when a write fails.
        """
        if self._log.failure:
            return None
        due_s = self._chores.step(now, self._upkeep.step(now, idle=idle))
        if not self._unfit_bytes or self._has_room():
            return due_s
        look_s = now.mono_s + ROOM_LOOK_S
        return look_s if due_s is None else min(due_s, look_s)

    def _has_room(self) -> bool:
        """Tell whether there is room again for what did not fit."""
        try:
            free = self._home.disk.free_bytes()
        except OSError:
            return False  # the next write tells why
        if free >= self._options.reserve_bytes + self._unfit_bytes:
            self._unfit_bytes = 0
        return not self._unfit_bytes

    def checkpoint(self, now: Now) -> None:
        """Bring everything into the index. Raises NoSpace, ShardUnavailable."""
        self._upkeep.checkpoint(now)

    def reindex(self, keys: Sequence[tuple[Kind, bytes]], now: Now) -> int:
        """Set the index entries of `keys` to what the log says; return how many were wrong.

        Raises NoSpace, ShardUnavailable.
        """
        self.checkpoint(now)
        tagged_keys = {TAGS[kind] + key for kind, key in keys}
        try:
            truth = self._auditor.truth_of(tagged_keys, self.audit_segments())
            wrong = sorted(
                (tagged, packed)
                for tagged, packed in truth.items()
                if not _same(self._reader.find(tagged), packed)
            )
            if wrong:
                self._index.write_slice(Slice(wrong, self._rows, force=True))
        except IndexFull:
            raise NoSpace(f"{self._home.name}: the index does not fit on the disk") from None
        except OSError as error:
            raise ShardUnavailable(f"{self._home.name}: the log cannot be read: {error}") from None
        except IndexFailed as error:
            self._log.stop(f"writing the index failed: {error}")
        return len(wrong)

    def trust_clock(self, now: Now) -> None:
        """Let what has expired be removed although the clock jumped: somebody looked at it."""
        self._chores.clock.accept(now)

    def take_findings(self) -> list[Finding]:
        """Return what scrubbing has found since the last call."""
        return self._chores.scrubber.take()

    def close(self, now: Now) -> None:
        """Seal the log, bring the index up to date, release the lock; fine after a failure."""
        if self._closed:
            return
        self._closed = True
        try:
            if not self._log.failure:
                self._end(now)
        finally:
            self._release()

    def _release(self) -> None:
        """Let go of everything without writing anything."""
        self._closed = True
        self._compactor.close()
        self._log.close()
        self._files.forget_all()
        self._index.close()
        if self._delta is not None:
            self._delta.close()
        self._lock.release()

    def _end(self, now: Now) -> None:
        """Seal and checkpoint as far as it goes; the log has everything already."""
        steps: tuple[Callable[[Now], None], ...] = (self._seal, self.checkpoint)
        for step in steps:
            try:
                step(now)
            except (NoSpace, ShardUnavailable):
                continue

    def _seal(self, now: Now) -> None:
        if self._log.tail.file is not None:
            self._log.seal(now)

    # ------------------------------------------------------------------------ a second thread

    @property
    def is_copying(self) -> bool:
        """Whether `copy_step` has something to do."""
        return self._compactor.is_copying

    def copy_step(self, now: Now) -> float | None:
        """Copy one piece of a compaction; return how many seconds to wait before the next.

        None when nothing is to be copied. One thread at a time, beside the writer; none once
        `close` is called. Failures are the writer's to deal with.
        """
        return self._compactor.copy_step(now)

    # ------------------------------------------------------------------------ any thread

    def get(
        self, kind: Kind, key: bytes, *, now: Now, start: int = 0, stop: int | None = None,
        check: bool = True,
    ) -> bytes | None:  # fmt: skip
        """Return bytes [start, stop) of a value, or None when it is absent or expired.

        check: compare the value with its CRCs; without it the caller is to verify the bytes, and
        only the frame's head and key are checked. Raises Damaged, ShardUnavailable.
        """
        return self._reader.get(kind, key, now.unix_s, start=start, stop=stop, check=check)

    def size_of(self, kind: Kind, key: bytes, *, now: Now) -> int | None:
        """Return the size of a value, or None when it is absent or expired."""
        return self._reader.size_of(kind, key, now.unix_s)

    def scan(
        self, kind: Kind, prefix: bytes, *, now: Now, after: bytes = b"", limit: int
    ) -> list[Row]:
        """Return up to `limit` live keys that start with `prefix`, in order, above `after`."""
        return self._reader.scan(kind, prefix, now.unix_s, after=after, limit=limit)

    def scrub_status(self) -> ScrubStatus:
        """Return how far scrubbing is."""
        return self._chores.scrubber.status

    def clock_doubt(self, now: Now) -> str:
        """Return why nothing expires for good at the moment; empty when it does."""
        return self._chores.clock.doubt(now)

    def stats(self) -> ShardStats:
        """Return how the shard is doing."""
        rows = list(self._rows.values())
        try:
            keys = self._index.key_count() + len(self._memtable)
            reader_lag = self._index.reader_lag()
        except IndexFailed:
            keys, reader_lag = len(self._memtable), 0
        log_bytes = sum(max(0, row.bytes - row.punched_bytes) for row in rows)
        log_bytes = max(0, log_bytes - self._puncher.unnoted_bytes)
        return ShardStats(
            keys=keys,
            disk_bytes=log_bytes + self._compactor.copied_bytes() + self._beside_bytes(),
            log_bytes=log_bytes,
            live_bytes=sum(row.live_bytes for row in rows),
            punchable_bytes=self._puncher.waiting_bytes + self._upkeep.dying_bytes,
            garbage_bytes=self._compactor.garbage_bytes(),
            segments=len(rows),
            compaction=self._compactor.phase,
            unapplied_bytes=self._upkeep.unapplied_bytes,
            reader_lag=reader_lag,
            failure=self._log.failure,
            full=bool(self._unfit_bytes) or not self._ballast.present,
            counters=self._counters,
        )

    def _beside_bytes(self) -> int:
        """Return what index, delta and ballast take on the disk."""
        disk, name = self._home.disk, self._home.name
        beside = [entry for entry in disk.list_dir(name) if entry != "seg"]
        return sum(disk.disk_bytes(f"{name}/{entry}") for entry in beside)

    def press(self, *, pressed: bool) -> None:
        """Say whether the quota is nearly used up: compaction then takes less garbage as well."""
        self._compactor.press(pressed=pressed)

    def audit_segments(self) -> list[int]:
        """Return the ids of all segments, the open one last."""
        names = self._home.disk.list_dir(f"{self._home.name}/seg")
        return sorted(sid for sid in map(segment_id_of, names) if sid is not None)

    def audit_segment(self, segment_id: int, *, now: Now) -> SegmentAudit:
        """Compare a segment with its checksums and the index with it. Raises ShardUnavailable.

        Of one that compaction is about to take away, or has, nothing is found.
        """
        try:
            return self._auditor.audit(segment_id, now.unix_s)
        except OSError as error:
            reason = f"it cannot be read: {error.strerror or error}"
            return SegmentAudit(segment_id, 0, 0, (DamagedFrame(0, b"", 0, reason),), ())
        except IndexFailed as error:
            raise ShardUnavailable(f"segment {segment_id} cannot be read: {error}") from None

    def _is_going(self, segment_id: int) -> bool:
        # in this order: the row goes first
        return self._compactor.takes(segment_id) or segment_id not in self._rows

    def audit_index(
        self, kind: Kind, *, after: bytes = b"", limit: int = AUDIT_PAGE
    ) -> tuple[list[NamedKey], bytes | None]:
        """Check that the next `limit` index entries of a kind lead to frames of their keys.

        Returns the keys that do not, for `reindex`, and where to go on; None at the end.
        Raises ShardUnavailable.
        """
        try:
            with self._index.read() as snapshot:
                page = snapshot.page(kind, after, b"", limit)
            wrong = self._auditor.astray([(TAGS[kind] + key, packed) for key, packed in page])
        except IndexFailed as error:
            raise ShardUnavailable(f"the index cannot be read: {error}") from None
        return wrong, page[-1][0] if len(page) == limit else None


def _data_bytes(batch: Sequence[Transaction]) -> int:
    """Return the bytes of values in a batch that are no META rows; check the batch's bound."""
    data = rows = 0
    for transaction in batch:
        for op in transaction.ops:
            if type(op) is Put:
                if op.kind == _META:
                    rows += len(op.value)
                else:
                    data += len(op.value) or 1
    assert data + rows <= BATCH_BYTES_MAX + VALUE_SIZE_MAX, "batches stay within their bound"
    return data


def _same(found: bytes | None, truth: bytes) -> bool:
    """Tell whether a look-up agrees with the log."""
    if found is None:
        return bool(truth[-1])
    return found == truth
