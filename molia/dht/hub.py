"""What the parts of the engine share: both tables, the wire, the shelf, effects and counters.

A part asks peers through `asks`, answers through handlers, tells its owner through `emit`, and is
woken by its name in `timers`.
"""

from collections.abc import Iterable
from typing import Final

from molia.base import limits
from molia.base.deadlines import DeadlineTable
from molia.base.entropy import Entropy
from molia.base.hashing import purpose_digest
from molia.base.ids import PeerKey
from molia.base.now import Now
from molia.dht.config import DhtConfig
from molia.dht.contact import Contact, Space
from molia.dht.counters import DhtCounters
from molia.dht.effects import Effect, Verified
from molia.dht.entrance import Entrance, Gate, OpenGate
from molia.dht.pace import Pace
from molia.dht.ports import Shelf, Wire
from molia.dht.size import SizeEstimate
from molia.dht.table import Table
from molia.wire import messages
from molia.wire.addresses import Address, is_local, is_loopback, pack_host

IPV4: Final = 4
IPV6: Final = 6
FIRST_S: Final = 0.25
"""From the first contact to the look around, so that there may be a second."""
UNKNOWN_S: Final = 1.0
"""The same while this node does not know whether others reach it: see `dht/joining.py`."""
TELL_SIBLINGS_S: Final = 10.0
"""How often the other workers are told of one contact."""


def family_of(address: Address) -> int:
    """Return the address family of a numeric host."""
    return IPV6 if ":" in address[0] else IPV4


class Family:
    """The node on one address family: it is a contact of its own on each."""

    def __init__(self, own_id: int, config: DhtConfig, entropy: Entropy) -> None:
        self.own_id = own_id
        """A client has one as well: what it knows best is then around that."""
        self.own: Contact | None = None
        """Where others reach this node; None of a client."""
        self.table = Table(own_id, config.table, entropy=entropy)
        self.size = SizeEstimate()


class Hub:
    """The shared middle of one worker's engine."""

    def __init__(
        self, config: DhtConfig, *, identity: PeerKey, space: Space, wire: Wire, shelf: Shelf,
        entropy: Entropy, share: tuple[int, int], gate: Gate | None = None,
    ) -> None:  # fmt: skip
        self.config, self.identity, self.space = config, identity, space
        self.wire, self.shelf, self.entropy, self.share = wire, shelf, entropy, share
        self.counters = DhtCounters()
        self.entrance = Entrance(OpenGate() if gate is None else gate)
        self.timers: DeadlineTable[str] = DeadlineTable()
        self.pace = Pace()
        unbound = int.from_bytes(purpose_digest("routing-id", identity.key), "big")
        self.families = {
            family: Family(unbound, config, entropy) for family in (IPV4, IPV6)
        }  # fmt: skip
        self._effects: list[Effect] = []
        self._told_s: dict[Contact, float] = {}
        """When the siblings were told last that a contact answers."""

    # ------------------------------------------------------------------ families

    def table_of(self, address: Address) -> Table:
        """Return the routing table of the family of an address."""
        return self.families[family_of(address)].table

    @property
    def family(self) -> Family:
        """The family that is meant when none is named: where others reach us, or we know most."""
        known, other = self.families[IPV4], self.families[IPV6]
        if known.own is None and (other.own is not None or other.table.size > known.table.size):
            return other
        return known

    def pick_family(self, family: int | None) -> Family:
        """Return the family named, or the usual one."""
        return self.family if family is None else self.families[family]

    def serves(self, asker: Address) -> bool:
        """Tell whether whoever is at an address can reach this node, as far as is known.

        A node that is known under a local address only says nothing of the world outside.
        """
        own = self.families[family_of(asker)].own
        if own is None or not own.is_local:
            return own is not None
        packed = pack_host(asker[0])
        return packed is not None and is_local(packed)

    def set_own(self, family: int, own: Contact | None, now: Now) -> None:
        """Take the contact that this node is; another routing id begins another table.

        Who died is remembered whatever the id: to find back to them after a partition.
        """
        side = self.families[family]
        side.own = own
        if own is not None and own.id != side.own_id:
            contacts, graveyard = side.table.contacts(), side.table.graveyard
            side.own_id = own.id
            side.table = Table(own.id, self.config.table, entropy=self.entropy)
            side.table.graveyard = graveyard
            for contact in contacts:
                if contact.id != own.id:
                    side.table.on_verified(contact, None, now.mono_s)

    # ------------------------------------------------------------------ contacts

    def on_verified(self, contact: Contact, rtt_s: float | None, now: Now) -> None:
        """Take note that our request to a contact was answered from its address."""
        if contact.key == self.identity:
            return
        self.take_in(contact, rtt_s, now)
        if self.share[1] > 1:
            self._tell_siblings(contact, now.mono_s)

    def take_in(self, contact: Contact, rtt_s: float | None, now: Now) -> None:
        """Tell the table of a verified contact; the first one is a reason to look around."""
        table = self.table_of(contact.address)
        if not table.size:
            wait_s = UNKNOWN_S if self.family.own is None else FIRST_S
            self.timers.set("join", now.mono_s + wait_s)
        table.on_verified(contact, rtt_s, now.mono_s)

    def _tell_siblings(self, contact: Contact, now_s: float) -> None:
        told = self._told_s
        if now_s - told.get(contact, float("-inf")) >= TELL_SIBLINGS_S:
            told.pop(contact, None)
            told[contact] = now_s
            if len(told) > limits.DHT_TOLD_MAX:
                del told[next(iter(told))]
            self.emit(Verified(contact))

    def contacts_of(self, told: Iterable[messages.Contact], namer: Contact) -> list[Contact]:
        """Return the contacts of a reply that can be; the others are counted and dropped."""
        contacts, find, own = [], self.space.contact, self.identity.key
        for key, address in told:
            contact = find(key, address)
            if contact is None:
                self.counters.contacts_impossible += 1
            elif key == own:
                self.counters.contacts_own += 1
            elif contact.is_local and not _is_as_near(namer, contact):
                self.counters.contacts_local += 1
            else:
                contacts.append(contact)
        return contacts

    # ------------------------------------------------------------------ effects and chance

    def emit(self, effect: Effect) -> None:
        """Hand an effect to the owner."""
        if len(self._effects) >= limits.DHT_EFFECTS_MAX:
            self.counters.effects_dropped += 1
            return
        self._effects.append(effect)

    def take_effects(self) -> list[Effect]:
        """Return what is to be done, in order."""
        effects, self._effects = self._effects, []
        return effects

    def below(self, stop: int) -> int:
        """Return a random number below `stop`."""
        return int.from_bytes(self.entropy.token(8), "big") % stop

    def jitter(self, seconds: float) -> float:
        """Return a time around `seconds`, so that nodes do not act in step."""
        return seconds * (0.75 + self.below(1024) / 2048)


def _is_as_near(namer: Contact, local: Contact) -> bool:
    """Tell whether who names a local address may know it: nobody outside has us knock within."""
    return namer.is_local and (_is_loopback(namer) or not _is_loopback(local))


def _is_loopback(contact: Contact) -> bool:
    packed = pack_host(contact.address[0])
    return packed is not None and is_loopback(packed)
