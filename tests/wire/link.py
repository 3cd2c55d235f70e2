"""Nodes on a simulated network: virtual time, a seed for every loss, delay and copy."""

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from molia.base.crypto import Identity
from molia.base.ids import PeerKey, network_id
from molia.base.now import Now
from molia.sim.entropy import SeededEntropy
from molia.wire.cookies import Address
from molia.wire.effects import Effect, PeerDown, PeerUp, Send
from molia.wire.endpoint import Endpoint
from molia.wire.gate import Admission
from molia.wire.handshake import EndpointConfig
from molia.wire.noise import Profile, molia_profile
from molia.wire.peer import Peer

OURS = molia_profile(network_id("molia"))
START = Now(1_000.0, 1_700_000_000.0)


def quiet(peer: Peer, plaintext: bytes) -> bytes | None:
    """Answer nothing."""
    return None


class Node:
    """An endpoint, who answers for it, and all that it was told."""

    def __init__(
        self, number: int, *, profile: Profile = OURS, config: EndpointConfig | None = None,
        admission: Admission | None = None, seed: int = 0,
    ) -> None:  # fmt: skip
        self.identity = Identity(bytes((number,)) * 32)
        self.key: PeerKey = self.identity.peer_key
        self.address: Address = (f"192.0.2.{number}", 1000 + number)
        self.heard: list[bytes] = []
        self.events: list[Effect] = []
        self.answer: Callable[[Peer, bytes], bytes | None] = quiet
        self.early: Callable[[bytes], bytes | None] = lambda request: b"early " + request
        self.endpoint = Endpoint(
            profile, static=self.identity.exchange_key, entropy=SeededEntropy(f"{seed}/{number}"),
            identity=self.key if profile.is_molia else None, handler=self, admission=admission,
            config=config,
        )  # fmt: skip

    def on_plaintext(self, peer: Peer, plaintext: bytes, now: Now) -> bytes | None:
        """Note it and answer as was set."""
        self.heard.append(plaintext)
        return self.answer(peer, plaintext)

    def on_plaintexts(self, peer: Peer, plaintexts: list[bytes], now: Now) -> Sequence[bytes]:
        """Note them and answer as was set."""
        replies = [self.on_plaintext(peer, plaintext, now) for plaintext in plaintexts]
        return [reply for reply in replies if reply is not None]

    def on_early(
        self, identity: PeerKey, address: Address, request: bytes, now: Now
    ) -> bytes | None:
        """Answer as was set."""
        return self.early(request)

    def downs(self) -> list[str]:
        """Return the reasons of all PeerDown events."""
        return [event.reason for event in self.events if isinstance(event, PeerDown)]

    def ups(self) -> int:
        """Return how often a peer came up."""
        return sum(isinstance(event, PeerUp) for event in self.events)


@dataclass
class Link:
    """The network between nodes. Chances are of 1; delays in seconds."""

    nodes: list[Node]
    seed: int = 0
    loss: float = 0.0
    copies: float = 0.0
    delay_s: tuple[float, float] = (0.01, 0.01)
    now: Now = START
    trace: list[tuple[float, Address, Address, bytes]] = field(default_factory=list)
    """(when, from, to, packet) of all that was sent, lost or not."""

    def __post_init__(self) -> None:
        self.random = SeededEntropy(self.seed).random
        self._flying: list[tuple[float, int, Address, Address, bytes]] = []
        self._count = 0

    def post(self, source: Address, target: Address, packet: bytes) -> None:
        """Send a packet from an address, true or not."""
        self.trace.append((self.now.mono_s, source, target, packet))
        if self.random.random() < self.loss:
            return
        for _ in range(1 + (self.random.random() < self.copies)):
            self._count += 1
            at_s = self.now.mono_s + self.random.uniform(*self.delay_s)
            heapq.heappush(self._flying, (at_s, self._count, source, target, packet))

    def settle(self) -> None:
        """Carry out the effects of all nodes."""
        for node in self.nodes:
            for effect in node.endpoint.take_effects():
                if isinstance(effect, Send):
                    for packet in effect.packets:
                        self.post(node.address, effect.address, packet)
                else:
                    node.events.append(effect)

    def run(self, seconds: float) -> None:
        """Let that much time pass."""
        until_s = self.now.mono_s + seconds
        self.settle()
        while (at_s := self._next_s()) <= until_s:
            self.now = self.now.after(max(0.0, at_s - self.now.mono_s))
            for node in self.nodes:
                due_s = node.endpoint.next_deadline_s()
                if due_s is not None and due_s <= self.now.mono_s:
                    node.endpoint.on_deadline(self.now)
            while self._flying and self._flying[0][0] <= self.now.mono_s:
                self._deliver(*heapq.heappop(self._flying)[2:])
            self.settle()
        self.now = self.now.after(until_s - self.now.mono_s)

    def _deliver(self, source: Address, target: Address, packet: bytes) -> None:
        for node in self.nodes:
            if node.address == target:
                answer = node.endpoint.datagram(packet, source, self.now)
                if answer is not None:
                    self.post(target, source, answer)

    def _next_s(self) -> float:
        dues = [node.endpoint.next_deadline_s() for node in self.nodes]
        times = [due_s for due_s in dues if due_s is not None]
        times += [self._flying[0][0]] if self._flying else []
        return min(times, default=float("inf"))

    def bytes_between(self, source: Address, target: Address) -> int:
        """Return how many bytes were sent from one address to another."""
        return sum(len(packet) for _, a, b, packet in self.trace if (a, b) == (source, target))


def two(seed: int = 0, **options: object) -> tuple[Link, Node, Node]:
    """Return two nodes and the link between them."""
    ours, theirs = Node(1, seed=seed), Node(2, seed=seed)
    return Link([ours, theirs], seed, **options), ours, theirs  # type: ignore[arg-type]


def meet(link: Link, ours: Node, theirs: Node) -> Peer:
    """Let `ours` connect to `theirs`; return the peer."""
    peer = ours.endpoint.connect(theirs.key, theirs.address, link.now)
    assert peer
    link.run(1.0)
    assert peer.usable(link.now.mono_s)
    return peer
