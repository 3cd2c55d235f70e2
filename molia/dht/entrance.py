"""Who may have a place in the routing table: whose identity cost something at its address.

A PONG shows the proof; who answered something else is asked for it. Asked once for each candidate.
Source: docs/reference/admission.md, "Identity proof"; docs/reference/dht.md.
"""

from collections import OrderedDict
from typing import Protocol

from molia.base import limits
from molia.base.now import Now
from molia.dht.contact import Contact


class Gate(Protocol):
    """What judges proofs, outside of the engine."""

    def own_proof(self) -> bytes:
        """Return the proof that this node shows; empty while there is none."""
        ...

    def admits(self, contact: Contact, proof: bytes, now: Now) -> bool:
        """Tell whether a proof is good for this key at this address. Takes 0.5 ms at most."""
        ...


class OpenGate:
    """Asks for no proof."""

    def own_proof(self) -> bytes:
        """See `Gate.own_proof`."""
        return b""

    def admits(self, contact: Contact, proof: bytes, now: Now) -> bool:  # noqa: ARG002
        """See `Gate.admits`."""
        return True


class Entrance:
    """Remembers who was let in."""

    def __init__(self, gate: Gate) -> None:
        self.gate = gate
        self._admitted: OrderedDict[Contact, None] = OrderedDict()

    def lets_in(self, contact: Contact, proof: bytes, now: Now) -> bool:
        """Tell whether a contact that answered may be inserted; local addresses always may."""
        if contact.is_local or contact in self._admitted:
            return True
        if not self.gate.admits(contact, proof, now):
            return False
        self._admitted[contact] = None
        if len(self._admitted) > limits.DHT_PROVED_MAX:
            self._admitted.popitem(last=False)
        return True
