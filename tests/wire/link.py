"""Nodes on a simulated network: virtual time, a seed for every loss, delay and copy."""

from collections.abc import Callable, Iterable, Sequence

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
from tests.wire.flight import START, Core, Flight, Take

__all__ = ["OURS", "START", "Link", "Node", "kinds", "meet", "two"]
OURS = molia_profile(network_id("molia"))


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

    def is_wanted(self, peer: Peer) -> bool:
        return True

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


class Link(Flight):
    """The network between nodes."""

    def __init__(
        self, nodes: list[Node], seed: int = 0, *, loss: float = 0.0, copies: float = 0.0,
        delay_s: tuple[float, float] = (0.01, 0.01),
    ) -> None:  # fmt: skip
        super().__init__(seed=seed, loss=loss, copies=copies, delay_s=delay_s)
        self.nodes = nodes

    def cores(self) -> Iterable[tuple[Address, Core, Take]]:
        """Return the endpoints."""
        return [(node.address, node.endpoint, node.endpoint.datagram) for node in self.nodes]

    def stream(self, node: Node, peer: Peer) -> None:
        """Let a node send what it wants to see acknowledged, as stream frames go."""
        assert peer.address
        for packet in node.endpoint.seal_many(peer, [b"anyone?"], self.now):
            self.post(node.address, peer.address, packet)

    def settle(self) -> None:
        """Carry out the effects of all nodes."""
        for node in self.nodes:
            for effect in node.endpoint.take_effects():
                if isinstance(effect, Send):
                    for packet in effect.packets:
                        self.post(node.address, effect.address, packet)
                else:
                    node.events.append(effect)


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


def kinds(link: Link, kind: bytes) -> list[float]:
    """Return when packets of a type were sent, in seconds from the start."""
    return [at_s - START.mono_s for at_s, _, _, packet in link.trace if packet[:4] == kind]
