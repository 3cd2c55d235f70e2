"""Contacts that died: a network that falls apart heals by what its halves remember of each other.

Source: docs/reference/routing-table.md, "Graveyard".
"""

from collections.abc import Sequence
from typing import Final, NamedTuple

from molia.base.ids import PeerKey
from molia.base.limits import GRAVES_MAX
from molia.dht.contact import Contact

PROBE_INTERVAL_S: Final = 5.0
GROUP_GRAVES_MAX: Final = 8
"""Graves of one group: beyond it a new one takes the place of the group's oldest."""
FRESH_S: Final = 60.0
"""So long after a burial others may still name the dead: it is not worth asking."""


class Grave(NamedTuple):
    """One contact that was good once."""

    contact: Contact
    buried_s: float


class Graveyard:
    """At most `size` contacts that were verified once and died, of many groups."""

    __slots__ = ("_graves", "_groups", "_hurried", "_probed_s", "_round", "_size")

    def __init__(self, *, size: int = GRAVES_MAX) -> None:
        assert 0 < size <= GRAVES_MAX
        self._size = size
        self._graves: dict[bytes, Grave] = {}
        self._groups: dict[bytes, int] = {}
        self._round: list[Contact] = []
        self._hurried = False
        self._probed_s: float | None = None

    def __len__(self) -> int:
        return len(self._graves)

    def __contains__(self, key: PeerKey) -> bool:
        return key.key in self._graves

    def contacts(self) -> list[Contact]:
        """Return them all, the longest buried first."""
        return [grave.contact for grave in self._graves.values()]

    def is_fresh(self, key: PeerKey, now_s: float) -> bool:
        """Tell whether this node died a moment ago, so that others may not know it yet."""
        grave = self._graves.get(key.key)
        return grave is not None and now_s - grave.buried_s < FRESH_S

    def bury(self, contact: Contact, now_s: float) -> None:
        """Take a contact that died; one of the same key is replaced."""
        self.remove(contact.key)
        if self._groups.get(contact.group, 0) >= GROUP_GRAVES_MAX:
            graves = self._graves.values()
            self.remove(next(g.contact.key for g in graves if g.contact.group == contact.group))
        elif len(self._graves) >= self._size:
            self.remove(next(iter(self._graves.values())).contact.key)
        self._graves[contact.key.key] = Grave(contact, now_s)
        self._groups[contact.group] = self._groups.get(contact.group, 0) + 1

    def remove(self, key: PeerKey) -> None:
        """Forget a contact, since it lives or for want of room; an unknown one is fine."""
        grave = self._graves.pop(key.key, None)
        if grave is not None:
            left = self._groups.pop(grave.contact.group) - 1
            if left:
                self._groups[grave.contact.group] = left

    def doubt(self, key: PeerKey) -> None:
        """Take that whoever has this key said something: it is worth asking."""
        grave = self._graves.get(key.key)
        if grave is not None:
            self._graves[key.key] = grave._replace(buried_s=float("-inf"))

    # -- probing

    def hurry(self) -> None:
        """Let every grave be probed at once: the network shrank, or our link changed."""
        self._round = self.contacts()
        self._hurried = bool(self._round)

    def take_probe(self, now_s: float) -> Contact | None:
        """Return whom to ask now whether it is back; None when nobody is due.

        One in five seconds, the last buried first, round and round; after `hurry` all of them.
        """
        if self._hurried:
            contact = self._next()
            self._hurried = bool(self._round)
        elif now_s < (self.next_probe_s(now_s) or now_s):
            return None
        else:
            self._round = self._round or self.contacts()
            contact = self._next()
        if contact is not None:
            self._probed_s = now_s
        return contact

    def _next(self) -> Contact | None:
        while self._round:
            grave = self._graves.get(self._round.pop().key.key)
            if grave is not None:
                return grave.contact
        return None

    def next_probe_s(self, now_s: float) -> float | None:
        """Return when `take_probe` has somebody next; None while nobody is buried."""
        if not self._graves:
            return None
        if self._hurried or self._probed_s is None:
            return now_s
        return self._probed_s + PROBE_INTERVAL_S

    def restore(self, contacts: Sequence[Contact]) -> None:
        """Take the contacts of a snapshot; they count as buried long ago."""
        for contact in contacts:
            if contact.key not in self:
                self.bury(contact, float("-inf"))
