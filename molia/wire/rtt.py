"""How long a peer takes to answer: estimates per peer, and of strangers by the crowd.

Source: RFC 6298, section 2, for peers that have answered; docs/reference/requests.md.
"""

from collections import OrderedDict, deque
from collections.abc import Hashable
from typing import Final, Generic, TypeVar

from molia.base import limits

Peer = TypeVar("Peer", bound=Hashable)
SOFT_MIN_S: Final = 0.05
SOFT_MAX_S: Final = 1.0
HARD_MIN_S: Final = 1.0
HARD_UNKNOWN_S: Final = 5.0
"""While nobody has answered yet; three tries fit into it."""
_ALPHA: Final = 1 / 8
_BETA: Final = 1 / 4
_SAMPLES_MIN: Final = 8
"""Below this many samples the crowd says nothing: a stranger gets SOFT_MAX_S."""


class RttTable(Generic[Peer]):
    """Round-trip estimates of the peers that answered last."""

    def __init__(self) -> None:
        self._peers: OrderedDict[Peer, tuple[float, float]] = OrderedDict()
        self._samples: deque[float] = deque(maxlen=limits.RTT_SAMPLES)
        self._sorted: list[float] = []
        self._unsorted = 0

    def __len__(self) -> int:
        return len(self._peers)

    def add(self, peer: Peer, rtt_s: float) -> None:
        """Take a sample: of a request that was sent once only (Karn's rule)."""
        known = self._peers.pop(peer, None)
        if known is None:
            estimate = (rtt_s, rtt_s / 2)
        else:
            srtt_s, var_s = known
            var_s += _BETA * (abs(srtt_s - rtt_s) - var_s)
            estimate = (srtt_s + _ALPHA * (rtt_s - srtt_s), var_s)
        self._peers[peer] = estimate
        if len(self._peers) > limits.RTT_PEERS_MAX:
            self._peers.popitem(last=False)
        self._samples.append(rtt_s)
        self._unsorted += 1

    def smoothed_s(self, peer: Peer) -> float | None:
        """Return the smoothed round trip of a peer; None of a stranger."""
        known = self._peers.get(peer)
        return None if known is None else known[0]

    def soft_timeout_s(self, peer: Peer) -> float:
        """Return when an answer is late: time to ask again, or somebody else."""
        known = self._peers.get(peer)
        late_s = self._crowd_s(0.9, SOFT_MAX_S) if known is None else known[0] + 4 * known[1]
        return min(SOFT_MAX_S, max(SOFT_MIN_S, late_s))

    def hard_timeout_s(self) -> float:
        """Return when an answer is not worth waiting for any more."""
        return max(HARD_MIN_S, 2 * self._crowd_s(0.99, HARD_UNKNOWN_S / 2))

    def median_s(self) -> float | None:
        """Return what half of the last answers took at most; None before there are some."""
        return self._crowd_s(0.5, 0.0) or None

    def _crowd_s(self, share: float, otherwise_s: float) -> float:
        if len(self._samples) < _SAMPLES_MIN:
            return otherwise_s
        if not self._sorted or self._unsorted >= _SAMPLES_MIN:
            self._sorted, self._unsorted = sorted(self._samples), 0
        return self._sorted[min(len(self._sorted) - 1, int(share * len(self._sorted)))]
