"""The DHT of one worker: joins, answers, looks up, keeps. A routing table of events and effects.

    engine = Engine(config, identity=key, space=space, own=None, wire=wire, shelf=shelf, entropy=…)
    engine.start(seeds, now)
    lookup = engine.find(target, now)  # an id; Finished(id, …) comes among the effects
    ...engine.on_ended(ended, now), engine.on_deadline(now) at engine.next_deadline_s()...
    for effect in engine.take_effects(): ...

It decides nothing itself: each conversation has its file, and they share a `Hub`.
Source: docs/reference/dht.md.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Final

from molia.base.entropy import Entropy
from molia.base.ids import PeerKey
from molia.base.now import Now
from molia.dht.asking import AnyAsker, Asks, Reply
from molia.dht.checking import Checking, Clocks
from molia.dht.config import DhtConfig
from molia.dht.contact import Contact, Space
from molia.dht.counters import DhtCounters
from molia.dht.effects import Effect
from molia.dht.entrance import Gate
from molia.dht.hub import Hub, family_of
from molia.dht.joining import Joining
from molia.dht.keeping import Keeping
from molia.dht.operations import Operations
from molia.dht.ports import Shelf, Wire
from molia.dht.reach import Reachability
from molia.dht.records import RecordAddress
from molia.dht.searching import Searches
from molia.dht.serving import Serving
from molia.dht.storing import Storing
from molia.dht.table import EntryView
from molia.wire.addresses import Address
from molia.wire.messages import Number, Pong
from molia.wire.requests import Ended
from molia.wire.transport import Handler

ROUNDS_MAX: Final = 64
"""Times that one event may set off another before the rest waits for the next call."""


class Engine:
    """One worker's DHT."""

    once: Final = frozenset({int(Number.PUT), int(Number.ADD_PROVIDER)})
    """Numbers of what must not be carried out twice; for `Transport(once=…)`."""

    def __init__(
        self, config: DhtConfig, *, identity: PeerKey, space: Space, own: Contact | None,
        wire: Wire, shelf: Shelf, entropy: Entropy, share: tuple[int, int] = (0, 1),
        gate: Gate | None = None,
    ) -> None:  # fmt: skip
        """own: where others reach this node, when its owner knows; else it finds out.

        gate: judges who may have a place in the table; None: all who answer.

        share: this worker's index and how many there are; duties are split among them.
        """
        self._hub = hub = Hub(
            config, identity=identity, space=space, wire=wire, shelf=shelf, entropy=entropy,
            share=share, gate=gate,
        )  # fmt: skip
        self._own = own
        self._asks = Asks(hub)
        self._searches = Searches(hub, self._asks)
        self._serving = Serving(hub, self._asks)
        self._storing = Storing(hub, self._serving)
        self._keeping = Keeping(hub, self._asks, self._serving)
        self._joining = Joining(hub, self._asks, self._searches, self._keeping)
        self._reach = Reachability(hub, self._asks, self._serving, self._joining, self._keeping)
        self._checking, self._clocks = Checking(hub, self._asks), Clocks()
        self._operations = Operations(hub, self._asks, self._searches, self._storing)
        self._asks.on_pong = self._on_pong
        self.handlers: Mapping[int, Handler] = {
            **self._serving.handlers,
            **self._storing.handlers,
            **self._keeping.handlers,
        }
        """By message number, for `Transport(handlers=…)`."""

    # ------------------------------------------------------------------ begin and end

    def start(
        self, seeds: Sequence[tuple[PeerKey, Address]], now: Now, *, snapshot: bytes = b""
    ) -> None:
        """Begin to join the network; snapshot: what the last `Snapshot` effect held."""
        hub = self._hub
        if self._own is not None:
            self._reach.fix(family_of(self._own.address), self._own, now)
        self._joining.start(seeds, snapshot, now)
        self._checking.start(now)
        self._reach.start(now)
        hub.timers.set("snapshot", now.mono_s + hub.jitter(hub.config.snapshot_s))
        self._settle(now)

    def resume(self, contacts: Sequence[Contact], sizes: Sequence[Sequence[int]], now: Now) -> None:
        """Take it, after `start`, that the node has long been there: it joined, and knows others.

        contacts: they have answered. sizes: distances of the closest nodes to random targets, each
        ascending. For networks that begin in the middle of their life, as simulated ones do.
        """
        for contact in contacts:
            self.on_sibling_verified(contact, now)
        self._joining.resume(sizes, now)

    def stop(self, now: Now) -> None:
        """Leave a last snapshot among the effects."""
        self._snapshot(now)

    # ------------------------------------------------------------------ facts

    def on_ended(self, ended: Ended[AnyAsker], now: Now) -> bool:
        """Take what became of a request; False: it is none of ours."""
        is_ours = self._asks.on_ended(ended, now)
        if is_ours:
            self._settle(now)
        return is_ours

    def on_stored(self, token: int, applied: bool, now: Now) -> None:  # noqa: FBT001 - a fact
        """Take what became of a `Store`: not applied, if another row was there than expected."""
        self._storing.writes.on_stored(token, applied=applied, now=now)
        self._settle(now)

    def on_sibling_verified(self, contact: Contact, now: Now) -> None:
        """Take over what another worker of this node found: a contact answered it."""
        self._asks.unproved.prove(contact)
        self._hub.take_in(contact, None, now)

    def on_goodbye(self, contact: Contact, now: Now) -> None:
        """Take that a contact stops: it makes room at once, and is probed now and then."""
        self._hub.table_of(contact.address).on_gone(contact, now.mono_s)

    def on_proof(self, now: Now) -> None:
        """Take that this node has an identity proof to show now: neighbours are told it serves."""
        if any(side.own is not None for side in self._hub.families.values()):
            self._joining.on_reachable(now)
            self._settle(now)

    def hint(self, contact: Contact, now: Now) -> None:
        """Take it that a node may be at an address: it is asked, and kept when it answers."""
        self._asks.hint(contact, now)
        self._settle(now)

    def on_rows(self, count: int) -> None:
        """Take how many records and provider records the shelf holds."""
        self._storing.writes.quotas.rows = count

    def on_egress(self, sent_bytes: int, now: Now) -> None:
        """Take all that the node has sent so far: a tenth of it may be repair of replicas."""
        self._keeping.on_egress(sent_bytes, now)

    def on_link_change(self, now: Now) -> None:
        """Take it that this machine's network has changed."""
        self._joining.on_link_change(now)
        self._reach.start(now)
        self._settle(now)

    def on_deadline(self, now: Now) -> None:
        """Do what is due."""
        self._searches.on_deadline(now)
        for name in self._hub.timers.take_due(now.mono_s):
            if name == "checks":
                self._checking.on_timer(now)
            elif name == "reach":
                self._reach.on_timer(now)
            elif name == "snapshot":
                self._snapshot(now)
            elif name == "keeping":
                self._keeping.on_timer(now)
            else:
                self._joining.on_timer(name, now)
        self._settle(now)

    def next_deadline_s(self) -> float | None:
        """Return when `on_deadline` is to be called, in monotonic seconds."""
        dues = (self._hub.timers.next_s(), self._searches.next_deadline_s())
        return min((due_s for due_s in dues if due_s is not None), default=None)

    def take_effects(self) -> list[Effect]:
        """Return what is to be done, in order."""
        return self._hub.take_effects()

    # ------------------------------------------------------------------ operations

    def find(
        self, target: bytes, now: Now, *, trace: bool = False, family: int | None = None
    ) -> int:
        """Look for the nodes closest to a target; the result is a `LookupResult`."""
        return self._begun(self._operations.find(target, now, trace=trace, family=family), now)

    def walk(
        self, center: bytes, now: Now, *, radius: int | None = None, trace: bool = False
    ) -> int:
        """Find all who answer in a region; the result is a `LookupResult`.

        radius: of the region, where it is not to be the usual one.
        """
        return self._begun(self._operations.walk(center, now, radius=radius, trace=trace), now)

    def get_record(
        self, address: RecordAddress, now: Now, *, consistent: bool = False, trace: bool = False
    ) -> int:
        """Read a record; the result is a `Got`.

        consistent: not the first that holds, but the newest that three holders give, in distinct
        networks; those who gave an older one are sent it.
        """
        begun = self._operations.get_record(address, now, is_consistent=consistent, trace=trace)
        return self._begun(begun, now)

    def put_record(
        self, encoded: Sequence[bytes], now: Now, *, cas: int | None = None, trace: bool = False
    ) -> int:
        """Put a record, signed for each of its periods, the present one first: a `Stored`.

        cas: the seq that it replaces; 0: none. If it does not, the put fails and tells by what.
        """
        return self._begun(self._operations.put_record(encoded, now, cas=cas, trace=trace), now)

    def find_providers(self, locs: Sequence[bytes], now: Now, *, trace: bool = False) -> int:
        """Find who provides what lies at these locations; the result is a `ProvidersFound`."""
        return self._begun(self._operations.find_providers(locs, now, trace=trace), now)

    def announce(self, encoded: Sequence[bytes], now: Now) -> int:
        """Put signed provider records where they belong; the result is an `Announced`."""
        return self._begun(self._operations.announce(encoded, now), now)

    def ping(self, key: PeerKey, address: Address, now: Now) -> int:
        """Ask a peer whether it is there; the result is a `Pinged`, or None."""
        return self._begun(self._operations.ping(key, address, now), now)

    def _begun(self, operation_id: int, now: Now) -> int:
        self._settle(now)
        return operation_id

    # ------------------------------------------------------------------ what it knows

    @property
    def counters(self) -> DhtCounters:
        """What was counted so far."""
        return self._hub.counters

    @property
    def clock_offset_s(self) -> float | None:
        """How far the peers' clocks are ahead of ours, in the median; None while too few told."""
        return self._clocks.offset_s

    @property
    def own(self) -> Contact | None:
        """Where others reach this node; None of a client."""
        return self._hub.family.own

    @property
    def table_counts(self) -> Counter[str]:
        """What happened in both tables: inserted, evicted, gone, moved and the like."""
        ipv4, ipv6 = self._hub.families.values()
        return ipv4.table.counts + ipv6.table.counts

    @property
    def places(self) -> list[Address]:
        """Where others reach this node, on each address family that it serves on."""
        sides = self._hub.families.values()
        return [side.own.address for side in sides if side.own is not None]

    @property
    def is_joined(self) -> bool:
        """Whether the node knows its neighbourhood."""
        return self._joining.is_joined

    @property
    def size_estimate(self) -> float:
        """How many nodes the network seems to have."""
        return self._hub.family.size.nodes

    @property
    def lookup_count(self) -> int:
        """Lookups that run."""
        return len(self._searches)

    @property
    def radius(self) -> int:
        """The distance within which a location's holders lie, by the size estimate."""
        return self._hub.family.size.radius

    def entries(self) -> list[EntryView]:
        """Return all that both tables hold, for people."""
        return [view for side in self._hub.families.values() for view in side.table.views()]

    def find_contact(self, key: PeerKey) -> Contact | None:
        """Return a verified contact of a peer key."""
        sides = self._hub.families.values()
        return next((c for side in sides if (c := side.table.find(key.key)) is not None), None)

    def contacts(self) -> list[Contact]:
        """Return the verified contacts of both families."""
        return [c for side in self._hub.families.values() for c in side.table.contacts()]

    # ------------------------------------------------------------------ within

    def _on_pong(self, reply: Reply, pong: Pong, now: Now) -> None:
        self._clocks.on_pong(reply, pong, now)
        self._reach.on_pong(reply, pong, now)

    def _snapshot(self, now: Now) -> None:
        self._joining.snapshot(now)
        self._hub.timers.set("snapshot", now.mono_s + self._hub.jitter(self._hub.config.snapshot_s))

    def _settle(self, now: Now) -> None:
        """Follow what one event set off to its end."""
        for _ in range(ROUNDS_MAX):
            self._searches.settle(now)
            self._asks.settle(now)
            if not self._asks.is_unsettled and not self._searches.is_unsettled:
                return
