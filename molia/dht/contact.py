"""Contacts: who is where, and the position that follows from it.

A routing id is bound to the address prefix that a node is reached at: an identity cannot choose
where it lands, and many identities in one network land in few places.
Source: docs/reference/ids.md, "Routing ids".
"""

from functools import lru_cache
from typing import Final, NamedTuple

from molia.base.hashing import purpose_digest
from molia.base.ids import PeerKey
from molia.wire.addresses import Address, address_prefix, is_local, is_unicast, pack_host
from molia.wire.messages import encode_contact

ID_BITS: Final = 256
_PREFIX_BYTES: Final = 4
_PLACES: Final = 7
"""Mask of the last byte of an identity's digest: an address prefix has eight places."""


class Contact(NamedTuple):
    """A node at an address. Equal contacts are one object where a `Space` made them."""

    id: int
    """Position in the XOR space."""
    key: PeerKey
    address: Address
    """Host and port, as a socket gives them."""
    group: bytes
    """What diversity is counted by: the address prefix; of a local address, the whole of it."""
    is_local: bool
    encoded: bytes
    """As a part of a NODES body."""

    def __hash__(self) -> int:
        """Return the hash of the encoding, which says it all and remembers its hash."""
        return hash(self.encoded)


def routing_id(network: bytes, packed: bytes, key: bytes, *, bind_ids: bool = True) -> int:
    """Return the routing id of a peer key at a packed host, as a number.

    Local addresses, and networks that do not bind ids, give a position by the key alone.
    """
    digest = purpose_digest("routing-id", key)
    if not bind_ids or is_local(packed):
        return int.from_bytes(digest, "big")
    place = bytes((digest[31] & _PLACES,))
    head = purpose_digest("routing-prefix", network + address_prefix(packed) + place)
    return int.from_bytes(head[:_PREFIX_BYTES] + digest[:28], "big")


class Space:
    """The contacts of one network; remembers those made lately, since each costs 5 us.

    bind_ids: whether positions follow from addresses; a parameter of the network.
    """

    def __init__(self, network: bytes, *, bind_ids: bool = True, remembered: int = 16_384) -> None:
        self.network, self.bind_ids = network, bind_ids
        self.contact = lru_cache(maxsize=remembered)(self._contact)
        """`contact(key, address)`: the contact of a peer key's bytes at an address; None when no
        packet can be sent to one host there, or the key is nobody's."""

    def _contact(self, key: bytes, address: Address) -> Contact | None:
        packed = pack_host(address[0])
        if packed is None or not is_unicast(packed) or not 0 < address[1] < 65_536:
            return None
        local = is_local(packed)
        return Contact(
            id=routing_id(self.network, packed, key, bind_ids=self.bind_ids),
            key=PeerKey(key),
            address=(address[0], address[1]),
            group=packed + address[1].to_bytes(2, "big") if local else address_prefix(packed),
            is_local=local,
            encoded=encode_contact(key, (address[0], address[1])),
        )


def bucket_index(*, own: int, other: int) -> int:
    """Return the bucket of `own` that holds `other`; bucket 0 is the far half of the space."""
    distance = own ^ other
    assert distance > 0, "a node has no bucket for itself"
    return ID_BITS - distance.bit_length()
