"""Who relays dead contacts: a liar fills lookups with addresses at which nobody answers."""

from collections import OrderedDict
from typing import Final

from molia.base import limits
from molia.dht.contact import Contact
from molia.dht.effects import Penalise
from molia.dht.hub import Hub
from molia.wire.scores import Offence

JUDGED: Final = 20
"""Contacts of one peer that are tried before it is judged."""
DEAD_SHARE: Final = 0.5
OWN_LOSS_MAX: Final = 0.4
"""With more of all requests unanswered, the fault may be our own, or the network's."""
_FADE: Final = 1 / 64


class Blame:
    """What became of the contacts that each peer relayed."""

    def __init__(self, hub: Hub) -> None:
        self._hub = hub
        self._relayed: OrderedDict[Contact, tuple[int, int]] = OrderedDict()
        """By who relayed: how many of its contacts were tried, and how many were dead."""
        self._loss = 0.0

    def on_outcome(self, *, lives: bool) -> None:
        """Take note of whether any peer answered."""
        self._loss += _FADE * ((not lives) - self._loss)

    def judge(self, referrer: Contact, *, lives: bool) -> None:
        """Take note of what became of a contact that a peer relayed."""
        tried, dead = self._relayed.pop(referrer, (0, 0))
        tried, dead = tried + 1, dead + (not lives)
        if tried < JUDGED:
            self._relayed[referrer] = (tried, dead)
            if len(self._relayed) > limits.DHT_RELAYERS_MAX:
                self._relayed.popitem(last=False)
        elif dead > DEAD_SHARE * tried and self._loss < OWN_LOSS_MAX:
            self._hub.counters.dead_contacts += 1
            self._hub.emit(Penalise(referrer.key, referrer.address, Offence.DEAD_CONTACTS))
