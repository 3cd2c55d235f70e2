"""The routing table: whom a node knows, who of them lives, and who is nearest to a target.

Only who answered a request of ours gets in, only the verified are passed on, and nobody is thrown
out while it may be our own link that is bad. One table holds the contacts of one address family.
Source: docs/reference/routing-table.md.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

from molia.base.config import require
from molia.base.entropy import Entropy
from molia.base.limits import BUCKET_SIZE_MAX, GRAVES_MAX, NODES_CONTACTS_MAX, TABLE_ENTRIES_MAX
from molia.dht.bucket import Bucket, Entry, State, heard, is_faster
from molia.dht.checks import Checks
from molia.dht.churn import ChurnMeter, OwnLink
from molia.dht.contact import Contact, Space, bucket_index
from molia.dht.graveyard import Graveyard
from molia.dht.nearest import Positions
from molia.dht.snapshot import read_snapshot, write_snapshot
from molia.wire.addresses import Address

_RTT_GAIN: Final = 1 / 8
_DEATH_INTERVALS: Final = 4
"""Who was silent for longer was in the cache meanwhile: its death says nothing of the slots'."""
_FRESH_SPARES: Final = 4
"""A bucket wants contacts for its cache while fewer than 1 in 4 places are fresh: heard of within
this many check intervals."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TableConfig:
    """Sizes and quotas of a routing table."""

    bucket_size: int = 20
    """Slots of a bucket, k; the first has 4 k, the second 2 k, and the cache of each k. More costs
    more checks and makes lookups shorter."""
    group_per_bucket: int = 2
    """Contacts of one address prefix in a full bucket. More lets one network fill it."""
    group_per_table: int = 10
    """The same over all buckets."""
    graves: int = GRAVES_MAX
    """Dead contacts that are remembered, to find back to them after a partition."""

    def __post_init__(self) -> None:
        require(2 <= self.bucket_size <= BUCKET_SIZE_MAX, "dht.bucket_size",
                f"2..{BUCKET_SIZE_MAX}")  # fmt: skip
        require(self.group_per_bucket >= 1, "dht.group_per_bucket", "1 or more")
        require(self.group_per_table >= 1, "dht.group_per_table", "1 or more")
        require(1 <= self.graves <= GRAVES_MAX, "dht.graves", f"1..{GRAVES_MAX}")


class EntryView(NamedTuple):
    """A contact of the table as people are shown it."""

    contact: Contact
    state: State
    rtt_s: float | None
    since_s: float
    """When it first answered us."""
    heard_s: float
    """When it was last heard of."""
    bucket: int


class Table:
    """The contacts that one node knows by its own experience."""

    __slots__ = ("_at", "_buckets", "_checks", "_churn", "_config", "_entries", "_entropy",
                 "_groups", "_link", "_slots", "_verified", "counts", "graveyard",
                 "own_id")  # fmt: skip

    def __init__(self, own_id: int, config: TableConfig | None = None, *, entropy: Entropy) -> None:
        self.own_id = own_id
        self._config, self._entropy = config or TableConfig(), entropy
        self._buckets: list[Bucket | None] = []
        self._entries: dict[bytes, Entry] = {}
        """By key, slots and caches, in the order of first verification."""
        self._at: dict[Address, Entry] = {}
        """The same by address."""
        self._verified = Positions()
        self._groups: dict[bytes, int] = {}
        """Slots of each group."""
        self._slots = 0
        self._churn, self._link = ChurnMeter(), OwnLink()
        self._checks = Checks(self._churn.check_interval_s, entropy=entropy)
        self.graveyard = Graveyard(size=self._config.graves)
        self.counts: Counter[str] = Counter()
        """What happened: inserted, evicted, gone, moved, promoted, guarded, refused."""

    # -- asking

    @property
    def size(self) -> int:
        """How many contacts are verified."""
        return len(self._verified)

    @property
    def churn_rate(self) -> float:
        """Deaths per contact and second, as measured here."""
        return self._churn.rate

    @property
    def check_interval_s(self) -> float:
        """How long a contact may be silent before it is checked."""
        return self._checks.interval_s

    @property
    def is_deaf(self) -> bool:
        """Tell whether so much of ours is lost that nobody is evicted."""
        return self._link.is_deaf

    def nearest(self, target: int, count: int = NODES_CONTACTS_MAX) -> list[Contact]:
        """Return the verified contacts nearest to `target`, the nearest first."""
        return self._verified.nearest(target, count)

    def nodes_body(self, target: int) -> bytes:
        """Return the body of NODES with the 20 nearest to `target`."""
        return b"".join([c.encoded for c in self._verified.nearest(target, NODES_CONTACTS_MAX)])

    def in_region(self, center: int, radius: int) -> list[Contact]:
        """Return the verified contacts whose distance to `center` is below `radius`."""
        return self._verified.in_region(center, radius)

    def contacts(self) -> list[Contact]:
        """Return all verified contacts, the longest verified first."""
        return list(self._of_state(State.VERIFIED))

    def oldest(self, count: int) -> list[Contact]:
        """Return the `count` contacts that were verified first."""
        return list(islice(self._of_state(State.VERIFIED), count))

    def random(self, count: int) -> list[Contact]:
        """Return `count` verified contacts by chance, or all of them, each once."""
        left = list(range(self.size))
        chosen = []
        for _ in range(min(count, len(left))):
            index = int.from_bytes(self._entropy.token(4), "big") % len(left)
            left[index], left[-1] = left[-1], left[index]
            chosen.append(self._verified[left.pop()])
        return chosen

    def find(self, key: bytes) -> Contact | None:
        """Return the verified contact of a peer key's bytes."""
        entry = self._entries.get(key)
        return entry.contact if entry is not None and entry.state is State.VERIFIED else None

    def views(self) -> list[EntryView]:
        """Return everything the table holds, its caches included, the longest verified first."""
        return [
            EntryView(e.contact, e.state, e.rtt_s, e.since_s, e.heard_s, self._index(e.contact))
            for e in self._entries.values()
        ]

    def _of_state(self, state: State) -> Iterator[Contact]:
        return (entry.contact for entry in self._entries.values() if entry.state is state)

    def wants(self, contact: Contact, now_s: float) -> bool:
        """Tell whether a contact we only heard of is worth a probe: it may find a place."""
        if contact.id == self.own_id or self.graveyard.is_fresh(contact.key, now_s):
            return False
        entry = self._entries.get(contact.key.key)
        if entry is not None:
            doubtful = (
                entry.state is State.SUSPECT or now_s - entry.heard_s > self._checks.interval_s
            )
            return doubtful and entry.contact.address != contact.address
        if len(self._entries) >= TABLE_ENTRIES_MAX:
            return False
        bucket = self._bucket(contact)
        if self._has_room(bucket):
            return True
        if not self._has_quota(bucket, contact.group):
            return False
        fresh_s = now_s - _FRESH_SPARES * self._checks.interval_s
        fresh_count = sum(spare.heard_s >= fresh_s for spare in bucket.spares)
        return 4 * fresh_count < self._config.bucket_size or self._crowded(bucket) is not None

    # -- facts

    def on_verified(self, contact: Contact, rtt_s: float | None, now_s: float) -> None:
        """Take that a request of ours was answered from this address.

        rtt_s: None when it is not known, as when the request was sent more than once.
        """
        if contact.id == self.own_id:
            return
        self._link.add(lost=False)
        self._tick(now_s)
        self.graveyard.remove(contact.key)
        entry = self._entries.get(contact.key.key)
        if entry is not None and entry.contact.address == contact.address:
            self._refresh(entry, rtt_s, now_s)
            return
        left = [other for other in (entry, self._at.get(contact.address)) if other is not None]
        for other in left:  # it moved, or answers where another was thought to be
            self.counts["moved"] += 1
            self._take_out(other)
        if len(self._entries) < TABLE_ENTRIES_MAX:
            self._place(Entry(contact, rtt_s=rtt_s, now_s=now_s), now_s)
        else:
            self.counts["refused"] += 1
        for other in left:
            self._fill(self._bucket(other.contact), now_s)

    def on_alive(self, contact: Contact, now_s: float) -> None:
        """Take that something authenticated came from this contact; inserts nobody."""
        entry = self._entries.get(contact.key.key)
        if entry is not None and entry.contact.address == contact.address:
            entry.heard_s = now_s
            if entry.state is State.SUSPECT:
                self._clear(entry)

    def on_miss(self, contact: Contact, now_s: float) -> None:
        """Take that a request of ours to this contact got no answer, tries included.

        The first makes it a suspect, the second evicts it, unless our own link is bad.
        """
        entry = self._entries.get(contact.key.key)
        if entry is None or entry.contact.address != contact.address:
            return
        self._tick(now_s)
        if entry.state is State.SPARE:
            self._take_out(entry)
        elif entry.state is State.VERIFIED:
            self._link.add(lost=True)
            entry.state = State.SUSPECT
            self._verified.remove(entry.contact)
            self._checks.suspect(entry, now_s)
        elif self._link.is_deaf:
            self.counts["guarded"] += 1
        else:
            self.counts["evicted"] += 1
            self._evict(entry, now_s)

    def on_gone(self, contact: Contact, now_s: float) -> None:
        """Take that this contact said goodbye: it makes room at once."""
        entry = self._entries.get(contact.key.key)
        if entry is not None and entry.contact.address == contact.address:
            self._tick(now_s)
            self.counts["gone"] += 1
            self._evict(entry, now_s)

    def on_sent_and_lost(self, *, sent: int, lost: int) -> None:
        """Take how many of our requests beside those told of by contact were lost, in no order."""
        for index in range(sent):
            self._link.add(lost=index < lost)

    # -- checks

    def take_checks(self, now_s: float, limit: int) -> list[Contact]:
        """Return whom to ask now whether they live: at most `limit`, the longest due first.

        Tell of each by `on_verified` or `on_miss`; without a word it is due again in 10 s.
        """
        self._tick(now_s)
        return self._checks.take(now_s, limit)

    def next_check_s(self) -> float | None:
        """Return when `take_checks` has somebody next; None while there is nobody to check."""
        return self._checks.next_s()

    def _tick(self, now_s: float) -> None:
        self._churn.on_time(self._slots, now_s)
        self._checks.follow(self._churn.check_interval_s, slot_count=self._slots, now_s=now_s)

    # -- places

    def _index(self, contact: Contact) -> int:
        return bucket_index(own=self.own_id, other=contact.id)

    def _bucket(self, contact: Contact) -> Bucket:
        index = self._index(contact)
        if index >= len(self._buckets):
            self._buckets += [None] * (index + 1 - len(self._buckets))
        bucket = self._buckets[index]
        if bucket is None:
            size = self._config.bucket_size
            bucket = self._buckets[index] = Bucket(size << 2 - index if index < 2 else size)
        return bucket

    @staticmethod
    def _has_room(bucket: Bucket) -> bool:
        return len(bucket.entries) < bucket.capacity

    def _has_quota(self, bucket: Bucket, group: bytes) -> bool:
        """Tell whether one more of this group is within its quotas."""
        count = self._groups.get(group, 0)
        if count == 0:
            return True
        return (count < self._config.group_per_table
                and bucket.group_count(group) < self._config.group_per_bucket)  # fmt: skip

    def _crowded(self, bucket: Bucket) -> Entry | None:
        """Return the newest slot that a group holds beyond its quotas."""
        config, seen, newest = self._config, dict[bytes, int](), None
        for entry in bucket.entries:
            group = entry.contact.group
            seen[group] = seen.get(group, 0) + 1
            if (seen[group] > config.group_per_bucket
                    or self._groups[group] > config.group_per_table):  # fmt: skip
                newest = entry
        return newest

    def _place(self, entry: Entry, now_s: float) -> None:
        """Put a verified entry that has no place into a slot or the cache."""
        bucket = self._bucket(entry.contact)
        if not self._has_room(bucket):
            rival = self._rival(bucket, entry)
            if rival is None:
                self._cache(bucket, entry)
                return
            self._demote(bucket, rival)
        self._admit(bucket, entry, now_s)

    def _rival(self, bucket: Bucket, entry: Entry) -> Entry | None:
        """Return whose slot in a full bucket an entry may take."""
        if not self._has_quota(bucket, entry.contact.group):
            return None
        crowded = self._crowded(bucket)
        if crowded is not None:
            return crowded
        slowest = bucket.slowest_newer()
        return slowest if slowest is not None and is_faster(entry, slowest) else None

    def _admit(self, bucket: Bucket, entry: Entry, now_s: float) -> None:
        """Give a slot; one that was long silent has to answer before it is passed on."""
        self._remember(entry)
        bucket.add(entry)
        group = entry.contact.group
        self._groups[group] = self._groups.get(group, 0) + 1
        self._slots += 1
        self.counts["inserted"] += 1
        self._checks.add(entry, now_s)
        if now_s - entry.heard_s <= self._checks.interval_s:
            self._clear(entry)
        else:
            entry.state = State.SUSPECT
            self._checks.hurry(entry, now_s)

    def _cache(self, bucket: Bucket, entry: Entry) -> None:
        self._remember(entry)
        bucket.spares.append(entry)
        if len(bucket.spares) > self._config.bucket_size:
            spare = bucket.oddest_spare(self._config.group_per_bucket)
            bucket.spares.remove(spare)
            self._forget(spare)
            spare.state = State.OUT

    def _demote(self, bucket: Bucket, entry: Entry) -> None:
        """Take a slot away; what was verified goes into the cache."""
        was = entry.state
        self._leave_slot(bucket, entry)
        if was is State.VERIFIED:
            # a new entry, since the old one stays in the heap of checks until it comes to the top
            spare = Entry(entry.contact, rtt_s=entry.rtt_s, now_s=entry.heard_s)
            spare.since_s = entry.since_s
            self._cache(bucket, spare)
        else:
            self._forget(entry)

    def _leave_slot(self, bucket: Bucket, entry: Entry) -> None:
        bucket.entries.remove(entry)
        if entry.state is State.VERIFIED:
            self._verified.remove(entry.contact)
        entry.state = State.OUT
        self._slots -= 1
        left = self._groups.pop(entry.contact.group) - 1
        if left:
            self._groups[entry.contact.group] = left

    def _take_out(self, entry: Entry) -> None:
        """Remove an entry from its slot or the cache."""
        self._forget(entry)
        bucket = self._bucket(entry.contact)
        if entry.state is State.SPARE:
            bucket.spares.remove(entry)
            entry.state = State.OUT
        else:
            self._leave_slot(bucket, entry)

    def _fill(self, bucket: Bucket, now_s: float) -> None:
        """Give a free slot to the spare heard of last, of a group within its quotas if possible."""
        if not bucket.spares or not self._has_room(bucket):
            return
        within = [s for s in bucket.spares if self._has_quota(bucket, s.contact.group)]
        entry = max(within or bucket.spares, key=heard)
        bucket.spares.remove(entry)
        self.counts["promoted"] += 1
        self._admit(bucket, entry, now_s)

    def _evict(self, entry: Entry, now_s: float) -> None:
        if now_s - entry.heard_s < _DEATH_INTERVALS * self._checks.interval_s:
            self._churn.on_death()
        self._take_out(entry)
        self.graveyard.bury(entry.contact, now_s)
        self._fill(self._bucket(entry.contact), now_s)

    def _clear(self, entry: Entry) -> None:
        """Make an entry in a slot verified."""
        entry.state = State.VERIFIED
        self._verified.add(entry.contact)

    def _refresh(self, entry: Entry, rtt_s: float | None, now_s: float) -> None:
        """Take an answer of a contact that is here already; one from the cache may get a slot."""
        entry.heard_s = now_s
        if rtt_s is not None:
            known_s = rtt_s if entry.rtt_s is None else entry.rtt_s
            entry.rtt_s = known_s + _RTT_GAIN * (rtt_s - known_s)
        if entry.state is State.SUSPECT:
            self._clear(entry)
        elif entry.state is State.SPARE:
            bucket = self._bucket(entry.contact)
            bucket.spares.remove(entry)
            self._place(entry, now_s)

    def _remember(self, entry: Entry) -> None:
        self._entries[entry.contact.key.key] = entry
        self._at[entry.contact.address] = entry

    def _forget(self, entry: Entry) -> None:
        del self._entries[entry.contact.key.key]
        del self._at[entry.contact.address]

    # -- on disk

    def snapshot(self, unix_s: float) -> bytes:
        """Return the table and its graveyard as bytes for the disk."""
        known = [*self._of_state(State.VERIFIED), *self._of_state(State.SUSPECT)]
        return write_snapshot(known, self.graveyard.contacts(), unix_s)

    def restore(self, data: bytes, space: Space) -> list[Contact] | None:
        """Return the contacts of a snapshot, to be probed: they are not inserted. Fills graves.

        None when these are not the bytes of a snapshot; then nothing changed.
        """
        read = read_snapshot(data, space)
        if read is None:
            return None
        self.graveyard.restore(read.graves)
        return [contact for contact in read.contacts if contact.id != self.own_id]
