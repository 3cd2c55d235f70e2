"""Nodes that want one record gone: where they sit, and what they answer.

They have whatever the placement gives them, know where the target lies and who is honest, and pass
each other on. Each is a full peer on the wire: it pings, answers PING, and takes what is put.
Source: docs/reference/simulator.md, "Attackers".
"""

from dataclasses import dataclass
from typing import Final

from molia.base.crypto import Identity
from molia.base.errors import Busy
from molia.base.now import Now
from molia.dht.contact import ID_BITS, Contact, routing_id
from molia.dht.size import REGION_NODES, SPACE
from molia.sim.fleet import Fleet, Node
from molia.sim.net import Seat
from molia.sim.null_wire import NullIdentity, NullTransport
from molia.sim.places import PORT
from molia.sim.wire_host import WireHost
from molia.wire import dht_messages as dht
from molia.wire import messages
from molia.wire.addresses import Address, pack_host
from molia.wire.messages import Number
from molia.wire.peer import Peer
from molia.wire.transport import Answer, Handler

PLACEMENTS: Final = ("bound", "free-16", "free-64", "free-256", "squat", "own-24")
BEHAVIOURS: Final = ("drop", "lie", "tarpit", "sleeper")
"""sleeper: honest until somebody asks for the target."""
KNOCK_S: Final = 4.0
"""Between two pings of one attacker, in the mean."""
_BOUND_PREFIXES: Final = 64
_INNER: Final = 0.025
"""Ground ids lie within this part of the target's region: nearer than all that are honest."""
_TARPIT_S: Final = 0.95
_SOFT_S: Final = 0.19
"""About how long a lookup waits for a stranger where 76 ms are usual: 2.5 times that."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What the attackers want, and how."""

    target: int
    placement: str
    behaviour: str
    count: int

    @property
    def binds(self) -> bool:
        """Whether the network binds ids under this placement."""
        return self.placement == "bound"


class Attack:
    """All attackers of one network."""

    def __init__(self, fleet: Fleet, plan: Plan) -> None:
        assert plan.placement in PLACEMENTS, f"placements: {', '.join(PLACEMENTS)}"
        assert plan.behaviour in BEHAVIOURS, f"behaviours: {', '.join(BEHAVIOURS)}"
        self.fleet, self.world, self.plan = fleet, fleet.world, plan
        self.rng = fleet.world.seeds.entropy("attack", plan.placement).random
        self.honest = [node for node in fleet.nodes if node.contact is not None]
        self._keys = fleet.world.seeds.entropy("attack", "keys")
        self._prefixes = self._choose_prefixes()
        self.sybils: list[Sybil] = []
        for index in range(plan.count):
            self.sybils.append(self._make(index))
        self.contacts = [sybil.contact for sybil in self.sybils]

    def start(self) -> None:
        """Begin to knock at doors."""
        for sybil in self.sybils:
            self.world.after(self.rng.random() * KNOCK_S, sybil.knock)

    def stored_share(self) -> float:
        """Return which share of the network's tables the attackers hold."""
        bad = {contact.key for contact in self.contacts}
        total = held = 0
        for node in self.fleet.up[:: max(1, len(self.fleet.up) // 50)]:
            contacts = [] if node.host is None else node.host.engine.contacts()
            total += len(contacts)
            held += sum(contact.key in bad for contact in contacts)
        return held / total if total else 0.0

    # ------------------------------------------------------------------ placement

    def _choose_prefixes(self) -> list[str]:
        placement, places = self.plan.placement, self.fleet.net.places
        if placement == "squat":
            near = sorted(self.honest, key=self._distance)[:REGION_NODES]
            return [node.seat.address[0].rpartition(".")[0] for node in near]
        count = self.plan.count
        if placement == "bound":
            count = _BOUND_PREFIXES
        elif placement.startswith("free-"):
            count = int(placement.removeprefix("free-"))
        return [places.fresh_prefix(index) for index in range(count)]

    def _distance(self, node: Node) -> int:
        assert node.contact is not None, "only those that can be found are squatted by"
        return node.contact.id ^ self.plan.target

    def _make(self, index: int) -> "Sybil":
        places = self.fleet.net.places
        host = None
        for turn in range(len(self._prefixes)):
            host = places.host_in(self._prefixes[(index + turn) % len(self._prefixes)])
            if host is not None:
                break
        assert host is not None, "a /24 has room for 250"
        identity = self._grind((host, PORT))
        contact = self.fleet.space.contact(identity.peer_key.key, (host, PORT))
        assert contact is not None, "an address of the plan"
        seat = self.fleet.net.seat(1_000_000 + index, address=(host, PORT))
        return Sybil(self, index, identity, contact, seat)

    def _grind(self, address: Address) -> Identity:
        """Return a key whose position at an address is as near to the target as it pays to try."""
        if self.plan.binds:
            tries = [self._fresh() for _ in range(16)]  # 8 places: 3 bits
            return min(tries, key=lambda identity: self._position(identity, address))
        nodes = len(self.honest) + self.plan.count
        wanted = int(SPACE * REGION_NODES * _INNER / nodes)
        while True:
            identity = self._fresh()
            if self._position(identity, address) < wanted:
                return identity

    def _fresh(self) -> Identity:
        token = self._keys.token(32)
        is_null = issubclass(self.fleet.wire, NullTransport)
        return NullIdentity(token) if is_null else Identity(token)

    def _position(self, identity: Identity, address: Address) -> int:
        packed = pack_host(address[0])
        assert packed is not None, "an address of the plan"
        space = self.fleet.space
        key = identity.peer_key.key
        return self.plan.target ^ routing_id(space.network, packed, key, bind_ids=space.bind_ids)


class Sybil:
    """One attacker."""

    def __init__(
        self, attack: Attack, index: int, identity: Identity, contact: Contact, seat: Seat
    ) -> None:
        self.attack, self.contact, self.identity = attack, contact, identity
        fleet = attack.fleet
        self._near_bits = 2 + (len(fleet.nodes) + attack.plan.count).bit_length()
        handlers: dict[int, Handler] = {
            Number.PING: self._on_ping, Number.FIND_NODE: self._on_find,
            Number.FIND_REGION: self._on_region, Number.GET: self._on_get,
            Number.GET_PROVIDERS: self._on_miss,
            Number.PUT: lambda *_: (Number.PUT_REPLY, messages.encode(dht.PutReply(0))),
            Number.ADD_PROVIDER: lambda *_: (Number.ADDED, messages.encode(dht.Added((0,)))),
            Number.DIGEST: lambda *_: (
                Number.DIGEST_REPLY, messages.encode(dht.DigestReply(b""))),
            Number.PULL: lambda *_: (
                Number.PULLED, messages.encode(dht.Pulled(accepted=False))),
            Number.REACH: lambda *_: (Number.REACHED, messages.encode(dht.Reached(1))),
            Number.DIAL: lambda *_: (Number.DIALED, messages.encode(dht.Dialed(1))),
        }  # fmt: skip
        self.host = WireHost(
            fleet.net, seat, wire=fleet.wire, profile=fleet.profile, identity=identity,
            entropy=fleet.world.seeds.entropy(f"sybil {index}", "wire"), handlers=handlers,
        )  # fmt: skip

    def knock(self, _: object) -> None:
        """Ping somebody honest, and say that this one serves."""
        attack, now = self.attack, self.host.world.now
        node = attack.honest[attack.rng.randrange(len(attack.honest))]
        body = messages.encode(messages.Ping(serves=True))
        try:
            self.host.transport.ask_at(
                node.identity.peer_key, node.seat.address, Number.PING, body, now
            )
        except Busy:
            return
        self.host.settle()
        attack.world.after(attack.rng.expovariate(1 / KNOCK_S), self.knock)

    # ------------------------------------------------------------------ answers

    def _on_ping(self, peer: Peer, _request_id: int, _body: bytes, now: Now) -> Answer | None:
        if peer.address is None:
            return None
        seen = (peer.address[0], peer.address[1])
        pong = messages.Pong(seen=seen, unix_ms=now.unix_ms, serves=True)
        return Number.PONG, messages.encode(pong)

    def _on_find(self, peer: Peer, request_id: int, body: bytes, _now: Now) -> Answer | None:
        target = dht.find_node_target(body)
        point = None if target is None else int.from_bytes(target, "big")
        return self._late(peer, request_id, (Number.NODES, self._nodes(point)))

    def _on_region(self, peer: Peer, request_id: int, _body: bytes, _now: Now) -> Answer | None:
        return self._late(peer, request_id, (Number.NODES, self._nodes(None)))

    def _on_get(self, peer: Peer, request_id: int, _body: bytes, _now: Now) -> Answer | None:
        if self.attack.plan.behaviour == "lie":
            lie = bytearray(dht.encode_record(bytes(330)))
            lie[-1] ^= 1
            return Number.RECORD, bytes(lie)
        return self._on_miss(peer, request_id, _body, _now)

    def _on_miss(self, peer: Peer, request_id: int, _body: bytes, _now: Now) -> Answer | None:
        return self._late(peer, request_id, (Number.MISS, self._nodes(None)))

    def _nodes(self, point: int | None) -> bytes:
        """Return a body of contacts: of accomplices, but for a sleeper that is asked elsewhere."""
        attack = self.attack
        if attack.plan.behaviour == "sleeper" and point is not None:
            apart = point ^ attack.plan.target
            if apart.bit_length() > ID_BITS - self._near_bits + 6:
                near = attack.rng.sample(attack.honest, min(20, len(attack.honest)))
                return dht.encode_nodes(n.contact.encoded for n in near if n.contact)
        chosen = attack.rng.sample(attack.contacts, min(20, len(attack.contacts)))
        return dht.encode_nodes(contact.encoded for contact in chosen)

    def _late(self, peer: Peer, request_id: int, answer: Answer) -> Answer | None:
        """Answer at once, or just before the asker would have asked the next one."""
        if self.attack.plan.behaviour != "tarpit" or not request_id:
            return answer
        at = peer.address
        seat = None if at is None else self.attack.fleet.net.seats.get((at[0], at[1]))
        rtt_s = 0.0 if seat is None else self.attack.fleet.net.rtt_s(self.host.seat, seat)
        wait_s = max(0.0, _TARPIT_S * _SOFT_S - rtt_s)
        self.host.world.after(wait_s, self._reply, (peer, request_id, answer))
        return None

    def _reply(self, late: tuple[Peer, int, Answer]) -> None:
        peer, request_id, answer = late
        self.host.transport.reply(peer, request_id, answer, self.host.world.now)
        self.host.settle()
