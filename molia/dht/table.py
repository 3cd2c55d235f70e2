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
from molia.dht.bucket import Entry, State
from molia.dht.checks import Checks
from molia.dht.churn import OUTCOMES, ChurnMeter, OwnLink
from molia.dht.contact import Contact, Space
from molia.dht.graveyard import Graveyard
from molia.dht.places import Places
from molia.dht.snapshot import read_snapshot, write_snapshot

_RTT_GAIN: Final = 1 / 8
_DEATH_INTERVALS: Final = 4
"""Who was silent for longer was in the cache meanwhile: its death says nothing of the slots'."""


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

    __slots__ = ("_answered_s", "_checks", "_churn", "_config", "_entropy", "_link", "_places",
                 "counts", "graveyard", "own_id")  # fmt: skip

    def __init__(self, own_id: int, config: TableConfig | None = None, *, entropy: Entropy) -> None:
        self.own_id = own_id
        self._config, self._entropy = config or TableConfig(), entropy
        self._answered_s = float("-inf")
        """When anybody last answered or spoke: our link worked then."""
        self._churn, self._link = ChurnMeter(), OwnLink()
        self._checks = Checks(self._churn.check_interval_s, entropy=entropy)
        self.graveyard = Graveyard(size=self._config.graves)
        self.counts: Counter[str] = Counter()
        """What happened: inserted, evicted, gone, moved, promoted, guarded, refused."""
        self._places = Places(
            own_id, self._checks, self.counts, bucket_size=self._config.bucket_size,
            group_per_bucket=self._config.group_per_bucket,
            group_per_table=self._config.group_per_table,
        )  # fmt: skip

    # -- asking

    @property
    def size(self) -> int:
        """How many contacts are verified."""
        return len(self._places.verified)

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
        return self._places.verified.nearest(target, count)

    def nodes_body(self, target: int) -> bytes:
        """Return the body of NODES with the 20 nearest to `target`."""
        return self._places.verified.body(target, target ^ self.own_id)

    def in_region(self, center: int, radius: int) -> list[Contact]:
        """Return the verified contacts whose distance to `center` is below `radius`."""
        return self._places.verified.in_region(center, radius)

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
            chosen.append(self._places.verified[left.pop()])
        return chosen

    def find(self, key: bytes) -> Contact | None:
        """Return the verified contact of a peer key's bytes."""
        entry = self._places.entries.get(key)
        return entry.contact if entry is not None and entry.state is State.VERIFIED else None

    def views(self) -> list[EntryView]:
        """Return everything the table holds, its caches included, the longest verified first."""
        return [
            EntryView(
                e.contact, e.state, e.rtt_s, e.since_s, e.heard_s, self._places.index(e.contact)
            )
            for e in self._places.entries.values()
        ]

    def _of_state(self, state: State) -> Iterator[Contact]:
        return (entry.contact for entry in self._places.entries.values() if entry.state is state)

    def wants(self, contact: Contact, now_s: float) -> bool:
        """Tell whether a contact we only heard of is worth a probe: it may find a place."""
        if contact.id == self.own_id or self.graveyard.is_fresh(contact.key, now_s):
            return False
        entry = self._places.entries.get(contact.key.key)
        if entry is not None:
            return entry.contact.address != contact.address and self._is_doubtful(entry, now_s)
        if len(self._places.entries) >= TABLE_ENTRIES_MAX:
            return False
        if not self._places.may_find_place(contact, now_s):
            return False
        resident = self._places.resident(contact)
        return resident is None or self._is_doubtful(resident, now_s)

    def _is_doubtful(self, entry: Entry, now_s: float) -> bool:
        return entry.state is State.SUSPECT or now_s - entry.heard_s > self._checks.interval_s

    # -- facts

    def on_verified(self, contact: Contact, rtt_s: float | None, now_s: float) -> None:
        """Take that a request of ours was answered from this address.

        rtt_s: None when it is not known, as when the request was sent more than once.
        """
        if contact.id == self.own_id:
            return
        self._link.add(lost=False)
        self._answered_s = now_s
        self._tick(now_s)
        self.graveyard.remove(contact.key)
        entry = self._places.entries.get(contact.key.key)
        if entry is not None and entry.contact.address == contact.address:
            self._refresh(entry, rtt_s, now_s)
            return
        left = [other for other in (entry, self._places.resident(contact)) if other is not None]
        for other in left:  # it moved, or answers where another was thought to be
            self.counts["moved"] += 1
            self._places.take_out(other)
        if len(self._places.entries) < TABLE_ENTRIES_MAX:
            self._places.place(Entry(contact, rtt_s=rtt_s, now_s=now_s), now_s)
        else:
            self.counts["refused"] += 1
        for other in left:
            self._places.fill(self._places.bucket(other.contact), now_s)

    def on_alive(self, contact: Contact, now_s: float) -> None:
        """Take that something authenticated came from this contact; inserts nobody."""
        self._answered_s = now_s
        self.graveyard.doubt(contact.key)
        entry = self._places.entries.get(contact.key.key)
        if entry is not None and entry.contact.address == contact.address:
            entry.heard_s = now_s
            if entry.state is State.SUSPECT:
                self._places.clear(entry)

    def on_miss(self, contact: Contact, now_s: float) -> None:
        """Take that a request of ours to this contact got no answer, tries included.

        The first makes it a suspect, the second evicts it, unless our own link is bad: then most
        of our last requests were lost, or nobody at all was heard of since the first.
        """
        entry = self._places.entries.get(contact.key.key)
        if entry is None or entry.contact.address != contact.address:
            return
        self._tick(now_s)
        if entry.state is State.SPARE:
            if not self._link.is_deaf:
                self._places.take_out(entry)
        elif entry.state is State.VERIFIED:
            self._link.add(lost=True)
            self._places.suspect(entry, now_s)
        elif self._link.is_deaf or self._answered_s < entry.missed_s:
            self.counts["guarded"] += 1
        else:
            self.counts["evicted"] += 1
            self._evict(entry, now_s)

    def on_gone(self, contact: Contact, now_s: float) -> None:
        """Take that this contact said goodbye: it makes room at once."""
        entry = self._places.entries.get(contact.key.key)
        if entry is not None and entry.contact.address == contact.address:
            self._tick(now_s)
            self.counts["gone"] += 1
            self._evict(entry, now_s)

    def on_sent_and_lost(self, *, sent: int, lost: int, now_s: float) -> None:
        """Take how many of our requests beside those told of by contact were lost, in no order."""
        for index in range(min(sent, OUTCOMES)):
            self._link.add(lost=index < lost)
        if lost < sent:
            self._answered_s = now_s

    # -- checks

    def take_checks(self, now_s: float, limit: int) -> list[Contact]:
        """Return whom to ask now whether they live: at most `limit`, the longest due first.

        Tell of each by `on_verified` or `on_miss`; without a word it is due again in 10 s.
        """
        self._tick(now_s)
        return self._checks.take(now_s, limit)

    def is_suspect(self, contact: Contact) -> bool:
        """Tell whether a contact missed an answer and gave none since."""
        entry = self._places.entries.get(contact.key.key)
        return entry is not None and entry.state is State.SUSPECT

    def next_check_s(self) -> float | None:
        """Return when `take_checks` has somebody next; None while there is nobody to check."""
        return self._checks.next_s()

    def _tick(self, now_s: float) -> None:
        self._churn.on_time(self._places.slot_count, now_s)
        self._checks.follow(
            self._churn.check_interval_s, slot_count=self._places.slot_count, now_s=now_s
        )

    def _evict(self, entry: Entry, now_s: float) -> None:
        if (
            entry.state is not State.SPARE
            and now_s - entry.heard_s < _DEATH_INTERVALS * self._checks.interval_s
        ):
            self._churn.on_death()
        self._places.take_out(entry)
        self.graveyard.bury(entry.contact, now_s)
        self._places.fill(self._places.bucket(entry.contact), now_s)

    def _refresh(self, entry: Entry, rtt_s: float | None, now_s: float) -> None:
        """Take an answer of a contact that is here already; one from the cache may get a slot."""
        entry.heard_s = now_s
        if rtt_s is not None:
            known_s = rtt_s if entry.rtt_s is None else entry.rtt_s
            entry.rtt_s = known_s + _RTT_GAIN * (rtt_s - known_s)
        if entry.state is State.SUSPECT:
            self._places.clear(entry)
        elif entry.state is State.SPARE:
            self._places.replace(entry, now_s)

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
