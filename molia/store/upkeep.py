"""What a shard does between batches: checkpoints, MARKs, punching, getting its ballast back."""

from typing import Final, NoReturn

from molia.base.errors import NoSpace
from molia.base.limits import CLOCK_JUMP_MAX_S
from molia.base.now import Now
from molia.store.ballast import Ballast
from molia.store.checkpoint import Checkpoint
from molia.store.compactor import Compactor
from molia.store.delta import Delta
from molia.store.disk import is_full
from molia.store.index import Index, Position, SegmentRow
from molia.store.lmdb_env import IndexFailed, IndexFull
from molia.store.log import Log
from molia.store.memtable import Memtable
from molia.store.ops import Counters, ShardOptions
from molia.store.punch import Puncher

MARK_AFTER_S: Final = 1.0
"""So long after the last batch a MARK vouches for it, if nothing else has."""
PUNCH_AFTER_S: Final = 10.0
CHECKPOINT_AFTER_S: Final = 60.0
CHECKPOINT_MIN_KEYS: Final = 1_000
INDEX_SHARE: Final = 20
"""A checkpoint waits for one 20th as many keys as the index has: among many more they fall on
pages of their own, and each page is written for one key alone."""
KEYS_FACTOR: Final = 3
"""But for no more than so many times `checkpoint_keys`: they are in memory, and a restart replays
them."""
RETRY_S: Final = 5.0
COPY_LOOK_S: Final = 0.1
"""How often it is looked whether a copy has ended."""
_STEPS_MAX: Final = 1_000_000


class Upkeep:
    """Decides what is due and does it in slices of a few milliseconds."""

    def __init__(
        self, *, log: Log, index: Index, memtable: Memtable, puncher: Puncher, ballast: Ballast,
        rows: dict[int, SegmentRow], options: ShardOptions, counters: Counters, epoch: int,
        position: Position, now: Now, compactor: Compactor, delta: Delta | None = None,
    ) -> None:  # fmt: skip
        self._delta, self._compactor = delta, compactor
        self._log, self._index, self._memtable = log, index, memtable
        self._puncher, self._ballast, self._rows = puncher, ballast, rows
        self._options, self._counters, self._epoch = options, counters, epoch
        self._checkpoint: Checkpoint | None = None
        self._position = position
        self._enough_keys = self._worth_it()
        self._max_seen_unix_s = max(index.number(b"max_seen_time"), int(now.unix_s))
        self.unapplied_bytes = 0
        self.dying_bytes = 0
        """Bytes of values that the next checkpoint makes punchable."""
        self.wants_checkpoint = False
        """A checkpoint is to be made although little has changed."""
        self._written_s = self._checkpointed_s = now.mono_s
        self._retry_s = now.mono_s

    def note_batch(self, now: Now, *, size: int, dying_bytes: int) -> None:
        """Take note of a batch that was written."""
        self.unapplied_bytes += size
        self.dying_bytes += dying_bytes
        self._written_s = now.mono_s
        self._compactor.note_batch(now)
        self._max_seen_unix_s = max(self._max_seen_unix_s, int(now.unix_s))

    def settle_clock(self, now: Now) -> None:
        """Forget that the clock was once far ahead: it is believed now."""
        if self._max_seen_unix_s > now.unix_s + CLOCK_JUMP_MAX_S:
            self._max_seen_unix_s = int(now.unix_s)

    # ------------------------------------------------------------------------ between batches

    def step(self, now: Now, *, idle: bool) -> float | None:
        """Do one slice of what is due; return when to be called again.

        Raises ShardUnavailable when a write fails.
        """
        self._log.check()
        if now.mono_s >= self._retry_s and self._slice(now, idle=idle):
            return now.mono_s
        if self._ballast.wanted:
            self._retake_ballast(now)
        return self._next_s(now, idle=idle)

    def _slice(self, now: Now, *, idle: bool) -> bool:
        """Do the most urgent thing that is due; False when nothing is."""
        if self._checkpoint is not None or self._checkpoint_due(now):
            self._step_checkpoint(now)
        elif self._puncher.pending and self._log.vouched_lsn >= self._position.lsn:
            self._punch(now)
        elif self._puncher.pending or self._mark_due(now, idle=idle):
            self._mark(now)
        elif not self._options.compact or not self._compact(now):
            return False
        return now.mono_s >= self._retry_s

    def _next_s(self, now: Now, *, idle: bool) -> float | None:
        due = []
        if self._checkpoint is not None or self._puncher.pending:
            due.append(now.mono_s)
        if self._log.vouched_lsn < self._log.data_lsn:
            due.append(self._written_s + MARK_AFTER_S if idle else now.mono_s + MARK_AFTER_S)
        if self.dying_bytes:
            due.append(self._written_s + PUNCH_AFTER_S)
        if len(self._memtable.active.entries) > CHECKPOINT_MIN_KEYS:
            due.append(self._checkpointed_s + CHECKPOINT_AFTER_S)
        if self._compactor.wants_checkpoint:
            due.append(now.mono_s)
        if self._compactor.is_busy:  # the copy may have ended since the last look
            due.append(now.mono_s + COPY_LOOK_S)
        compact_s = self._compactor.due_s()
        if compact_s is not None:
            due.append(compact_s)
        ballast_s = self._ballast.due_s()
        if ballast_s is not None:
            due.append(ballast_s)
        # after something did not fit nothing is tried before it is time
        return max(min(due), now.mono_s, self._retry_s) if due else None

    # ------------------------------------------------------------------------ checkpoints

    def checkpoint(self, now: Now) -> None:
        """Bring everything into the index. Raises NoSpace, ShardUnavailable."""
        self._log.check()
        if self._checkpoint is not None:
            self._finish(now)
        self._finish(now)

    def hold_back(self, now: Now) -> None:
        """Help the index along when it cannot keep up, so that the memtable stays bounded.

        Raises NoSpace when the index does not fit on the disk.
        """
        limit = 4 * self._options.checkpoint_keys
        if len(self._memtable.active.entries) < limit:
            return
        if self._checkpoint is not None:
            self._finish(now)

    def _finish(self, now: Now) -> None:
        """Run the checkpoint under way, or a new one, to its end."""
        for _ in range(_STEPS_MAX):
            if self._step_checkpoint(now):
                raise NoSpace("the index does not fit on the disk")
            if self._checkpoint is None:
                return

    def _checkpoint_due(self, now: Now) -> bool:
        keys = len(self._memtable.active.entries)
        options = self._options
        return (
            keys >= self._enough_keys
            or (self.wants_checkpoint and keys > 0)
            or self._compactor.wants_checkpoint
            or self.unapplied_bytes >= options.checkpoint_log_bytes
            or self.dying_bytes >= options.punch_bytes
            or (self.dying_bytes > 0 and now.mono_s >= self._written_s + PUNCH_AFTER_S)
            or (
                keys > CHECKPOINT_MIN_KEYS
                and now.mono_s >= self._checkpointed_s + CHECKPOINT_AFTER_S
            )
        )

    def _worth_it(self) -> int:
        """Return how many keys are worth a checkpoint."""
        least = self._options.checkpoint_keys
        return max(least, min(self._index.key_count() // INDEX_SHARE, KEYS_FACTOR * least))

    def _begin(self) -> Checkpoint:
        self.wants_checkpoint = False
        self.unapplied_bytes = self.dying_bytes = 0
        return Checkpoint(
            index=self._index, memtable=self._memtable, rows=self._rows,
            position=self._log.position(), since=self._position,
            slice_keys=self._options.slice_keys, epoch=self._epoch,
            max_seen_unix_s=self._max_seen_unix_s, counters=self._counters, delta=self._delta,
            retire=set(self._compactor.retiring), unlisted=set(self._compactor.unlisted),
        )  # fmt: skip

    def _flip(self, delta: Delta) -> bool:
        """Let the delta's other database take what is new; False when that does not fit."""
        for _ in range(2):
            try:
                delta.flip()
            except IndexFull:
                if not self._release_ballast():
                    return False
                continue
            except IndexFailed as error:
                self._fail(f"writing the delta failed: {error}")
            return True
        return False

    def _step_checkpoint(self, now: Now) -> bool:
        """Do one step of the checkpoint under way, or of a new one; True if it did not fit."""
        current = self._checkpoint
        if current is None:
            if self._delta is not None and not self._flip(self._delta):
                self._retry_s = now.mono_s + RETRY_S
                return True
            current = self._checkpoint = self._begin()
        try:
            done = current.step()
            if done:
                self._enough_keys = self._worth_it()
        except IndexFailed as error:
            self._fail(f"writing the index failed: {error}")
        if current.full and not self._release_ballast():
            self._retry_s = now.mono_s + RETRY_S
            return True
        if done:
            self._position, self._checkpointed_s = current.position, now.mono_s
            self._puncher.add(current.dead)
            self._compactor.note_retired(current.retire, current.listed)
            self._checkpoint = None
        return False

    # ------------------------------------------------------------------------ the rest

    def _compact(self, now: Now) -> bool:
        """Do one piece of compaction; False when there is nothing to do."""
        compactor = self._compactor
        try:
            return compactor.step(
                now, below=self._position.segment_id, make_room=self._release_ballast
            )
        except (NoSpace, IndexFull):
            if not self._release_ballast():
                self._retry_s = now.mono_s + RETRY_S
        except IndexFailed as error:
            self._fail(f"writing the index failed: {error}")
        except OSError as error:
            if not is_full(error):
                self._fail(f"compacting failed: {error.strerror or error}")
            self._abandon(now)
            if self._compactor.retired:  # what does not go now will not go a moment later
                self._retry_s = now.mono_s + RETRY_S
        return True

    def _abandon(self, now: Now) -> None:
        try:
            self._compactor.abandon(now)
        except OSError as error:
            self._fail(f"removing an unfinished segment failed: {error.strerror or error}")

    def _punch(self, now: Now) -> None:
        try:
            self._puncher.step()
        except IndexFull:
            if not self._release_ballast():
                self._retry_s = now.mono_s + RETRY_S
        except IndexFailed as error:
            self._fail(f"writing the index failed: {error}")
        except OSError as error:
            if not is_full(error):
                self._fail(f"punching failed: {error.strerror or error}")
            self._retry_s = now.mono_s + RETRY_S

    def _mark_due(self, now: Now, *, idle: bool) -> bool:
        unvouched = self._log.vouched_lsn < self._log.data_lsn
        return idle and unvouched and now.mono_s >= self._written_s + MARK_AFTER_S

    def _mark(self, now: Now) -> None:
        try:
            self._log.mark(now)
        except NoSpace:
            if not self._release_ballast():
                self._retry_s = now.mono_s + RETRY_S

    def _release_ballast(self) -> bool:
        try:
            return self._ballast.release()
        except OSError as error:
            self._fail(f"removing the ballast failed: {error.strerror or error}")

    def _retake_ballast(self, now: Now) -> None:
        try:
            self._ballast.retry(now)
        except OSError as error:
            self._fail(f"making the ballast failed: {error.strerror or error}")

    def _fail(self, reason: str) -> NoReturn:
        """Stop writing, and raise ShardUnavailable."""
        self._log.stop(reason)
