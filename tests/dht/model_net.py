"""A network of honest nodes and liars, as far as lookups see it, on a virtual clock."""

from bisect import bisect_left
from collections.abc import Callable, Iterable, Sequence
from heapq import heappop, heappush
from itertools import count
from random import Random

from molia.base.ids import PeerKey
from molia.dht.contact import ID_BITS, Contact
from molia.dht.lookup import Lookup
from molia.dht.outcome import Goal, LookupConfig, LookupResult
from molia.dht.pace import Pace
from molia.dht.size import K, SizeEstimate
from molia.sim.entropy import SeededEntropy

_serials = count(1)


def contact_at(position: int, group: bytes, address: tuple[str, int] | None = None) -> Contact:
    """Return a contact at any position that one likes, of a key of its own."""
    serial = next(_serials)
    host = f"{20 + serial // 65_536}.{serial // 256 % 256}.{serial % 256}.1"
    key = serial.to_bytes(32, "big")
    return Contact(position, PeerKey(key), address or (host, 7071), group, False, key)


def group_of(number: int) -> bytes:
    """Return the address prefix of a network by number."""
    return b"\4" + number.to_bytes(3, "big")


class Node:
    """Answers with the closest of its table, or with a choice of its region. Never late."""

    def __init__(self, contact: Contact, rtt_s: float) -> None:
        self.contact, self.rtt_s = contact, rtt_s
        self.table: list[Contact] = []
        self.value: object | None = None
        self.is_dead = False

    def answer(self, net: "Net", target: int, *, asks: bool) -> Sequence[Contact]:
        if not asks:
            return closest(self.table, target)
        inside = [c for c in self.table if c.id ^ target < net.radius]
        net.random.shuffle(inside)
        taken: dict[bytes, int] = {}
        page = []
        for contact in inside:
            taken[contact.group] = taken.get(contact.group, 0) + 1
            if taken[contact.group] <= 2:
                page.append(contact)
        return page[:K] or closest(self.table, target)

    def delay_s(self, soft_s: float) -> float | None:
        return None if self.is_dead else self.rtt_s


class Liar(Node):
    """Names its friends alone and holds nothing. delay_s may be replaced."""

    friends: Sequence[Contact] = ()

    def answer(self, net: "Net", target: int, *, asks: bool) -> Sequence[Contact]:
        return net.random.sample(self.friends, min(K, len(self.friends)))


class Tarpit(Liar):
    """Answers just in time."""

    def delay_s(self, soft_s: float) -> float | None:
        return 0.95 * soft_s


def closest(contacts: Iterable[Contact], target: int, number: int = K) -> list[Contact]:
    """Return the closest contacts: a sort, the slow obvious way."""
    return sorted(contacts, key=lambda c: c.id ^ target)[:number]


class Net:
    """Nodes by contact, with tables filled once all of them are there."""

    def __init__(self, honest: int, seed: int, *, per_group: int = 1) -> None:
        self.random = Random(seed)
        self.seed = seed
        self.nodes: dict[bytes, Node] = {}
        self.size = SizeEstimate()
        self.pace = Pace()
        self.radius = 0
        self.now_s = 100.0
        self.asked: list[Contact] = []
        for number in range(honest):
            group = group_of(number // per_group)
            self.add(Node(self.contact(group), self.random.lognormvariate(-2.6, 0.5)))
        self.honest = [node.contact for node in self.nodes.values()]
        for _ in range(64):
            self.pace.rtts.add(b"", self.random.lognormvariate(-2.6, 0.5))

    def contact(self, group: bytes, position: int | None = None) -> Contact:
        chosen = self.random.getrandbits(ID_BITS) if position is None else position
        return contact_at(chosen, group)

    def add(self, node: Node) -> None:
        self.nodes[node.contact.encoded] = node

    def settle(self) -> None:
        """Give all nodes tables with K of each bucket, and the lookups the true size."""
        self.size.nodes = float(len(self.honest))
        self.size.radius = self.radius = min(1 << ID_BITS, (24 << ID_BITS) // len(self.honest))
        ordered = sorted((node.contact for node in self.nodes.values()), key=lambda c: c.id)
        ids = [c.id for c in ordered]
        for node in self.nodes.values():
            node.table = self._table(node.contact.id, ordered, ids)

    def _table(self, own: int, ordered: list[Contact], ids: list[int]) -> list[Contact]:
        table: list[Contact] = []
        for bucket in range(ID_BITS):
            width = ID_BITS - 1 - bucket
            start = (own >> width ^ 1) << width
            low, high = bisect_left(ids, start), bisect_left(ids, start + (1 << width))
            size = {0: 4 * K, 1: 2 * K}.get(bucket, K)
            table += self.random.sample(ordered[low:high], min(size, high - low))
            near = bisect_left(ids, own >> width << width)
            if bisect_left(ids, (own >> width) + 1 << width) - near <= 1:
                break
        return table

    def lookup(self, goal: Goal, target: int, via: Contact, **more: object) -> Lookup:
        table = self.nodes[via.encoded].table
        near = closest(table, target, 40)
        rest = [c for c in table if c not in near]
        seeds = near + self.random.sample(rest, min(20, len(rest)))
        config = more.pop("config", LookupConfig())
        assert isinstance(config, LookupConfig)
        return Lookup(
            goal, target, seeds, config=config, entropy=SeededEntropy(self.random.random().hex()),
            size=self.size, pace=self.pace, now_s=self.now_s, own_key=via.key,
            more_seeds=lambda number: self.random.sample(table, min(number, len(table))),
            traced=bool(more.pop("traced", False)),
        )  # fmt: skip

    def run(self, lookup: Lookup, watch: Callable[[Lookup], None] | None = None) -> LookupResult:
        """Drive a lookup to its end."""
        events: list[tuple[float, int, Contact, float]] = []
        serial = count()
        target = lookup.target
        while True:
            for contact, asks in lookup.take_probes():
                self.asked.append(contact)
                node = self.nodes.get(contact.encoded)
                delay_s = None if node is None else node.delay_s(self._patience_s(lookup, contact))
                if delay_s is not None:
                    heappush(events, (self.now_s + delay_s, next(serial), contact, self.now_s))
                assert asks == (contact.id ^ target < lookup.radius)
            if watch is not None:
                watch(lookup)
            if lookup.is_done:
                return lookup.result
            deadline_s = lookup.next_deadline_s()
            assert deadline_s is not None
            if events and events[0][0] <= deadline_s:
                self.now_s, _, contact, sent_s = heappop(events)
                self._deliver(lookup, contact, self.now_s - sent_s)
            else:
                self.now_s = max(self.now_s, deadline_s)
                lookup.on_deadline(self.now_s)

    def _deliver(self, lookup: Lookup, contact: Contact, rtt_s: float) -> None:
        node = self.nodes[contact.encoded]
        is_near = contact.id ^ lookup.target < lookup.radius
        asked = int.from_bytes(lookup.target_for(contact), "big")
        if lookup.feeds_pace(contact):
            self.pace.add(contact, rtt_s)
        value = node.value if is_near and lookup.goal not in (Goal.FIND, Goal.REGION) else None
        lookup.on_reply(contact, node.answer(self, asked, asks=is_near), value, self.now_s)

    def _patience_s(self, lookup: Lookup, contact: Contact) -> float:
        """What a tarpit may use up, if it knows our estimates."""
        return self.pace.soft_s(contact, hurried=lookup._candidates.is_open)
