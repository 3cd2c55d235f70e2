"""A small network of engines in memory: delays, loss, NAT, partitions; no crypto."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from heapq import heappop, heappush
from itertools import count

from molia.base.hashing import blake3_digest
from molia.base.ids import PeerKey, network_id
from molia.base.limits import REQUEST_TRIES_MAX
from molia.base.now import Now
from molia.dht.config import DhtConfig
from molia.dht.contact import Contact, Space
from molia.dht.effects import Effect, Finished, Store
from molia.dht.engine import Engine
from molia.dht.entrance import Gate
from molia.dht.ports import Asker
from molia.sim.entropy import SeededEntropy
from molia.wire.addresses import Address
from molia.wire.requests import Ended, Outcome
from molia.wire.transport import Answer, Handler

NETWORK = network_id("test")
START = Now(1_000.0, 1_800_000_000.0)
TRIES_S = (0.0, 0.6, 1.8)
"""When a request is sent, and sent again: the wire's own retry."""
TIMEOUT_S = 3.0


@dataclass(frozen=True, slots=True)
class FakePeer:
    """Who asks, as handlers see it."""

    identity: PeerKey | None
    address: tuple[str, int] | None


@dataclass(slots=True)
class Request:
    """A request on its way."""

    peer: FakePeer
    number: int
    body: bytes


class FakeWire:
    """The wire of one node."""

    def __init__(self, world: "World", node: "Node") -> None:
        self._world, self._node = world, node
        self.waiting: dict[int, Request] = {}
        self.answered: dict[tuple[FakePeer, int], Answer | None] = {}
        self.sessions: dict[PeerKey, None] = {}
        self.moved: dict[PeerKey, Address | None] = {}
        """Peers with a session from elsewhere than they are asked; None: it is not known where."""
        self.sent: list[tuple[float, Address, int]] = []
        """When, where to, and the message number of all first tries."""

    def ask_at(
        self, key: PeerKey, address: Address, number: int, body: bytes, now: Now, *,
        timeout_s: float | None = None, tries: int = REQUEST_TRIES_MAX,
    ) -> int | None:  # fmt: skip
        request_id = next(self._world.ids)
        self.waiting[request_id] = Request(FakePeer(key, address), number, body)
        self.sent.append((now.mono_s, address, number))
        wait_s = TIMEOUT_S if timeout_s is None else timeout_s
        for at_s in TRIES_S[:tries]:
            if at_s < wait_s:
                self._world.at(at_s, lambda: self._try(request_id, key, address))
        self._world.at(wait_s, lambda: self._end(request_id, Outcome.TIMED_OUT, 0, b""))
        self._node.holes[address] = None
        return request_id

    def reply(self, peer: Asker, request_id: int, answer: Answer, now: Now) -> None:
        assert isinstance(peer, FakePeer)
        self.answered[peer, request_id] = answer
        self._answer(peer, request_id, answer)

    def has_session(self, key: PeerKey, now: Now) -> bool:
        return key in self.sessions

    def _try(self, request_id: int, key: PeerKey, address: Address) -> None:
        request = self.waiting.get(request_id)
        if request is not None:
            me = self._node
            self._world.deliver(
                me, address, lambda to: to.wire.on_request(key, me, request_id, request)
            )

    def on_request(self, key: PeerKey, asker: "Node", request_id: int, request: Request) -> None:
        if key != self._node.key:
            return
        self.sessions[asker.key] = None
        peer = FakePeer(asker.key, asker.seen_at(self._node.address))
        handler = self._node.handlers.get(request.number)
        if handler is None:
            return
        if request.number in self._node.engine.once:
            if (peer, request_id) in self.answered:
                answer = self.answered[peer, request_id]
                if answer is not None:
                    self._answer(peer, request_id, answer)
                return
            self.answered[peer, request_id] = None
        answer = handler(peer, request_id, request.body, self._node.now)  # type: ignore[arg-type]
        if answer is not None:
            if request.number in self._node.engine.once:
                self.answered[peer, request_id] = answer
            self._answer(peer, request_id, answer)
        self._node.follow()

    def _answer(self, peer: FakePeer, request_id: int, answer: Answer) -> None:
        assert peer.address is not None
        self._world.deliver(
            self._node, peer.address,
            lambda to: to.wire._end(request_id, Outcome.REPLIED, *answer), is_reply=True,
        )  # fmt: skip

    def _end(self, request_id: int, outcome: Outcome, number: int, body: bytes) -> None:
        request = self.waiting.pop(request_id, None)
        if request is not None and self._node.is_up:
            if outcome is Outcome.REPLIED and request.peer.identity is not None:
                self.sessions[request.peer.identity] = None
            key, address = request.peer.identity, request.peer.address
            if key is not None:
                address = self.moved.get(key, address)
            ended = Ended(request_id, FakePeer(key, address), outcome, int(number), body)
            assert self._node.engine.on_ended(ended, self._node.now)
            self._node.follow()


class MemoryShelf:
    """Rows in a dictionary."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, bytes], bytes] = {}

    def read(self, kind: int, loc: bytes) -> bytes | None:
        return self.rows.get((kind, loc))

    def locations(self, kind: int, start: bytes, limit: int) -> Iterable[bytes]:
        return sorted(loc for of, loc in self.rows if of == kind and loc >= start)[:limit]

    def apply(self, store: Store) -> bool:
        key = (store.kind, store.loc)
        if self.rows.get(key) != store.expected:
            return False
        if store.row is None:
            self.rows.pop(key, None)
        else:
            self.rows[key] = store.row
        return True


@dataclass(eq=False)
class Node:
    """One engine, its wire and its shelf."""

    world: "World"
    key: PeerKey
    address: Address
    is_natted: bool = False
    is_up: bool = True
    clock_s: float = 0.0
    """How far its wall clock is off."""
    holes: dict[Address, None] = field(default_factory=dict)
    effects: list[Effect] = field(default_factory=list)
    finished: dict[int, object] = field(default_factory=dict)
    wake_s: float = float("inf")
    store_s: float = 0.001
    """How long a write takes."""

    def __post_init__(self) -> None:
        self.wire, self.shelf = FakeWire(self.world, self), MemoryShelf()
        self.engine: Engine
        self.handlers: Mapping[int, Handler] = {}

    @property
    def now(self) -> Now:
        now = self.world.now
        return Now(now.mono_s, now.unix_s + self.clock_s)

    def seen_at(self, place: Address) -> Address:
        """Return the address that whoever is at a place sees: of the same family."""
        if (":" in place[0]) == (":" in self.address[0]):
            return self.address
        number = self.world.nodes.index(self) + 1
        other = f"10.9.{number}.1" if ":" in self.address[0] else f"2001:db8:f{number:03x}::1"
        self.world.by_address[other, self.address[1]] = self
        return other, self.address[1]

    def follow(self) -> None:
        """Carry out the engine's effects and ask when it wants to be woken."""
        for effect in self.engine.take_effects():
            self.effects.append(effect)
            if isinstance(effect, Finished):
                self.finished[effect.operation_id] = effect.result
            elif isinstance(effect, Store):
                self.world.at(self.store_s, lambda store=effect: self._store(store))  # type: ignore[misc]
        due_s = self.engine.next_deadline_s()
        if due_s is not None and due_s < self.wake_s:
            self.wake_s = due_s
            self.world.at(max(0.0, due_s - self.now.mono_s), lambda: self._wake(due_s))

    def _wake(self, due_s: float) -> None:
        if self.wake_s == due_s:
            self.wake_s = float("inf")
            if self.is_up:
                self.engine.on_deadline(self.now)
                self.follow()

    def _store(self, store: Store) -> None:
        self.engine.on_stored(store.token, self.shelf.apply(store), self.now)
        self.follow()

    def run(self, begin: Callable[[], int], *, within_s: float = 30.0) -> object:
        """Begin an operation, let time pass until it has ended, and return its result."""
        operation_id = begin()
        self.follow()
        self.world.run_until(lambda: operation_id in self.finished, within_s=within_s)
        return self.finished[operation_id]


class World:
    """The network and its time."""

    def __init__(
        self, seed: int = 1, *, loss: float = 0.0, config: DhtConfig | None = None
    ) -> None:
        self.entropy = SeededEntropy(seed)
        self.now, self.ids, self._order = START, count(1), count()
        self.config = config or DhtConfig()
        self.space = Space(NETWORK)
        self.nodes: list[Node] = []
        self.by_address: dict[Address, Node] = {}
        self.loss, self._heap = loss, list[tuple[float, int, Callable[[], None]]]()
        self.side_of: Callable[[Node], int] = lambda _: 0
        """Nodes of different sides do not hear each other."""

    def at(self, in_s: float, act: Callable[[], None]) -> None:
        """Do something later."""
        heappush(self._heap, (self.now.mono_s + in_s, next(self._order), act))

    def deliver(
        self, sender: Node, address: Address, act: Callable[[Node], None], *, is_reply: bool = False
    ) -> None:  # fmt: skip
        """Carry a packet, unless it is lost or not let in."""
        random = self.entropy.random
        if random.random() < self.loss:
            return

        def arrive() -> None:
            to = self.by_address.get(address)
            if to is None or not to.is_up or not sender.is_up:
                return
            if self.side_of(to) != self.side_of(sender):
                return
            if to.is_natted and sender.address not in to.holes:
                return
            act(to)

        self.at(0.02 + 0.04 * random.random(), arrive)

    def add(
        self, address: Address, *, is_known: bool = False, config: DhtConfig | None = None,
        is_natted: bool = False, share: tuple[int, int] = (0, 1), gate: Gate | None = None,
    ) -> Node:  # fmt: skip
        """Add a node. is_known: its owner told it its address."""
        key = PeerKey(blake3_digest(repr(address).encode() + self.entropy.token(8)))
        node = Node(self, key, address, is_natted=is_natted)
        own = self.space.contact(key.key, address) if is_known else None
        node.engine = Engine(
            config or self.config, identity=key, space=self.space, own=own, wire=node.wire,
            shelf=node.shelf, entropy=SeededEntropy(f"{len(self.nodes)}"), share=share,
            gate=gate,
        )  # fmt: skip
        node.handlers = node.engine.handlers
        self.nodes.append(node)
        self.by_address[address] = node
        return node

    def start(self, node: Node, *seeds: Node, snapshot: bytes = b"") -> None:
        """Let a node join by these seeds."""
        node.engine.start([(s.key, s.address) for s in seeds], node.now, snapshot=snapshot)
        node.follow()

    def run(self, seconds: float) -> None:
        """Let time pass."""
        end_s = self.now.mono_s + seconds
        while self._heap and self._heap[0][0] <= end_s:
            self._step()
        self.now = self.now.after(end_s - self.now.mono_s)

    def run_until(self, holds: Callable[[], bool], *, within_s: float) -> None:
        """Let time pass until something holds."""
        end_s = self.now.mono_s + within_s
        while not holds():
            assert self._heap, "nothing happens any more"
            assert self._heap[0][0] <= end_s, "it takes too long"
            self._step()

    def _step(self) -> None:
        at_s, _, act = heappop(self._heap)
        self.now = self.now.after(max(0.0, at_s - self.now.mono_s))
        act()


def public(index: int) -> Address:
    """Return an address in a network of its own."""
    return (f"{20 + index // 200}.{index % 200}.7.9", 7071)


def loopback(index: int) -> Address:
    """Return an address of this machine."""
    return ("127.0.0.1", 20_000 + index)


def joined(
    count_: int, *, seed: int = 1, address: Callable[[int], Address] = public, loss: float = 0.0,
    config: DhtConfig | None = None,
) -> World:  # fmt: skip
    """Return a network whose nodes have found each other."""
    world = World(seed, loss=loss, config=config)
    for index in range(count_):
        node = world.add(address(index), is_known=address is public)
        world.start(node, *world.nodes[:1] if index else ())
        world.run(0.2)
    world.run(20)
    return world


def contacts_of(nodes: Iterable[Node], world: World) -> list[Contact]:
    """Return the contacts that nodes are."""
    found = [world.space.contact(node.key.key, node.address) for node in nodes]
    return [contact for contact in found if contact is not None]
