"""Getting in and staying in: seeds, remembered contacts, refreshing, and old friends after a split.

A node pings its seeds and those it remembers, looks itself up, fills its far buckets, and tells its
neighbours that it serves. While it knows nobody it tries again. Contacts that were given up are
probed one by one; when one of them lives, the network was split and more are probed at once.
Source: docs/reference/dht.md, "Joining".
"""

from collections import deque
from collections.abc import Sequence
from typing import Final

from molia.base import limits
from molia.base.ids import PeerKey
from molia.base.now import Now
from molia.dht.asking import Asks, Reply
from molia.dht.contact import ID_BITS, Contact, bucket_index
from molia.dht.effects import Alone, Joined, Snapshot
from molia.dht.hub import IPV4, IPV6, Family, Hub, family_of
from molia.dht.keeping import Keeping
from molia.dht.searching import NOTHING, Found, Searches
from molia.dht.snapshot import read_snapshot, write_snapshot
from molia.wire.addresses import Address

REMEMBERED_BATCH: Final = 32
REMEMBERED_S: Final = 1.0
HEAL_S: Final = 10.0
"""Between two bursts at the graveyard, and between two joins."""
HEAL_BURST: Final = 16
GRAVES_AT_ONCE: Final = 32
"""Graves probed in a second, when there is a reason to hurry."""
SHRUNK: Final = 0.7
"""A size estimate this much below the highest of late says that the network was split."""
FADE: Final = 0.99
NEIGHBOURS: Final = 20
AGAIN_S: Final = 3.0
"""When to look around once more, because the last time had not ended."""
ESTIMATE_MIN: Final = 8
"""Nodes near a target below which nothing follows from them, where there are more."""
UNKNOWN_S: Final = 1.0
"""How long a node that does not know whether it can be reached meets nobody: as long as there are
nodes that it never wrote to, they can show it."""


class Joining:
    """How one node comes and stays among the others."""

    def __init__(self, hub: Hub, asks: Asks, searches: Searches, keeping: Keeping) -> None:
        self._hub, self._asks, self._searches, self._keeping = hub, asks, searches, keeping
        self._seeds: list[Contact] = []
        self._kept: Sequence[Contact] = ()
        """Contacts of the snapshot; while the node knows nobody they are asked again and again."""
        self._remembered: deque[Contact] = deque()
        self._wait_s = hub.config.rejoin_s
        self._pinging = 0
        """Seeds and remembered contacts that have not answered yet."""
        self._joining: dict[int, int] = {}
        """By family: buckets that are still to be filled in this join."""
        self._joined_s = self._healed_s = float("-inf")
        self._sizes_high = {IPV4: 0.0, IPV6: 0.0}
        self._is_healing = False
        """Whether the next join follows a split."""
        self._hurried = 0
        """Graves that are still to be probed without waiting."""
        self._is_alone = False
        self.is_joined = False
        """Whether the node knows its neighbourhood."""

    # ------------------------------------------------------------------ coming in

    def start(self, seeds: Sequence[tuple[PeerKey, Address]], remembered: bytes, now: Now) -> None:
        """Begin to join; seeds at which nobody can be are left out, and a torn snapshot."""
        for key, address in seeds[: limits.DHT_SEEDS_MAX]:
            contact = self._hub.space.contact(key.key, address)
            if contact is not None and contact.key != self._hub.identity:
                self._seeds.append(contact)
        snapshot = read_snapshot(remembered, self._hub.space) if remembered else None
        if snapshot is not None:
            self._kept = snapshot.contacts[: limits.DHT_REMEMBERED_MAX]
            self._remembered.extend(self._kept)
            for number, side in self._hub.families.items():
                graves = [c for c in snapshot.graves if family_of(c.address) == number]
                side.table.graveyard.restore(graves)
        timers = self._hub.timers
        timers.set("refresh", now.mono_s + self._hub.jitter(self._hub.config.refresh_early_s))
        timers.set("graveyard", now.mono_s + self._hub.jitter(self._hub.config.graveyard_s))
        self.rejoin(now)

    def resume(self, sizes: Sequence[Sequence[int]], now: Now) -> None:
        """Take it that this node joined long ago, and measured the network since."""
        for distances in sizes:
            self._hub.family.size.add(distances)
        self.is_joined = True
        timers, config = self._hub.timers, self._hub.config
        timers.clear("join")
        timers.set("refresh", now.mono_s + config.refresh_s * self._hub.below(1024) / 1024)

    def rejoin(self, now: Now) -> None:
        """Ping whom the owner named and whom the node remembers; look again when all is over."""
        self._hub.counters.joins += 1
        for contact in self._seeds:
            self._ping(contact, now)
        self._ping_remembered(now)
        self._hub.timers.set("rejoin", now.mono_s + self._hub.jitter(self._wait_s))
        self._wait_s = min(2 * self._wait_s, self._hub.config.rejoin_max_s)
        if not self._pinging and not self._size:
            self._be_alone()

    def on_reachable(self, now: Now) -> None:
        """Tell others that this node serves from now on, those that knew it as a client as well."""
        self._wait_s = self._hub.config.rejoin_s
        for seed in self._seeds:
            self._ping(seed, now)
        for side in self._hub.families.values():
            for contact in side.table.nearest(side.own_id, NEIGHBOURS):
                self._asks.ping(contact, _ignore, now)
        self.look_around(now)

    def on_link_change(self, now: Now) -> None:
        """Take it that the network around has changed: ask everybody that was given up."""
        self._wait_s = self._hub.config.rejoin_s
        self._hurry(limits.GRAVES_MAX, now)
        self.rejoin(now)

    def snapshot(self, now: Now) -> None:
        """Hand out what the next start is to be given."""
        tables = [side.table for side in self._hub.families.values()]
        contacts = [contact for table in tables for contact in table.contacts()]
        graves = [contact for table in tables for contact in table.graveyard.contacts()]
        self._hub.emit(Snapshot(write_snapshot(contacts, graves, now.unix_s)))

    def _ping(self, contact: Contact, now: Now) -> None:
        self._pinging += 1
        self._asks.ping(contact, self._on_seed, now, is_trusted=True)

    def _ping_remembered(self, now: Now) -> None:
        for _ in range(min(REMEMBERED_BATCH, len(self._remembered))):
            self._ping(self._remembered.popleft(), now)
        if self._remembered:
            self._hub.timers.set("remembered", now.mono_s + REMEMBERED_S)

    def _on_seed(self, _reply: Reply, now: Now) -> None:
        self._pinging -= 1
        if self._size:
            self._is_alone = False
            if not self.is_joined and not self._joining:
                wait_s = 0.0 if self._hub.family.own is not None else UNKNOWN_S
                self._hub.timers.set("join", now.mono_s + wait_s)
        elif not self._pinging:
            self._be_alone()

    def _be_alone(self) -> None:
        if not self._is_alone:
            self._is_alone = True
            self._hub.emit(Alone())

    @property
    def _size(self) -> int:
        return sum(side.table.size for side in self._hub.families.values())

    # ------------------------------------------------------------------ looking around

    def look_around(self, now: Now) -> None:
        """Look this node itself up, then fill its far buckets; after a join that runs, again."""
        self._joined_s = now.mono_s
        for number, side in self._hub.families.items():
            if number in self._joining:
                self._hub.timers.set("again", now.mono_s + AGAIN_S)
            elif side.table.size:
                self._joining[number] = 0
                self._find_self(number, side, now)

    def _find_self(self, number: int, side: Family, now: Now) -> None:
        def found(result: Found, then: Now) -> None:
            self._on_neighbours(number, result, then)

        self._searches.find(side.own_id, found, now, family=number)

    def _on_neighbours(self, number: int, found: Found, now: Now) -> None:
        side = self._hub.families[number]
        if side.own is not None:
            for contact in found.closest:
                self._asks.ping(contact, _ignore, now)
        self._hear(found, now)
        side.size.guess([contact.id ^ side.own_id for contact in found.heard])
        near = found.closest[-1] if found.closest else None
        deepest = 0
        if near is not None and near.id != side.own_id:
            deepest = bucket_index(own=side.own_id, other=near.id)
        self._joining[number] = min(deepest, limits.DHT_JOIN_BUCKETS_MAX)
        if side.table.size:
            if not self.is_joined:
                self._hub.emit(Joined(side.table.size))
            self.is_joined = True
            self._wait_s = self._hub.config.rejoin_s
            self._keeping.on_joined(number, now, is_healed=self._is_healing)
            self._is_healing = False
        self._fill_bucket(number, now)

    def _fill_bucket(self, number: int, now: Now) -> None:
        """Look up a random target of the next bucket, the nearest first; then the join is over."""
        left = self._joining[number]
        if not left:
            del self._joining[number]
            return
        self._joining[number] = left - 1
        target = self._target_in(self._hub.families[number], left - 1)

        def found(result: Found, then: Now) -> None:
            self._hear(result, then)
            self._fill_bucket(number, then)

        self._searches.find(target, found, now, family=number)

    def _hear(self, found: Found, now: Now) -> None:
        """Ask those who were named and not asked, if the table has room for them."""
        for contact in found.heard:
            self._asks.hint(contact, now)

    def _target_in(self, side: Family, bucket: int) -> int:
        """Return a random id in a bucket of the node's."""
        free = ID_BITS - 1 - bucket
        noise = int.from_bytes(self._hub.entropy.token(ID_BITS // 8), "big") & ((1 << free) - 1)
        return ((side.own_id >> free) ^ 1) << free | noise

    # ------------------------------------------------------------------ staying in

    def on_timer(self, name: str, now: Now) -> None:
        """Do what was due: `rejoin`, `remembered`, `refresh`, `join`, `again`,
        `graveyard` or `heal`."""
        if name == "rejoin":
            self._on_rejoin(now)
        elif name == "remembered":
            self._ping_remembered(now)
        elif name == "refresh":
            self._refresh(now)
        elif name == "graveyard":
            self._on_graveyard_timer(now)
        elif name == "join":
            if not self.is_joined:
                self.look_around(now)
        elif name == "again":
            self.look_around(now)
        elif name == "heal":
            self._is_healing = True
            self.look_around(now)

    def _on_rejoin(self, now: Now) -> None:
        if self._size and self.is_joined:
            self._hub.timers.set("rejoin", now.mono_s + self._hub.config.rejoin_max_s)
            return
        if self._size:
            self.look_around(now)
        elif not self._remembered:
            self._remembered.extend(self._kept)
        self.is_joined = False
        self._hurry(HEAL_BURST, now)
        self.rejoin(now)

    def _refresh(self, now: Now) -> None:
        """Look up a random target: it fills buckets, finds the dead, and tells the size."""
        config, side = self._hub.config, self._hub.family
        is_early = side.size.count < config.refresh_early_count
        wait_s = config.refresh_early_s if is_early else config.refresh_s
        self._hub.timers.set("refresh", now.mono_s + self._hub.jitter(wait_s))
        for number, side in self._hub.families.items():
            if side.table.size:
                self._measure(number, now)

    def _measure(self, number: int, now: Now) -> None:
        """Look up a random target; those named near it count only if they are there."""
        target = int.from_bytes(self._hub.entropy.token(ID_BITS // 8), "big")

        def found(result: Found, then: Now) -> None:
            if result is NOTHING:  # too many lookups run: that says nothing of the network
                return
            live = [c for c in result.heard if self._asks.unproved.is_proved(c)]
            doubtful = [c for c in result.heard if not self._asks.unproved.is_proved(c)]
            are_some, left = len(result.heard) >= NEIGHBOURS, [len(doubtful)]

            def asked(reply: Reply, later: Now) -> None:
                left[0] -= 1
                if reply.number:
                    live.append(reply.contact)
                if not left[0]:
                    self._estimate(number, target, live, later, are_some=are_some)

            for contact in doubtful:
                self._asks.ping(contact, asked, then)
            if not doubtful:
                self._estimate(number, target, live, then, are_some=are_some)

        self._searches.find(target, found, now, family=number)

    def _estimate(
        self, number: int, target: int, live: list[Contact], now: Now, *, are_some: bool
    ) -> None:
        size = self._hub.families[number].size
        distances = sorted(contact.id ^ target for contact in live)
        if len(distances) >= ESTIMATE_MIN or not are_some:
            size.add(distances, are_some=are_some)
            self._watch_size(number, size.nodes, now)

    def _watch_size(self, number: int, nodes: float, now: Now) -> None:
        """Notice that a third of the network is gone: it was split, not that many left at once."""
        high = self._sizes_high[number]
        if nodes < SHRUNK * high:
            self._sizes_high[number] = nodes
            self._hurry(limits.GRAVES_MAX, now)
        else:
            self._sizes_high[number] = max(nodes, high * FADE)

    def _hurry(self, count: int, now: Now) -> None:
        """Probe that many graves at once, or rather as fast as is polite."""
        for side in self._hub.families.values():
            side.table.graveyard.hurry()
        self._hurried = max(self._hurried, count)
        self._on_graveyard_timer(now)

    def _on_graveyard_timer(self, now: Now) -> None:
        for side in self._hub.families.values():
            for _ in range(min(self._hurried, GRAVES_AT_ONCE) or 1):
                contact = side.table.graveyard.take_probe(now.mono_s)
                if contact is None:
                    break
                self._hub.counters.graveyard_probes += 1
                self._asks.ping(contact, self._on_graveyard, now)
        self._hurried = max(0, self._hurried - GRAVES_AT_ONCE)
        wait_s = 1.0 if self._hurried else self._hub.jitter(self._hub.config.graveyard_s)
        self._hub.timers.set("graveyard", now.mono_s + wait_s)

    def _on_graveyard(self, reply: Reply, now: Now) -> None:
        """Where one that was given up lives again, there may be a whole half of the network."""
        if not reply.is_answer or now.mono_s - self._healed_s < HEAL_S:
            return
        self._healed_s = now.mono_s
        self._hurry(HEAL_BURST, now)
        self._hub.timers.set("heal", max(now.mono_s + 1.0, self._joined_s + 3 * HEAL_S))


def _ignore(reply: Reply, now: Now) -> None:
    """What an answer shows of who gave it, the routing table knows already."""
