"""A network of holders in virtual time, for the job that places shares."""

import heapq
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from molia.blobs import distribution as job
from molia.blobs.placement import Candidate

MIB = 2**20
STRIPES = 10


@dataclass
class Holder:
    """A node and its manners."""

    number: int
    manners: str = "good"
    """good, mute, refusing, broken, dead-end, stalling, slow, full."""
    room: int = 100 * MIB
    stripe_s: float = 0.1
    held: dict[int, bytes] = field(default_factory=dict)

    @property
    def key(self) -> bytes:
        return bytes([self.number]) * 32

    @property
    def candidate(self) -> Candidate:
        left = self.room - MIB * len(self.held)
        return Candidate(key=self.key, room_bytes=left, held=tuple(sorted(self.held)))


class Network:
    """Carries out a job's effects."""

    def __init__(self, holders: Iterable[Holder], *, at_s: float = 0.0) -> None:
        self.holders = {holder.key: holder for holder in holders}
        self.now_s, self.sent, self.streams_max = at_s, 0, 0
        self.announced: list[tuple[bytes, ...]] = []
        self.seen: list[job.Effect] = []
        self.hears = True
        self.stores_records = True
        self._order = itertools.count()
        self._queue: list[tuple[float, int, Callable[[job.Distribution], None]]] = []
        self._streams: dict[tuple[bytes, int], bool] = {}

    def later(self, wait_s: float, act: Callable[[job.Distribution], None]) -> None:
        """Do something in a while."""
        heapq.heappush(self._queue, (self.now_s + wait_s, next(self._order), act))

    def run(self, it: job.Distribution, *, stop_s: float = 10_000.0) -> job.Effect | None:
        """Run a job to its end, or to a moment; return its outcome."""
        while True:
            self.obey(it)
            if it.is_over:
                return self.seen[-1]
            deadline, event = it.next_deadline_s(), self._queue[0][0] if self._queue else None
            times = [at for at in (deadline, event) if at is not None]
            assert times, "a job that is not over waits for something"
            if min(times) > stop_s:
                return None
            self.now_s = max(self.now_s, min(times))
            if event is not None and event <= self.now_s:
                heapq.heappop(self._queue)[2](it)
            else:
                it.on_deadline(now_s=self.now_s)

    def obey(self, it: job.Distribution) -> None:
        """Carry out what the job asks for now."""
        for effect in it.take_effects():
            self.seen.append(effect)
            match effect:
                case job.FindHolders():
                    if self.hears:
                        self.later(0.5, self._find)
                case job.OfferShares(key, shares):
                    self._offer(self.holders[key], shares)
                case job.SendShare(key, share, first):
                    self._send(self.holders[key], share, first)
                case job.Cancel(key, share):
                    self._streams[key, share] = False
                case job.Announce(records):
                    self.announced.append(records)
                    self.later(0.3, lambda it: it.on_announced(
                        is_stored=self.stores_records, now_s=self.now_s))  # fmt: skip

    def _find(self, it: job.Distribution) -> None:
        found = [holder.candidate for holder in self.holders.values()]
        it.on_candidates(found, now_s=self.now_s)

    def _offer(self, holder: Holder, shares: tuple[int, ...]) -> None:
        accepted: tuple[int, ...] = () if holder.manners == "refusing" else shares
        kept = tuple(share for share in shares if share in holder.held)
        if holder.manners != "mute":
            self.later(0.05, lambda it: it.on_offered(
                holder.key, accepted=accepted, kept=kept, now_s=self.now_s))  # fmt: skip

    def _send(self, holder: Holder, share: int, first: int) -> None:
        self._streams[holder.key, share] = True
        self.streams_max = max(self.streams_max, sum(self._streams.values()))
        self.later(holder.stripe_s, lambda it: self._stripe(it, holder, share, first))

    def _stripe(self, it: job.Distribution, holder: Holder, share: int, done: int) -> None:
        if not self._streams.get((holder.key, share)):
            return
        done += 1
        self.sent += 1
        ends: dict[str, Any] = {"is_kept": False, "stripes": done, "now_s": self.now_s}
        if holder.manners == "stalling" and done == 3:
            return
        if holder.manners in ("broken", "dead-end") and done % 4 == 3:
            ends["may_retry"] = True
        elif holder.manners == "full" and done == 5:
            pass
        elif done == STRIPES:
            holder.held[share] = holder.key * 2
            ends |= {"is_kept": True, "record": holder.held[share]}
        else:
            it.on_progress(holder.key, share, stripes=done, now_s=self.now_s)
            wait_s = holder.stripe_s * (50 if holder.manners == "slow" else 1)
            self.later(wait_s, lambda it: self._stripe(it, holder, share, done))
            return
        self._streams[holder.key, share] = False
        if holder.manners == "broken":
            holder.manners = "good"
        it.on_sent(holder.key, share, **ends)
