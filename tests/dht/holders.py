"""A model of many holders: rows in memory, messages that arrive at once, tables that lag."""

import random
from bisect import bisect_left
from collections.abc import Iterable

from molia.base.ids import PeerKey
from molia.dht.contact import Contact
from molia.dht.replicas import AskPull, ReplicaRepair
from molia.dht.telling import Push, Tell
from molia.sim.entropy import SeededEntropy

SPACE = 1 << 256
PUT_BYTES, REPLY_BYTES = 80, 60


def summary(kind: int, row: bytes) -> bytes:
    """Return the first bytes of a row: its version, in these tests."""
    return row[:4]


def contact_of(id_: int) -> Contact:
    """Return a contact at a place in the space."""
    key = PeerKey(id_.to_bytes(32, "big"))
    return Contact(id_, key, ("127.0.0.1", 1), id_.to_bytes(32, "big"), True, b"")


class MemoryShelf:
    """Rows in memory, as `ports.Shelf`."""

    def __init__(self) -> None:
        self.rows: dict[tuple[int, bytes], bytes] = {}
        self._order: dict[int, list[bytes]] = {1: [], 2: []}

    def put(self, kind: int, loc: bytes, row: bytes) -> None:
        """Keep a row, unless a later version is there."""
        held = self.rows.get((kind, loc))
        if held is None:
            order = self._order[kind]
            order.insert(bisect_left(order, loc), loc)
        if held is None or held < row:
            self.rows[kind, loc] = row

    def read(self, kind: int, loc: bytes) -> bytes | None:
        """Return a row."""
        return self.rows.get((kind, loc))

    def locations(self, kind: int, start: bytes, limit: int) -> Iterable[bytes]:
        """Return locations in order."""
        at = bisect_left(self._order[kind], start)
        return self._order[kind][at : at + limit]


class Holder:
    """One node of the model."""

    def __init__(self, net: "Holders", id_: int, seed: int) -> None:
        self.net, self.contact, self.shelf = net, contact_of(id_), MemoryShelf()
        self.born_s, self.died_s = net.now_s, float("inf")
        self.sent = 0
        self.repair = ReplicaRepair(
            id_, self.shelf, self.in_region, summary,
            entropy=SeededEntropy(seed), now_s=net.now_s,
        )  # fmt: skip

    def in_region(self, center: int, radius: int) -> list[Contact]:
        """Return who is near by the table: the dead linger 20 s, the new show after 3 s."""
        seen = self.net.seen()
        return [c for c in seen if c.id ^ center < radius and c is not self.contact]

    def step(self) -> None:
        """Do what is due, and everything that follows from it."""
        now_s = self.net.now_s
        while self.repair.next_deadline_s() <= now_s:
            self.repair.on_deadline(now_s, radius=self.net.radius, churn_rate=self.net.churn_rate)
            for effect in self.repair.take_effects():
                self._send(effect)

    def _send(self, effect: Tell | Push | AskPull) -> None:
        now_s, other = self.net.now_s, self.net.living.get(effect.contact.id)
        self.net.count(self, effect)
        if self.net.loss and self.net.rng.random() < self.net.loss:
            other = None
        if isinstance(effect, Tell):
            bitmap = None if other is None else other.repair.wanted(effect.digest, now_s)
            self.repair.on_told(effect.contact, bitmap, now_s)
        elif isinstance(effect, Push):
            if other is not None:
                other.shelf.put(effect.kind, effect.loc, effect.row)
            self.repair.on_pushed(effect.contact, now_s, ok=other is not None)
        else:
            bits = effect.radius_bits
            accepted = other is not None and other.repair.on_pull(self.contact, bits, now_s)
            self.repair.on_pulled(effect.contact, now_s, accepted=accepted)
        if other is not None:
            other.sent += REPLY_BYTES


class Holders:
    """All nodes, and time in steps of a second."""

    def __init__(
        self, nodes: int, *, seed: int, churn_rate: float = 0.0, loss: float = 0.0
    ) -> None:
        self.rng = random.Random(seed)
        self.now_s, self.churn_rate, self.loss = 1_000.0, churn_rate, loss
        self.radius = min(SPACE, int(1.2 * 20 / nodes * SPACE))
        self.living: dict[int, Holder] = {}
        self.recent: list[Holder] = []
        """Who lives, or died within 20 s."""
        self._seen: list[Contact] = []
        self._seen_s = 0.0
        self.bytes = {"digests": 0, "pushes": 0, "pulls": 0}
        self.pushes = self.useless = 0
        for _ in range(nodes):
            self.join()

    def join(self) -> Holder:
        """Let one more node in."""
        id_ = self.rng.getrandbits(256)
        node = self.living[id_] = Holder(self, id_, self.rng.getrandbits(32))
        self.recent.append(node)
        return node

    def seen(self) -> list[Contact]:
        """Return who is in tables now."""
        if self._seen_s != self.now_s:
            self._seen_s, now_s = self.now_s, self.now_s
            old = (node for node in self.recent if node.born_s + 3 <= now_s < node.died_s + 20)
            self._seen = [node.contact for node in old]
        return self._seen

    def leave(self, node: Holder) -> None:
        """Let one crash."""
        del self.living[node.contact.id]
        node.died_s = self.now_s

    def put(self, kind: int, loc: bytes, row: bytes) -> None:
        """Store a row at all nodes of its region, as a PUT does."""
        for node in self.living.values():
            if node.contact.id ^ int.from_bytes(loc, "big") < self.radius:
                node.shelf.put(kind, loc, row)

    def replicas(self, kind: int, loc: bytes, row: bytes) -> int:
        """Count the living nodes of the region that hold exactly this row."""
        location = int.from_bytes(loc, "big")
        return sum(
            node.shelf.read(kind, loc) == row
            for node in self.living.values()
            if node.contact.id ^ location < self.radius
        )

    def run(self, seconds: int) -> None:
        """Let time pass; by the rate, nodes go, and for each another comes."""
        for _ in range(seconds):
            self.now_s += 1.0
            going = [n for n in self.living.values() if self.rng.random() < self.churn_rate]
            for node in going:
                self.leave(node)
                self.join().repair.on_joined(self.now_s)
            self.recent = [n for n in self.recent if self.now_s < n.died_s + 20]
            for node in list(self.living.values()):
                node.step()

    def count(self, sender: Holder, effect: Tell | Push | AskPull) -> None:
        """Count what one message costs its sender."""
        if isinstance(effect, Tell):
            name, size = "digests", len(effect.digest) + PUT_BYTES
        elif isinstance(effect, Push):
            name, size = "pushes", len(effect.row) + PUT_BYTES
            other = self.living.get(effect.contact.id)
            self.pushes += 1
            held = None if other is None else other.shelf.read(effect.kind, effect.loc)
            self.useless += held == effect.row
        else:
            name, size = "pulls", PUT_BYTES
        self.bytes[name] += size
        sender.sent += size
