"""All nodes of a simulated network: made, started, ended, and counted by one who sees everything.

A network may begin in the middle of its life: its first nodes know the contacts that their tables
would hold, and then go on as any node does. Whoever comes later joins as a stranger.
Source: docs/reference/simulator.md, "The nodes".
"""

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from molia.base.crypto import Identity, new_seed
from molia.base.ids import PeerKey
from molia.dht.config import DhtConfig
from molia.dht.contact import ID_BITS, Contact, Space
from molia.sim.dht_host import Books, DhtHost
from molia.sim.entropy import SeededEntropy
from molia.sim.nat import Kind, draw_kind
from molia.sim.net import Net, Seat
from molia.sim.shelf import MemoryShelf
from molia.sim.wire_host import transport_type
from molia.wire.addresses import Address
from molia.wire.noise import molia_profile

NETWORK: Final = b"simulated".ljust(32, b"\0")
SEEDS: Final = 3
"""Nodes that a newcomer is told of."""
BUCKET: Final = 20
_SORTED_FOR_S: Final = 5.0
SETTLED_S: Final = 30.0
"""A node that is up for so long counts where the truth is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetConfig:
    """What the nodes of a run are like."""

    wire: str = "auto"
    dht: DhtConfig = field(default_factory=DhtConfig)
    bind_ids: bool = True
    nated: float = 0.0
    """The share of nodes behind some box."""
    later: float = 0.0
    """The share of nodes of a later version: more fields, more feature bits."""


class Node:
    """A node through all its lives."""

    def __init__(self, fleet: "Fleet", index: int, seat: Seat, kind: Kind) -> None:
        self.fleet, self.index, self.seat, self.kind = fleet, index, seat, kind
        self.identity = Identity(new_seed(fleet.world.seeds.entropy(index, "identity")))
        self.shelf = MemoryShelf()
        self.snapshot = b""
        self.host: DhtHost | None = None
        """None while it is down."""
        self.lives = 0
        self.up_since_s = self.up_s = 0.0
        self.base_bytes = 0
        """What it had sent of itself when measuring began."""
        contact = fleet.space.contact(self.identity.peer_key.key, seat.address)
        self.contact = contact if kind is Kind.PUBLIC else None
        """Where it is found, if it can be."""
        self.is_later = fleet.rng.random() < fleet.config.later

    def enter(self) -> None:
        """Begin a life as a stranger who is told of a few others."""
        self.begin(None)
        assert self.host is not None, "it has just begun"
        self.host.start(self.fleet.seeds_for(self), self.snapshot)

    def begin(self, own: Contact | None) -> DhtHost:
        """Make the node of a new life, not started. own: what it knows of where it is found."""
        fleet, self.lives = self.fleet, self.lives + 1
        life = self.lives

        def entropies(stream: str) -> SeededEntropy:
            return fleet.world.seeds.entropy(self.index, f"{stream} {life}")

        self.host = host = DhtHost(
            fleet.net, self.seat, books=fleet.books, wire=fleet.wire, profile=fleet.profile,
            identity=self.identity, space=fleet.space, own=own, shelf=self.shelf,
            config=fleet.config.dht, entropies=entropies,
            tail=LATER_TAIL if self.is_later else b"", features=2 if self.is_later else 0,
        )  # fmt: skip
        host.on_snapshot = self._keep
        self.up_since_s = fleet.world.time_s
        fleet.on_up(self)
        return host

    def leave(self, *, goodbye: bool) -> None:
        """End a life."""
        host, self.host = self.host, None
        if host is not None:
            self.up_s += self.fleet.world.time_s - max(self.up_since_s, self.fleet.measured_s)
            self.fleet.on_down(self)
            host.stop(goodbye=goodbye)

    def _keep(self, snapshot: bytes) -> None:
        self.snapshot = snapshot

    @property
    def is_serving(self) -> bool:
        """Whether it is up and serves."""
        return self.host is not None and self.host.engine.own is not None

    @property
    def is_settled(self) -> bool:
        """Whether it has served for long enough to be counted on."""
        age_s = self.fleet.world.time_s - self.up_since_s
        return self.is_serving and age_s >= SETTLED_S


LATER_TAIL: Final = bytes((0xFA, 0x7F, 3)) + b"new"
"""Field 2047 of a later version, as any message may carry it."""


def _id_of(node: Node) -> int:
    assert node.contact is not None, "only those that can be found are asked for"
    return node.contact.id


class Fleet:
    """The nodes of one run."""

    def __init__(self, net: Net, config: FleetConfig, *, nodes: int) -> None:
        self.net, self.world, self.config = net, net.world, config
        self.wire = transport_type(config.wire, nodes)
        self.profile = molia_profile(NETWORK)
        self.space = Space(NETWORK, bind_ids=config.bind_ids, remembered=8 * nodes + 4_096)
        self.rng = self.world.seeds.entropy("fleet", "choices").random
        self.books = Books(seat_at=net.seats.get)
        self.nodes: list[Node] = []
        self._up: dict[Node, None] = {}
        self._order: list[Node] = []
        self.measured_s = 0.0
        """Since when bytes are counted."""
        self._sorted: list[Node] = []
        """Settled nodes by id, as they were at some time of late."""
        self._ids: list[int] = []
        self._sorted_s = -_SORTED_FOR_S

    # ------------------------------------------------------------------ making

    def add(self, *, address: Address | None = None) -> Node:
        """Make a node that is down."""
        kind = Kind.PUBLIC
        if address is None:
            kind = draw_kind(self.rng, nated=self.config.nated)
        index = len(self.nodes)
        node = Node(self, index, self.net.seat(index, kind=kind, address=address), kind)
        self.nodes.append(node)
        return node

    def newcomer(self) -> Node:
        """Make a node and let it join."""
        node = self.add()
        node.enter()
        return node

    def found(self, count: int) -> None:
        """Begin with so many nodes that know each other as if they had run for long."""
        made = [self.add() for _ in range(count)]
        known = KnownNetwork([node.contact for node in made if node.contact is not None])
        for node in made:
            if node.kind is Kind.BLOCKED:
                continue  # nobody ever hears of it
            host = node.begin(node.contact)
            own = node.contact.id if node.contact else self.rng.getrandbits(ID_BITS)
            sizes = [
                known.distances_to(self.rng.getrandbits(ID_BITS))
                for _ in range(self.config.dht.refresh_early_count)
            ]
            host.resume(known.table_of(own, self.rng.random()), sizes)

    def seeds_for(self, node: Node) -> list[tuple[PeerKey, Address]]:
        """Return a few nodes that serve, as an operator's list would."""
        seeds: list[tuple[PeerKey, Address]] = []
        order = self._order
        for _ in range(20 * SEEDS):
            if len(seeds) == SEEDS or not order:
                break
            other = order[self.rng.randrange(len(order))]
            if other is not node and other.contact is not None and other.is_serving:
                seeds.append((other.identity.peer_key, other.seat.address))
        return seeds

    # ------------------------------------------------------------------ who is there

    def on_up(self, node: Node) -> None:
        """Take note of a node that runs."""
        self._up[node] = None
        self._order.append(node)

    def on_down(self, node: Node) -> None:
        """Take note of a node that does not run any more."""
        del self._up[node]
        self._order.remove(node)

    @property
    def up(self) -> list[Node]:
        """The nodes that run."""
        return list(self._order)

    def draw(self) -> Node | None:
        """Return one of the nodes that run."""
        return self._order[self.rng.randrange(len(self._order))] if self._order else None

    def closest(self, target: int, *, count: int = 1) -> list[Node]:
        """Return the settled nodes that are closest to a target, as nobody inside could know."""
        if self.world.time_s - self._sorted_s >= _SORTED_FOR_S:
            settled = [n for n in self._order if n.contact is not None and n.is_settled]
            settled.sort(key=_id_of)
            self._sorted, self._ids = settled, [_id_of(node) for node in settled]
            self._sorted_s = self.world.time_s
        for shift in range(ID_BITS + 1):
            low = target >> shift << shift
            start = bisect_left(self._ids, low)
            stop = bisect_left(self._ids, low + (1 << shift))
            if stop - start >= min(count, len(self._ids)):
                near = [node for node in self._sorted[start:stop] if node.host is not None]
                return sorted(near, key=lambda node: _id_of(node) ^ target)[:count]
        return []

    # ------------------------------------------------------------------ accounts

    def start_measuring(self) -> None:
        """Count bytes from now on."""
        self.measured_s = self.world.time_s
        for part in self.books.upkeep:
            self.books.upkeep[part] = 0
        for node in self.nodes:
            node.up_s = 0.0
            node.base_bytes = node.seat.bytes_out - node.seat.charged_bytes

    def upkeep(self) -> tuple[list[float], dict[str, float]]:
        """Return bytes a second of upkeep by node, ascending, and the mean of them by part."""
        rates, seconds, total = [], 0.0, 0
        for node in self.nodes:
            up_s = node.up_s
            if node.host is not None:
                up_s += self.world.time_s - max(node.up_since_s, self.measured_s)
            own = max(0, node.seat.bytes_out - node.seat.charged_bytes - node.base_bytes)
            seconds += up_s
            total += own
            if up_s >= min(SETTLED_S, 0.9 * (self.world.time_s - self.measured_s)):
                rates.append(own / up_s)
        split = {part: size / max(1.0, seconds) for part, size in self.books.upkeep.items()}
        split["sessions"] = total / max(1.0, seconds) - sum(split.values())
        return sorted(rates), split

    def dead_share(self, *, sample: int = 40) -> float:
        """Return which share of the entries of some tables are of nodes that are gone."""
        dead = total = 0
        for node in self._order[:: max(1, len(self._order) // sample)]:
            contacts = [] if node.host is None else node.host.engine.contacts()
            total += len(contacts)
            dead += sum(not self._is_there(contact) for contact in contacts)
        return dead / total if total else 0.0

    def _is_there(self, contact: Contact) -> bool:
        seat = self.net.seats.get(contact.address)
        return seat is not None and seat.host is not None

    def size_ratio(self) -> float:
        """Return the median of what nodes take the network's size for, over its true one."""
        truth = sum(1 for node in self._order if node.is_serving)
        sizes = sorted(n.host.engine.size_estimate for n in self._order if n.host is not None)
        return sizes[len(sizes) // 2] / truth if sizes and truth else 0.0


class KnownNetwork:
    """What tables hold in a network that has run for long: near nodes all, far ones some."""

    def __init__(self, contacts: Sequence[Contact]) -> None:
        self._sorted = sorted(contacts, key=lambda contact: contact.id)
        self._ids = [contact.id for contact in self._sorted]

    def table_of(self, own: int, chance: float) -> list[Contact]:
        """Return contacts for each bucket of a node: 4k of the far half, 2k of the next, then k.

        chance: from 0 to 1, where in each bucket the choice begins.
        """
        chosen: list[Contact] = []
        for bucket in range(ID_BITS):
            low = ((own >> (ID_BITS - 1 - bucket)) ^ 1) << (ID_BITS - 1 - bucket)
            start = bisect_left(self._ids, low)
            stop = bisect_left(self._ids, low + (1 << (ID_BITS - 1 - bucket)))
            room = BUCKET * (4 if bucket == 0 else 2 if bucket == 1 else 1)
            if stop - start <= room:
                chosen += self._sorted[start:stop]
            else:
                first, step = int(chance * (stop - start)), (stop - start) / room
                chosen += [
                    self._sorted[start + (first + int(i * step)) % (stop - start)]
                    for i in range(room)
                ]
            if self._near(own, bucket) <= 1:
                break
        return [contact for contact in chosen if contact.id != own]

    def distances_to(self, target: int) -> list[int]:
        """Return how far the nearest BUCKET nodes are from a target, ascending."""
        for free in range(ID_BITS + 1):  # the smallest subtree that has enough nodes
            low = target >> free << free
            start, stop = bisect_left(self._ids, low), bisect_left(self._ids, low + (1 << free))
            if stop - start >= BUCKET:
                return sorted(node ^ target for node in self._ids[start:stop])[:BUCKET]
        return sorted(node ^ target for node in self._ids)

    def _near(self, own: int, bucket: int) -> int:
        """Return how many nodes, itself included, share more bits with `own` than this bucket."""
        shift = ID_BITS - 1 - bucket
        low = own >> shift << shift
        return bisect_left(self._ids, low + (1 << shift)) - bisect_left(self._ids, low)
