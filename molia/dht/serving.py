"""What peers ask about who is where, and what they are told.

A client answers PING only: it is in nobody's table, and what it knows may be old.
The hot path of a node is `_on_find_node`: a target is cut out of the body, the table joins what was
encoded before.
Source: docs/reference/dht.md, "Serving".
"""

from collections.abc import Callable, Sequence
from typing import Final

from molia.base import limits
from molia.base.hashing import blake2b_digest
from molia.base.now import Now
from molia.dht.asking import Asks
from molia.dht.contact import Contact
from molia.dht.hub import Family, Hub
from molia.dht.ports import Asker
from molia.wire import messages
from molia.wire.addresses import Address
from molia.wire.dht_messages import FindRegion
from molia.wire.messages import (
    Error,
    ErrorCode,
    Number,
    Ping,
    Pong,
    encode_nodes,
    find_node_target,
)
from molia.wire.transport import Answer, Handler

REFUSED: Final[Answer] = (int(Number.ERROR), messages.encode(Error(code=ErrorCode.REFUSED)))
BAD: Final[Answer] = (int(Number.ERROR), messages.encode(Error(code=ErrorCode.BAD_MESSAGE)))
REGION_GROUP_MAX: Final = 2
"""Contacts of one network in the answer to FIND_REGION."""
_NODES: Final = int(Number.NODES)
_SALTED_SIZE: Final = 16


class Serving:
    """The answers of one node about its contacts."""

    def __init__(self, hub: Hub, asks: Asks) -> None:
        self._hub, self._asks = hub, asks
        self.on_ping: Callable[[Contact, Now], None] = _nothing
        """Is told of every PING, by whoever puts itself here."""
        self.handlers: dict[int, Handler] = {
            Number.PING: self._on_ping,
            Number.FIND_NODE: self._on_find_node,
            Number.FIND_REGION: self._on_find_region,
        }

    def side(self, peer: Asker) -> Family | None:
        """Return the family on which an asker is served; None: this node is a client for it."""
        address = peer.address
        if address is None:
            return None
        side = self._hub.families[6 if ":" in address[0] else 4]
        if side.own is None or (side.own.is_local and not self._hub.serves(address_of(address))):
            self._hub.counters.served_refused += 1
            return None
        return side

    # ------------------------------------------------------------------ handlers

    def _on_ping(self, peer: Asker, _request_id: int, body: bytes, now: Now) -> Answer | None:
        ping = messages.decode(Number.PING, body)
        if not isinstance(ping, Ping) or peer.address is None:
            self._hub.counters.bad_requests += 1
            return BAD
        address = address_of(peer.address)
        if peer.identity is not None:
            contact = self._hub.space.contact(peer.identity.key, address)
            if contact is not None:
                self.on_ping(contact, now)
            if contact is not None and ping.serves:
                self._hub.table_of(address).on_alive(contact, now.mono_s)
                self._asks.hint(contact, now)
        self._hub.counters.served += 1
        pong = Pong(
            seen=address, unix_ms=now.unix_ms, serves=self._hub.serves(address),
            proof=self._hub.entrance.gate.own_proof(),
        )  # fmt: skip
        return Number.PONG, messages.encode(pong)

    def _on_find_node(self, peer: Asker, _request_id: int, body: bytes, _now: Now) -> Answer | None:
        side = self.side(peer)
        if side is None:
            return REFUSED
        target = find_node_target(body)
        if target is None:
            self._hub.counters.bad_requests += 1
            return BAD
        self._hub.counters.served += 1
        return _NODES, side.table.nodes_body(int.from_bytes(target, "big"))

    def _on_find_region(
        self, peer: Asker, _request_id: int, body: bytes, _now: Now
    ) -> Answer | None:
        side = self.side(peer)
        if side is None:
            return REFUSED
        asked = messages.decode(Number.FIND_REGION, body)
        if not isinstance(asked, FindRegion):
            self._hub.counters.bad_requests += 1
            return BAD
        self._hub.counters.served += 1
        center = int.from_bytes(asked.center, "big")
        inside = side.table.in_region(center, 1 << asked.radius_bits)
        page = salted(inside, asked.salt)[asked.cursor :][: limits.NODES_CONTACTS_MAX]
        return _NODES, encode_nodes(contact.encoded for contact in page)


def salted(contacts: Sequence[Contact], salt: bytes) -> list[Contact]:
    """Return contacts in the order of BLAKE2b(salt ‖ key), at most two of a network.

    Whoever asks draws the salt, so no node can place itself first.
    """
    order = sorted(contacts, key=lambda c: blake2b_digest(salt + c.key.key, size=_SALTED_SIZE))
    counts: dict[bytes, int] = {}
    kept = []
    for contact in order:
        count = counts.get(contact.group, 0)
        if count < REGION_GROUP_MAX:
            counts[contact.group] = count + 1
            kept.append(contact)
    return kept


def address_of(address: tuple[str, int] | tuple[str, int, int, int]) -> Address:
    """Return host and port of an address as a socket gives it."""
    return address[0], address[1]


def _nothing(contact: Contact, now: Now) -> None:
    """Nobody wants to know."""
