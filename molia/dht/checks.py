"""When each contact of a table is asked whether it lives: in turn, spread by chance, never at once.

Source: docs/reference/routing-table.md, "Checks".
"""

from collections import deque
from heapq import heapify, heappop, heappush, heapreplace
from typing import Final

from molia.base.entropy import Entropy
from molia.dht.bucket import Entry, State
from molia.dht.contact import Contact

RECHECK_S: Final = 2.0
"""How soon a suspect is asked again."""
PENDING_S: Final = 10.0
"""How long a check that was taken may stay without a word before it is due again."""
JITTER_MIN: Final = 0.8
JITTER_SPAN: Final = 0.4


class Checks:
    """The times of the checks of all slots; what left its slot goes when it comes to the top."""

    __slots__ = ("_entropy", "_heap", "_longest_s", "_suspects", "interval_s")

    def __init__(self, interval_s: float, *, entropy: Entropy) -> None:
        self._entropy, self.interval_s = entropy, interval_s
        """How long a contact may be silent, on average."""
        self._longest_s = interval_s
        """The longest interval that an entry of the heap may have been put there with."""
        self._heap: list[Entry] = []
        self._suspects: deque[tuple[float, Entry]] = deque()

    def __len__(self) -> int:
        return len(self._heap)

    def add(self, entry: Entry, now_s: float) -> None:
        """Take an entry that got a slot and was heard of now. Each entry comes here once."""
        entry.due_s = self._due_s(now_s)
        heappush(self._heap, entry)

    def suspect(self, entry: Entry, now_s: float) -> None:
        """Ask one that missed an answer again, soon."""
        self._suspects.append((now_s + RECHECK_S, entry))

    def hurry(self, entry: Entry, now_s: float) -> None:
        """Ask one that has to answer before it counts: now."""
        self._suspects.appendleft((now_s, entry))

    def take(self, now_s: float, limit: int) -> list[Contact]:
        """Return at most `limit` contacts to ask now: suspects first, then the longest due."""
        due: list[Contact] = []
        suspects, heap = self._suspects, self._heap
        while suspects and suspects[0][0] <= now_s and len(due) < limit:
            entry = suspects.popleft()[1]
            if entry.state is State.SUSPECT:
                suspects.append((now_s + PENDING_S, entry))
                due.append(entry.contact)
        self._settle()
        while heap and heap[0].due_s <= now_s and len(due) < limit:
            entry = heap[0]
            if entry.state is State.VERIFIED:  # suspects are asked at their own times
                due.append(entry.contact)
            entry.due_s = now_s + PENDING_S
            heapreplace(heap, entry)
            self._settle()
        return due

    def next_s(self) -> float | None:
        """Return when `take` has somebody next; None while there is nobody to check."""
        suspects = self._suspects
        while suspects and suspects[0][1].state is not State.SUSPECT:
            suspects.popleft()
        self._settle()
        times = [self._heap[0].due_s] if self._heap else []
        if suspects:
            times.append(suspects[0][0])
        return min(times, default=None)

    def follow(self, interval_s: float, *, slot_count: int, now_s: float) -> None:
        """Take the interval that the measured churn asks for, and tidy up.

        When contacts die twice as fast as they did, all checks are set anew; else each follows
        when its time comes.
        """
        self.interval_s = interval_s
        shrunk = interval_s < self._longest_s / 2
        self._longest_s = interval_s if shrunk else max(interval_s, self._longest_s)
        if shrunk or len(self._heap) > 2 * slot_count + 64:
            self._heap = [entry for entry in self._heap if entry.state <= State.SUSPECT]
            for entry in self._heap if shrunk else ():
                entry.due_s = max(now_s, self._due_s(entry.heard_s))
            heapify(self._heap)

    def _settle(self) -> None:
        """Let the top of the heap have a slot, and be silent since it was put there."""
        heap, silent_s = self._heap, JITTER_MIN * self.interval_s
        while heap:
            entry = heap[0]
            if entry.state > State.SUSPECT:
                heappop(heap)
            elif entry.heard_s + silent_s > entry.due_s:
                entry.due_s = self._due_s(entry.heard_s)
                heapreplace(heap, entry)
            else:
                return

    def _due_s(self, heard_s: float) -> float:
        jitter = JITTER_MIN + JITTER_SPAN * self._entropy.token(1)[0] / 255
        return heard_s + jitter * self.interval_s
