"""How fast other nodes are expected to give blocks, and which of them are asked last."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, TypeVar

from molia.base.ids import PeerKey
from molia.base.limits import SPEEDS_MAX
from molia.blobs.sources import Sources
from molia.node.network import Network

FIRST_RTT_S: Final = 0.15
"""While nothing was measured with anybody."""
LIAR_S: Final = 3_600.0
"""For so long who lied is asked after all others."""
LIAR_RTT_S: Final = 10.0
SILENT_S: Final = 60.0
"""For so long who did not answer is asked after those who do."""
SILENT_RTT_S: Final = 3.0
Value = TypeVar("Value")


class PeerPace:
    """What one worker remembers of those it read from."""

    def __init__(self, network: Network, now_s: Callable[[], float]) -> None:
        self._network, self._now_s = network, now_s
        self._taken_s: OrderedDict[bytes, float] = OrderedDict()
        """What a block took lately, beside its bytes."""
        self._last: OrderedDict[bytes, tuple[float, float]] = OrderedDict()
        """Who is asked last: until when, and how slow it counts."""

    def rtt_s(self, key: bytes) -> float:
        """Return what a node's answer is expected to take."""
        until_s, slow_s = self._last.get(key, (0.0, 0.0))
        taken_s = self._taken_s.get(key)
        if taken_s is None:
            taken_s = self._measured_s(key)
        return taken_s + (slow_s if until_s > self._now_s() else 0.0)

    def _measured_s(self, key: bytes) -> float:
        """Return the round trip of small requests: with this node, or with most."""
        rtt, peer = self._network.transport.requests.rtt, None
        found = self._network.transport.endpoint.find(PeerKey(key))
        if found is not None:
            peer = rtt.smoothed_s(found)
        usual_s = rtt.median_s() if peer is None else peer
        return FIRST_RTT_S if usual_s is None else usual_s

    def note_read(self, sources: Sources) -> None:
        """Remember how the nodes of a read were."""
        for key, peer in sources.peers.items():
            if peer.answered:
                _note(self._taken_s, key, peer.rtt_s)
            elif peer.is_silent:
                _note(self._last, key, (self._now_s() + SILENT_S, SILENT_RTT_S))

    def note_lie(self, key: bytes) -> None:
        """Remember that a node sent what it should not."""
        _note(self._last, key, (self._now_s() + LIAR_S, LIAR_RTT_S))


def _note(table: "OrderedDict[bytes, Value]", key: bytes, value: "Value") -> None:
    """Remember a value; when there are many, the one noted longest ago is forgotten."""
    table[key] = value
    table.move_to_end(key)
    if len(table) > SPEEDS_MAX:
        table.popitem(last=False)
