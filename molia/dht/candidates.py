"""Whom a lookup may ask, and whom next.

Contacts reach a lookup by others' words, so each rule here is one against words that mislead: who
names many, names one network many times, or leads all ways to the same place.
Source: docs/reference/lookups.md, "Candidates".
"""

from collections.abc import Iterable
from heapq import heappop, heappush, nsmallest
from itertools import islice
from typing import Final

from molia.base import limits
from molia.base.entropy import Entropy
from molia.dht.contact import Contact
from molia.dht.size import K

PATHS: Final = 4
"""Origins that are kept apart: seeds are dealt to them, and who is named inherits its namer's."""
PATH_DEPTH: Final = 12
"""A path has been walked when its so many nearest outside the region have been asked."""
REPLY_CONTACTS_MAX: Final = 2 * K
REPLY_NEAR_MAX: Final = 6
"""New contacts in the region that one reply may bring."""
GROUP_MAX: Final = 2
PEER_CONTACTS_MAX: Final = 3
"""Addresses of one peer: a wrong one that comes first must not hide the right one."""
_PATH_MAX: Final = 36
_PATH_KEPT: Final = 24

HEARD, ASKED, SLOW, ANSWERED, FAILED, DEFERRED, DROPPED, HELD = range(8)
"""The states of a candidate. HELD: this node may not ask it now, so nothing is known of it."""


class Candidate:
    """One contact in one lookup."""

    __slots__ = ("asks", "contact", "distance", "has_answered", "is_near", "path", "state")

    def __init__(self, contact: Contact, distance: int, path: int, *, is_near: bool) -> None:
        self.contact, self.distance, self.path, self.is_near = contact, distance, path, is_near
        self.state = HEARD
        self.asks = self.has_answered = False
        """asks: whether the last request to it was for what is looked for."""


Entry = tuple[int, int, Candidate]
"""Distance, a serial number, the candidate: what heaps compare without calling Python."""


class Dice:
    """Small random numbers out of an `Entropy`."""

    __slots__ = ("_entropy",)

    def __init__(self, entropy: Entropy) -> None:
        self._entropy = entropy

    def below(self, stop: int) -> int:
        """Return a number in [0, stop)."""
        return int.from_bytes(self._entropy.token(4), "big") % stop


class Candidates:
    """The candidates of one lookup of `target`, whose region has `radius`."""

    __slots__ = ("_asked", "_asked_by_path", "_deferred", "_deferred_far", "_dice", "_groups",
                 "_near", "_paths", "_peers", "_serial", "_target", "_turn", "by_contact",
                 "is_open", "near_heard", "radius")  # fmt: skip

    def __init__(self, target: int, radius: int, own_key: bytes | None, entropy: Entropy) -> None:
        self.radius = radius
        self.by_contact: dict[bytes, Candidate] = {}
        """By `Contact.encoded`; those forgotten for want of room are not in it."""
        self.near_heard = 0
        """Contacts in the region that were named, deferred ones included."""
        self.is_open = False
        """Whether networks may have any number of contacts: when the region is attacked."""
        self._target, self._dice = target, Dice(entropy)
        self._near: list[Candidate] = []
        """Unasked ones in the region, and some that were asked since."""
        self._paths: tuple[list[Entry], ...] = tuple([] for _ in range(PATHS))
        self._asked_by_path: tuple[list[Candidate], ...] = tuple([] for _ in range(PATHS))
        self._deferred: list[Candidate] = []
        self._deferred_far: list[Candidate] = []
        self._groups: dict[bytes, int] = {}
        self._peers: dict[bytes, int] = {} if own_key is None else {own_key: PEER_CONTACTS_MAX}
        self._asked: dict[object, Candidate] = {}
        """Who was asked, by address and by key."""
        self._serial = self._turn = 0

    # ------------------------------------------------------------------ hearing

    def seed(self, contacts: Iterable[Contact]) -> list[Candidate]:
        """Take contacts of our own, dealt to the paths in turn; return those that are new."""
        new = []
        for index, contact in enumerate(contacts):
            if contact.encoded not in self.by_contact:
                self._admit(contact, contact.id ^ self._target, index % PATHS)
                candidate = self.by_contact.get(contact.encoded)
                if candidate is not None:
                    new.append(candidate)
        return new

    def hear(self, contacts: Iterable[Contact], path: int, *, nearest: bool) -> None:
        """Take what a reply names. nearest: of too many in the region the nearest, else any."""
        known, target, radius = self.by_contact, self._target, self.radius
        near: list[tuple[int, Contact]] = []
        for contact in islice(contacts, REPLY_CONTACTS_MAX):
            if contact.encoded in known:
                continue
            distance = contact.id ^ target
            if distance < radius:
                near.append((distance, contact))
            else:
                self._admit(contact, distance, path)
        if len(near) > REPLY_NEAR_MAX:
            near = self._some(near, nearest=nearest)
        for distance, contact in near:
            if contact.encoded not in known:
                self._admit(contact, distance, path)

    def _some(self, near: list[tuple[int, Contact]], *, nearest: bool) -> list[tuple[int, Contact]]:
        if nearest:
            return sorted(near)[:REPLY_NEAR_MAX]
        for index in range(REPLY_NEAR_MAX):
            other = index + self._dice.below(len(near) - index)
            near[index], near[other] = near[other], near[index]
        return near[:REPLY_NEAR_MAX]

    def _admit(self, contact: Contact, distance: int, path: int) -> None:
        is_near = distance < self.radius
        count = self._peers.get(contact.key.key, 0)
        if count >= PEER_CONTACTS_MAX or (is_near and not self._has_room()):
            return
        self.near_heard += is_near
        candidate = Candidate(contact, distance, path, is_near=is_near)
        in_group = self._groups.get(contact.group, 0)
        if count or (in_group >= GROUP_MAX and not self.is_open):
            self._defer(candidate)
        else:
            self._groups[contact.group] = in_group + 1
            self._note(candidate)
            self._line_up(candidate)

    def _has_room(self) -> bool:
        if self.is_open:
            return len(self._near) < limits.LOOKUP_REGION_MAX
        return self.near_heard < limits.LOOKUP_CANDIDATES_MAX

    def _note(self, candidate: Candidate) -> None:
        contact = candidate.contact
        self.by_contact[contact.encoded] = candidate
        self._peers[contact.key.key] = self._peers.get(contact.key.key, 0) + 1

    def _line_up(self, candidate: Candidate) -> None:
        """Put it where those are that are to be asked."""
        if candidate.is_near:
            self._near.append(candidate)
        self._push(candidate)

    def _push(self, candidate: Candidate) -> None:
        path = self._paths[candidate.path]
        self._serial += 1
        heappush(path, (candidate.distance, self._serial, candidate))
        if len(path) > _PATH_MAX:
            self._prune(path)

    def _prune(self, path: list[Entry]) -> None:
        """Forget the far end of a path: only its nearest are ever asked."""
        kept = nsmallest(_PATH_KEPT, (entry for entry in path if entry[2].state == HEARD))
        last = kept[-1][0] if kept else -1
        for distance, _, candidate in path:
            if candidate.state == HEARD and not candidate.is_near and distance > last:
                self._forget(candidate)
        path[:] = kept  # ascending, so it is a heap

    def _forget(self, candidate: Candidate) -> None:
        contact = candidate.contact
        candidate.state = DROPPED
        del self.by_contact[contact.encoded]
        self._peers[contact.key.key] -= 1
        if not self._peers[contact.key.key]:
            del self._peers[contact.key.key]
        self._leave_group(contact.group)

    def _leave_group(self, group: bytes) -> None:
        left = self._groups.get(group, 0) - 1
        if left > 0:
            self._groups[group] = left
        else:
            self._groups.pop(group, None)

    def _defer(self, candidate: Candidate) -> None:
        far_max = limits.LOOKUP_DEFERRED_MAX // 10
        store = self._deferred if candidate.is_near else self._deferred_far
        if len(store) < (limits.LOOKUP_DEFERRED_MAX if candidate.is_near else far_max):
            candidate.state = DEFERRED
            self._note(candidate)
            store.append(candidate)

    # ------------------------------------------------------------------ choosing

    def nearest(self) -> Candidate | None:
        """Return the nearest that was not asked."""
        best: Entry | None = None
        for path in self._paths:
            top = self._top(path)
            if top is not None and (best is None or top < best):
                best = top
        return None if best is None else best[2]

    def of_next_path(self) -> Candidate | None:
        """Return one outside the region of the next path not walked to its depth.

        The nearest; once the region is found, every other time any: the nearest may all be liars.
        """
        for _ in range(PATHS):
            self._turn = (self._turn + 1) % PATHS
            path = self._paths[self._turn]
            top = self._top(path)
            while top is not None and top[2].is_near:
                heappop(path)
                top = self._top(path)
            if top is not None and self._depth(top[0]) < PATH_DEPTH:
                return self._any_of(path) or top[2]
        return None

    def _any_of(self, path: list[Entry]) -> Candidate | None:
        if self.near_heard < PATH_DEPTH or self._dice.below(2):
            return None
        candidate = path[self._dice.below(len(path))][2]
        return candidate if not candidate.is_near and self.may_ask(candidate) else None

    def _depth(self, distance: int) -> int:
        """Return how many nearer ones of the path were asked and did not fail."""
        asked = self._asked_by_path[self._turn]
        return sum(c.distance < distance and c.state != FAILED for c in asked)

    def in_region(self) -> Candidate | None:
        """Return a random one in the region that was not asked."""
        near = self._near
        while near:
            index = self._dice.below(len(near))
            candidate = near[index]
            if self.may_ask(candidate):
                return candidate
            near[index] = near[-1]
            near.pop()
        return None

    def _top(self, path: list[Entry]) -> Entry | None:
        while path and not self.may_ask(path[0][2]):
            heappop(path)
        return path[0] if path else None

    def may_ask(self, candidate: Candidate) -> bool:
        """Tell whether it is unasked, and so are its address and its peer.

        An address gets one request, whoever is said to be there. A peer that does not answer at one
        address is asked at another one; until that is clear the other is put off.
        """
        if candidate.state != HEARD:
            return False
        contact = candidate.contact
        other = self._asked.get(contact.address)
        if other is not None:
            candidate.state = DROPPED
            return False
        other = self._asked.get(contact.key.key)
        if other is None or other.state in (SLOW, FAILED, HELD):
            return True
        candidate.state = DROPPED
        if other.state == ASKED:
            candidate.state = DEFERRED
            (self._deferred if candidate.is_near else self._deferred_far).append(candidate)
        return False

    def on_asked(self, candidate: Candidate) -> None:
        """A request goes to it."""
        candidate.state = ASKED
        contact = candidate.contact
        if contact.address not in self._asked:
            self._asked[contact.address] = self._asked[contact.key.key] = candidate
            if not candidate.is_near:
                self._asked_by_path[candidate.path].append(candidate)

    def on_failed(self, candidate: Candidate) -> None:
        """It does not answer: it takes no place in its network any more."""
        candidate.state = FAILED
        self._leave_group(candidate.contact.group)

    # ------------------------------------------------------------------ falling back

    def open(self) -> None:
        """Let any number of a network in, and take up those put off in the region."""
        self.is_open = True
        self.take_deferred()

    def take_deferred(self, *, far: bool = False) -> bool:
        """Take up those put off, in the region or outside it; tell whether there were any."""
        store = self._deferred_far if far else self._deferred
        for candidate in store:
            self._take_up(candidate)
        had = bool(store)
        store.clear()
        return had

    def take_nearer(self, distance: int, limit: int) -> list[Candidate]:
        """Take up at most `limit` of those put off in the region: the nearest within a distance."""
        nearer = (c for c in self._deferred if c.distance < distance)
        taken = nsmallest(limit, nearer, key=_distance)
        for candidate in taken:
            self._deferred.remove(candidate)
            self._take_up(candidate)
        return taken

    def _take_up(self, candidate: Candidate) -> None:
        group = candidate.contact.group
        self._groups[group] = self._groups.get(group, 0) + 1
        candidate.state = HEARD
        self._line_up(candidate)

    def widen(self) -> list[Candidate]:
        """Make the region hold the K closest that did not fail; return those new in it."""
        usable = [c for c in self.by_contact.values() if c.state != FAILED]
        closest = nsmallest(K, usable, key=_distance)
        if closest:
            self.radius = max(self.radius, closest[-1].distance + 1)
        new = [c for c in closest if not c.is_near]
        for candidate in new:
            candidate.is_near = True
            if candidate.state == HEARD:
                self._near.append(candidate)
        self.near_heard += len(new)
        return new

    def closest(self, count: int | None, *states: int, near: bool = False) -> tuple[Contact, ...]:
        """Return the closest in one of these states; all when `count` is None."""
        some = [
            c for c in self.by_contact.values() if c.state in states and (c.is_near or not near)
        ]
        some.sort(key=_distance)
        return tuple(c.contact for c in some[:count])


def _distance(candidate: Candidate) -> int:
    return candidate.distance
