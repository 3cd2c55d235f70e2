"""Who of a table's contacts has a slot, who waits in a cache, and who gives way to whom.

Source: docs/reference/routing-table.md, "Buckets".
"""

from collections import Counter
from typing import Final

from molia.dht.bucket import Bucket, Entry, State, heard, is_faster
from molia.dht.checks import Checks
from molia.dht.contact import Contact, bucket_index
from molia.dht.nearest import Positions
from molia.wire.addresses import Address

_FRESH_INTERVALS: Final = 4
"""Who answered within so many check intervals may still live, unasked."""


class Places:
    """The buckets of a table; `Table` says what happened, this decides who sits where."""

    __slots__ = ("_at", "_bucket_size", "_buckets", "_checks", "_counts", "_group_per_bucket",
                 "_group_per_table", "_groups", "_own_id", "entries", "slot_count",
                 "verified")  # fmt: skip

    def __init__(
        self, own_id: int, checks: Checks, counts: Counter[str], *, bucket_size: int,
        group_per_bucket: int, group_per_table: int,
    ) -> None:  # fmt: skip
        self._own_id, self._checks, self._counts = own_id, checks, counts
        self._bucket_size = bucket_size
        self._group_per_bucket, self._group_per_table = group_per_bucket, group_per_table
        self._buckets: list[Bucket | None] = []
        self.entries: dict[bytes, Entry] = {}
        """By key, slots and caches, in the order of first verification."""
        self.verified = Positions()
        self.slot_count = 0
        self._groups: dict[bytes, int] = {}
        """Contacts of each group, in slots and caches."""
        self._at: dict[Address, Entry] = {}
        """By address, at most one at each: who verifies at another's address takes its place."""

    def index(self, contact: Contact) -> int:
        """Return the bucket of a contact."""
        return bucket_index(own=self._own_id, other=contact.id)

    def bucket(self, contact: Contact) -> Bucket:
        """Return the bucket of a contact, made on its first use."""
        index = self.index(contact)
        if index >= len(self._buckets):
            self._buckets += [None] * (index + 1 - len(self._buckets))
        bucket = self._buckets[index]
        if bucket is None:
            size = self._bucket_size
            bucket = self._buckets[index] = Bucket(size << 2 - index if index < 2 else size)
        return bucket

    def resident(self, contact: Contact) -> Entry | None:
        """Return whom the table believes to be at a contact's address, under another key."""
        entry = self._at.get(contact.address)
        return None if entry is None or entry.contact.key == contact.key else entry

    def may_find_place(self, contact: Contact, now_s: float) -> bool:
        """Tell whether an unknown contact would get a slot, or a place in a cache that needs it."""
        bucket = self.bucket(contact)
        if bucket.has_room:
            return True
        if not self.has_quota(bucket, contact.group):
            return False
        return not self._has_spares(bucket, now_s) or self._crowded(bucket) is not None

    def _has_spares(self, bucket: Bucket, now_s: float) -> bool:
        """Tell whether a quarter of the cache answered lately."""
        count = (self._bucket_size + 3) // 4
        fresh_s = now_s - _FRESH_INTERVALS * self._checks.interval_s
        return len(bucket.spares) >= count and bucket.spares[-count].heard_s >= fresh_s

    def has_quota(self, bucket: Bucket, group: bytes) -> bool:
        """Tell whether one more of this group is within its quotas."""
        if group not in self._groups:
            return True
        return (bucket.group_count(group) < self._group_per_bucket
                and self._table_count(group) < self._group_per_table)  # fmt: skip

    def _table_count(self, group: bytes) -> int:
        """Return how many slots a group holds, or an upper bound where that is within its quota."""
        count = self._groups[group]
        if count < self._group_per_table:
            return count
        slots = (e.contact for e in self.entries.values() if e.state <= State.SUSPECT)
        return sum(contact.group == group for contact in slots)

    def _crowded(self, bucket: Bucket) -> Entry | None:
        """Return the newest slot that a group holds beyond its quotas."""
        if isinstance(bucket.crowded, bool):
            seen: dict[bytes, int] = {}
            bucket.crowded = None
            for entry in bucket.entries:
                group = entry.contact.group
                seen[group] = seen.get(group, 0) + 1
                if (seen[group] > self._group_per_bucket
                        or self._table_count(group) > self._group_per_table):  # fmt: skip
                    bucket.crowded = entry
        return bucket.crowded

    def place(self, entry: Entry, now_s: float) -> None:
        """Put a verified entry that has no place into a slot or the cache."""
        bucket = self.bucket(entry.contact)
        if not bucket.has_room:
            rival = self._rival(bucket, entry)
            if rival is None:
                self._cache(bucket, entry)
                return
            self._demote(bucket, rival)
        self._admit(bucket, entry, now_s)

    def _rival(self, bucket: Bucket, entry: Entry) -> Entry | None:
        """Return whose slot in a full bucket an entry may take."""
        if not self.has_quota(bucket, entry.contact.group):
            return None
        if self._crowded(bucket) is not None:
            bucket.crowded = False  # other buckets may have changed what the table holds of a group
            crowded = self._crowded(bucket)
            if crowded is not None:
                return crowded
        slowest = bucket.slowest_newer()
        return slowest if slowest is not None and is_faster(entry, slowest) else None

    def _admit(self, bucket: Bucket, entry: Entry, now_s: float) -> None:
        """Give a slot; one that was long silent has to answer before it is passed on."""
        self._remember(entry)
        bucket.add(entry)
        self.slot_count += 1
        self._counts["inserted"] += 1
        self._checks.add(entry, now_s)
        if now_s - entry.heard_s <= self._checks.interval_s:
            self.clear(entry)
        else:
            entry.state, entry.missed_s = State.SUSPECT, now_s
            self._checks.hurry(entry, now_s)

    def _cache(self, bucket: Bucket, entry: Entry) -> None:
        self._remember(entry)
        bucket.spares.append(entry)
        if len(bucket.spares) > self._bucket_size:
            spare = bucket.oddest_spare(self._group_per_bucket)
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
        bucket.remove(entry)
        if entry.state is State.VERIFIED:
            self.verified.remove(entry.contact)
        entry.state = State.OUT
        self.slot_count -= 1

    def take_out(self, entry: Entry) -> None:
        """Remove an entry from its slot or the cache."""
        self._forget(entry)
        bucket = self.bucket(entry.contact)
        if entry.state is State.SPARE:
            bucket.spares.remove(entry)
            entry.state = State.OUT
        else:
            self._leave_slot(bucket, entry)

    def fill(self, bucket: Bucket, now_s: float) -> None:
        """Give a free slot to the spare heard of last, of a group within its quotas if possible."""
        if not bucket.spares or not bucket.has_room:
            return
        within = [s for s in bucket.spares if self.has_quota(bucket, s.contact.group)]
        entry = max(within or bucket.spares, key=heard)
        bucket.spares.remove(entry)
        self._counts["promoted"] += 1
        self._admit(bucket, entry, now_s)

    def clear(self, entry: Entry) -> None:
        """Make an entry in a slot verified."""
        entry.state = State.VERIFIED
        self.verified.add(entry.contact)

    def _remember(self, entry: Entry) -> None:
        key, group = entry.contact.key.key, entry.contact.group
        if key not in self.entries:
            self._groups[group] = self._groups.get(group, 0) + 1
        self.entries[key] = self._at[entry.contact.address] = entry

    def _forget(self, entry: Entry) -> None:
        del self.entries[entry.contact.key.key], self._at[entry.contact.address]
        left = self._groups.pop(entry.contact.group) - 1
        if left:
            self._groups[entry.contact.group] = left

    def suspect(self, entry: Entry, now_s: float) -> None:
        """Pass a verified entry on no more until it is heard of again."""
        entry.state, entry.missed_s = State.SUSPECT, now_s
        self.verified.remove(entry.contact)
        self._checks.suspect(entry, now_s)

    def replace(self, entry: Entry, now_s: float) -> None:
        """Look again where an entry of the cache that has just answered belongs."""
        self.bucket(entry.contact).spares.remove(entry)
        self.place(entry, now_s)
