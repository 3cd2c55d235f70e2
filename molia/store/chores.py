"""What a shard does when nothing is pressing: it takes out what has expired, and scrubs."""

from collections.abc import Callable
from typing import Final

from molia.base.now import Now
from molia.store.audit import Auditor
from molia.store.clock import ClockGuard
from molia.store.expiry import Hand
from molia.store.index import Index, SegmentRow
from molia.store.lmdb_env import IndexFailed, IndexFull
from molia.store.log import Log
from molia.store.memtable import Memtable
from molia.store.ops import Counters, ShardOptions
from molia.store.punch import Puncher
from molia.store.scrub import Scrubber
from molia.store.upkeep import RETRY_S, Upkeep

READERS_S: Final = 60.0
"""So often what dead readers held is freed, also while nothing is written."""
OVERDUE_S: Final = 60.0
"""So long the upkeep goes before; then both take turns."""


class Chores:
    """The hand and the scrubber of a shard, one step of either at a time.

    release: gives the ballast up, as `Ballast.release` does. segments: see `Scrubber`.
    """

    def __init__(
        self, *, log: Log, index: Index, memtable: Memtable, rows: dict[int, SegmentRow],
        counters: Counters, puncher: Puncher, upkeep: Upkeep, auditor: Auditor,
        options: ShardOptions, release: Callable[[], bool], segments: Callable[[], list[int]],
        last_seen_unix_s: int, now: Now,
    ) -> None:  # fmt: skip
        self._log, self._puncher, self._upkeep, self._release = log, puncher, upkeep, release
        self.clock = ClockGuard(now, last_seen_unix_s=last_seen_unix_s)
        self.hand = Hand(
            index=index, memtable=memtable, rows=rows, counters=counters, clock=self.clock,
            sweep_s=options.sweep_s, now=now,
        )  # fmt: skip
        self.scrubber = Scrubber(
            index=index, auditor=auditor, rows=rows, counters=counters, segments=segments,
            is_open=self._is_open, every_s=options.scrub_s, now=now,
        )  # fmt: skip
        self._index, self._counters = index, counters
        self._readers_s = now.mono_s + READERS_S if options.shared and options.sweep_s else None
        self._sweep_s = options.sweep_s
        self._retry_s = self._checkpoint_s = now.mono_s

    def step(self, now: Now, upkeep_due_s: float | None) -> float | None:
        """Do one step of what is due, unless the upkeep is; return when to be called again.

        What has waited for long is done all the same. Raises ShardUnavailable.
        """
        own_s = self._due_s()
        pressed = upkeep_due_s is not None and upkeep_due_s <= now.mono_s
        waits = own_s is None or own_s > now.mono_s - OVERDUE_S
        if self._log.failure or (pressed and waits):
            return upkeep_due_s
        if own_s is not None and own_s <= now.mono_s:
            self._do(now)
            own_s = self._due_s()
            if self._puncher.pending and own_s is not None:
                own_s = now.mono_s  # the upkeep has not seen what was added
        both = [due_s for due_s in (own_s, upkeep_due_s) if due_s is not None]
        return min(both, default=None)

    def _due_s(self) -> float | None:
        own = (self.hand.due_s(), self.scrubber.due_s(), self._readers_s)
        due = [due_s for due_s in own if due_s is not None]
        return max(min(due), self._retry_s) if due else None

    def _do(self, now: Now) -> None:
        try:
            if not self.clock.doubt(now):
                self._upkeep.settle_clock(now)
            rounds = self.hand.rounds
            self._puncher.add(self.hand.step(now))
            if self.hand.rounds > rounds and now.mono_s >= self._checkpoint_s:
                # what expires before it ever was in the index is taken out of it all the same
                self._upkeep.wants_checkpoint = True
                self._checkpoint_s = now.mono_s + self._sweep_s
            self.scrubber.step(now)
            if self._readers_s is not None and now.mono_s >= self._readers_s:
                self._readers_s = now.mono_s + READERS_S
                self._counters.readers_cleared += self._index.forget_dead_readers()
        except IndexFull:
            if not self._release():
                self._retry_s = now.mono_s + RETRY_S
        except IndexFailed as error:
            self._log.stop(f"writing the index failed: {error}")
        except OSError:  # the disk does not say which segments there are: it may later
            self._retry_s = now.mono_s + RETRY_S

    def _is_open(self, segment_id: int) -> bool:
        tail = self._log.tail
        return tail.file is not None and tail.segment_id == segment_id
