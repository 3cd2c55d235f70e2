"""Contacts for tests: where nobody cares whose they are, or who cares gives them an address."""

from molia.base.ids import PeerKey
from molia.dht.contact import Contact, Space
from molia.sim.entropy import SeededEntropy
from molia.wire.messages import encode_contact

FREE = Space(bytes(32), bind_ids=False)


def placed(position: int, *, number: int | None = None, net: int | None = None) -> Contact:
    """Return a contact at a position of the space.

    number: makes its key and address, from the position if None. net: its /24; else one of its own.
    """
    number = position if number is None else number
    key = PeerKey((number % (1 << 256)).to_bytes(32, "big"))
    place = hash(number) % (1 << 20) if net is None else net
    host = f"{16 + (place >> 16) % 64}.{place >> 8 & 255}.{place & 255}.{1 + number % 250}"
    address = (host, 1024 + number % 60_000)
    return Contact(id=position, key=key, address=address, group=b"\4" + place.to_bytes(3, "big"),
                   is_local=False, encoded=encode_contact(key.key, address))  # fmt: skip


def population(count: int, *, seed: int = 1, nets: int | None = None) -> list[Contact]:
    """Return contacts at random positions; `nets` is the number of their /24s, else one each."""
    chance = SeededEntropy(seed).random
    return [
        placed(chance.getrandbits(256), number=number, net=number % (nets or count))
        for number in range(1, count + 1)
    ]
