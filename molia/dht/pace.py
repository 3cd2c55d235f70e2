"""How long a lookup waits for a peer before it asks the next one.

Source: docs/reference/lookups.md, "Waiting".
"""

from typing import Final

from molia.dht.contact import Contact
from molia.wire.rtt import SOFT_MIN_S, RttTable

_PATIENCE: Final = 2.5
_HURRIED_PATIENCE: Final = 1.5
"""Nobody keeps a lookup waiting for longer than this many times what is usual."""


class Pace:
    """Round trips to nodes of the DHT, and what follows from them."""

    def __init__(self, rtts: RttTable[bytes] | None = None) -> None:
        self.rtts: RttTable[bytes] = rtts if rtts is not None else RttTable()
        """By the bytes of the peer's key."""

    def add(self, contact: Contact, rtt_s: float) -> None:
        """Take the round trip of a request that was sent once only."""
        self.rtts.add(contact.key.key, rtt_s)

    def soft_s(self, contact: Contact, *, hurried: bool = False) -> float:
        """Return when the next peer is asked beside this one: 50 ms to 1 s.

        Slow peers get their own estimate, but not beyond what is usual: one that always answers
        just in time would hold up every lookup that meets it. hurried: most are liars anyway.
        """
        soft_s = self.rtts.soft_timeout_s(contact.key.key)
        usual_s = self.rtts.median_s()
        if usual_s is None:
            return soft_s
        patience = _HURRIED_PATIENCE if hurried else _PATIENCE
        return min(soft_s, max(SOFT_MIN_S, patience * usual_s))

    def hard_s(self) -> float:
        """Return when an answer is not waited for any more."""
        return self.rtts.hard_timeout_s()
