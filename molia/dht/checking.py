"""Checks of the routing table's entries, and what their answers tell of our own clock."""

from collections import OrderedDict
from statistics import median
from typing import Final

from molia.base import limits
from molia.base.now import Now
from molia.dht.asking import Asks, Reply
from molia.dht.contact import Contact
from molia.dht.hub import Hub
from molia.wire.messages import Pong

CHECKS_AT_ONCE: Final = 8
"""Entries checked in one turn; the rest waits a moment, so that checks never come in bursts."""
TURN_S: Final = 0.25
IDLE_S: Final = 5.0
"""How often a table without entries is looked at."""
CLOCKS_MIN: Final = 3
"""Clocks that must be known before their median says anything."""


class Checking:
    """The upkeep of the tables' entries."""

    def __init__(self, hub: Hub, asks: Asks) -> None:
        self._hub, self._asks = hub, asks

    def start(self, now: Now) -> None:
        """Begin to check."""
        if self._hub.config.checks_table:
            self._hub.timers.set("checks", now.mono_s + IDLE_S)

    def on_timer(self, now: Now) -> None:
        """Ping the entries whose turn it is."""
        due_s = now.mono_s + IDLE_S
        for side in self._hub.families.values():
            for contact in side.table.take_checks(now.mono_s, CHECKS_AT_ONCE):
                tries = None if side.table.is_suspect(contact) else 1
                self._asks.ping(contact, _ignore, now, tries=tries)
            next_s = side.table.next_check_s()
            if next_s is not None:
                due_s = min(due_s, next_s)
        self._hub.timers.set("checks", max(due_s, now.mono_s + TURN_S))


class Clocks:
    """What other clocks say of ours."""

    def __init__(self) -> None:
        self._offsets_s: OrderedDict[Contact, float] = OrderedDict()

    def on_pong(self, reply: Reply, pong: Pong, now: Now) -> None:
        """Take a peer's time; half of the round trip has passed since it wrote it down."""
        self._offsets_s.pop(reply.contact, None)
        self._offsets_s[reply.contact] = pong.unix_ms / 1000 + reply.rtt_s / 2 - now.unix_s
        if len(self._offsets_s) > limits.DHT_CLOCKS_MAX:
            self._offsets_s.popitem(last=False)

    @property
    def offset_s(self) -> float | None:
        """How far the peers' clocks are ahead of ours, in the median; None while too few told."""
        if len(self._offsets_s) < CLOCKS_MIN:
            return None
        return median(self._offsets_s.values())


def _ignore(reply: Reply, now: Now) -> None:
    """What an answer shows of who gave it, the routing table knows already."""
