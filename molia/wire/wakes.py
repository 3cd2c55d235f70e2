"""When to look at which peer: a heap of instants, for tens of thousands of peers.

A peer has at most one wake that counts, `peer.wake_s`. Moving it leaves the old entry behind,
which is skipped when its time comes, or swept when there are too many of them.
"""

import heapq

from molia.wire.peer import NEVER, Peer


class Wakes:
    """The wakes of an endpoint's peers."""

    def __init__(self) -> None:
        self._heap: list[tuple[float, int, Peer]] = []
        self._number = 0
        self._sweep_at = 64

    def __len__(self) -> int:
        return len(self._heap)

    def set(self, peer: Peer) -> None:
        """See to it that the peer is looked at when its earliest timer is due."""
        due_s = peer.due_s()
        if due_s >= peer.wake_s:
            return
        peer.wake_s = due_s
        self._number += 1
        heapq.heappush(self._heap, (due_s, self._number, peer))
        if len(self._heap) > self._sweep_at:
            self._sweep()

    def next_s(self) -> float:
        """Return the earliest wake; NEVER when there is none."""
        while self._heap and self._heap[0][0] != self._heap[0][2].wake_s:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else NEVER

    def take_due(self, now_s: float) -> Peer | None:
        """Return the next peer whose wake has come, without one now; None: there is none."""
        if self.next_s() > now_s:
            return None
        peer = heapq.heappop(self._heap)[2]
        peer.wake_s = NEVER
        return peer

    def _sweep(self) -> None:
        self._heap = [wake for wake in self._heap if wake[0] == wake[2].wake_s]
        heapq.heapify(self._heap)
        self._sweep_at = 2 * len(self._heap) + 64
