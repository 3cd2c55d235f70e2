"""Nodes that only ask each other small things, for tests of the world and of its wires."""

from molia.base.crypto import Identity, new_seed
from molia.base.now import Now
from molia.sim.delays import PathConfig
from molia.sim.net import Net, Seat
from molia.sim.wire_host import WireHost, transport_type
from molia.sim.world import World
from molia.wire.noise import molia_profile
from molia.wire.peer import Peer
from molia.wire.requests import Ended
from molia.wire.transport import Answer

PROFILE = molia_profile(b"simulated")
SMALL, LARGE = 2, 64
"""PING and FIND_NODE: both may ride in an initiation, and other numbers may not."""
PLAIN = 100


class Chatter:
    """One node and what it heard; `leave` and `enter` as churn would."""

    def __init__(self, town: "Town", index: int) -> None:
        self.town, self.index = town, index
        self.rng = town.world.seeds.entropy(index, "chatter").random
        self.identity = Identity(new_seed(town.world.seeds.entropy(index, "identity")))
        self.seat: Seat = town.net.seat(index)
        self.lives = 0
        self.ended: list[Ended[Peer]] = []
        self.host = self.enter()

    def enter(self) -> WireHost:
        self.lives += 1
        self.host = WireHost(
            self.town.net, self.seat, wire=self.town.wire, profile=PROFILE, identity=self.identity,
            entropy=self.town.world.seeds.entropy(self.index, f"wire {self.lives}"),
            handlers={SMALL: self._answer, LARGE: self._answer_large, PLAIN: self._answer},
        )  # fmt: skip
        self.host.on_ended = lambda ended, _now: self.ended.append(ended)
        self.town.world.after(self.rng.expovariate(0.5), self._speak, self.lives)
        return self.host

    def leave(self, *, goodbye: bool) -> None:
        self.host.stop(goodbye=goodbye)

    def _speak(self, life: int) -> None:
        if life != self.lives or not self.host.is_up:
            return
        other = self.town.nodes[self.rng.randrange(len(self.town.nodes))]
        number = self.rng.choice((SMALL, LARGE, PLAIN))
        body = bytes(self.rng.randrange(200))
        now = self.town.world.now
        self.host.transport.ask_at(other.identity.peer_key, other.seat.address, number, body, now)
        self.host.settle()
        self.town.world.after(self.rng.expovariate(0.5), self._speak, life)

    @staticmethod
    def _answer(_peer: object, _request_id: int, body: bytes, _now: Now) -> Answer:
        return 3, body[:40]

    @staticmethod
    def _answer_large(_peer: object, _request_id: int, _body: bytes, _now: Now) -> Answer:
        return 65, bytes(840)


class Town:
    """A world of chatters."""

    def __init__(
        self, seed: int, *, nodes: int, wire: str, path: PathConfig | None = None, keep: bool = True
    ) -> None:
        self.world = World(seed, keep_trace=keep)
        self.net = Net(self.world, path or PathConfig(), expected=nodes)
        self.wire = transport_type(wire, nodes)
        self.nodes: list[Chatter] = []
        for index in range(nodes):
            self.nodes.append(Chatter(self, index))

    def churn(self, seconds: float, *, every_s: float) -> None:
        """Let time pass; now and then a node leaves and another comes back with its identity."""
        rng = self.world.seeds.entropy("town", "churn").random
        gone: list[Chatter] = []
        for _ in range(int(seconds / every_s)):
            self.world.run(every_s)
            node = rng.choice(self.nodes)
            if node.host.is_up:
                node.leave(goodbye=rng.random() < 0.3)
                gone.append(node)
            if len(gone) > 3:
                gone.pop(0).enter()
