"""One bucket of the routing table: slots, and a cache of contacts that may take them.

A contact in a slot is verified or suspect; one in the cache answered once and is not passed on.
Source: docs/reference/routing-table.md, "Buckets".
"""

from bisect import insort
from enum import IntEnum
from typing import Final

from molia.dht.contact import Contact

RTT_GAIN: Final = 0.75
"""A contact takes another's slot when its round trip is below this part of the other's."""


class State(IntEnum):
    """What a table knows of a contact."""

    VERIFIED = 0
    """It answered us where it is said to be: it may be passed on."""
    SUSPECT = 1
    """It missed an answer, or comes from the cache and was long silent: not passed on."""
    SPARE = 2
    """It answered us and waits in the cache for a slot."""
    OUT = 3
    """It is in no bucket any more."""


class Entry:
    """What one table knows of one contact."""

    __slots__ = ("contact", "due_s", "heard_s", "missed_s", "rtt_s", "since_s", "state")

    def __init__(self, contact: Contact, *, rtt_s: float | None, now_s: float) -> None:
        self.contact = contact
        self.since_s = self.heard_s = self.due_s = now_s
        """First verified; last heard; when a check is due, as the heap of checks believes."""
        self.missed_s = now_s
        """When a suspect became one."""
        self.rtt_s = rtt_s
        self.state = State.SPARE

    def __lt__(self, other: "Entry") -> bool:
        """Order by the time of the next check."""
        return self.due_s < other.due_s


def age_of(entry: Entry) -> float:
    """Return what orders the slots of a bucket: when the contact was first verified."""
    return entry.since_s


class Bucket:
    """The slots and the cache of one distance."""

    __slots__ = ("capacity", "crowded", "entries", "spares")

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.entries: list[Entry] = []
        """In slots, the first verified first."""
        self.spares: list[Entry] = []
        """In the cache, in the order they answered last."""
        self.crowded: Entry | bool | None = False
        """The newest slot that a group holds beyond its quotas; False until it is looked for."""

    @property
    def has_room(self) -> bool:
        """Tell whether a slot is free."""
        return len(self.entries) < self.capacity

    def group_count(self, group: bytes) -> int:
        """Return how many slots a group holds."""
        return sum(entry.contact.group == group for entry in self.entries)

    def add(self, entry: Entry) -> None:
        """Put an entry into a slot."""
        self.crowded = False
        insort(self.entries, entry, key=age_of)

    def remove(self, entry: Entry) -> None:
        """Take an entry out of its slot."""
        self.crowded = False
        self.entries.remove(entry)

    def slowest_newer(self) -> Entry | None:
        """Return the slowest of the newer half: the older half is nobody's to take.

        An unknown round trip is the slowest. None while the newer half is empty.
        """
        newer = self.entries[(self.capacity + 1) // 2 :]
        return max(newer, key=slowness, default=None)

    def oddest_spare(self, group_quota: int) -> Entry:
        """Return the spare that goes first: of a group with too many, else the longest silent."""
        counts: dict[bytes, int] = {}
        for entry in self.spares:
            counts[entry.contact.group] = counts.get(entry.contact.group, 0) + 1
        crowd = max(counts.values())
        pool = self.spares
        if crowd > group_quota:
            pool = [entry for entry in pool if counts[entry.contact.group] == crowd]
        return min(pool, key=heard)


def heard(entry: Entry) -> float:
    """Return when the contact was last heard of."""
    return entry.heard_s


def slowness(entry: Entry) -> float:
    """Return the round trip; infinite while it is unknown."""
    return float("inf") if entry.rtt_s is None else entry.rtt_s


def is_faster(entry: Entry, other: Entry) -> bool:
    """Tell whether an entry is so much faster than another that it deserves its slot."""
    return slowness(entry) < RTT_GAIN * slowness(other)
