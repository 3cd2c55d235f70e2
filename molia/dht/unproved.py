"""Who answered us, and how seldom we may write to who did not.

Peers name addresses: in NODES, by saying that they serve, by asking to be dialled. None of them may
make this node a weapon: to a host that never answered under that key it sends at most one packet a
minute, and to one network at most a few, whoever asks for it and however often.
Source: docs/reference/dht.md, "Unproved addresses".
"""

from collections import OrderedDict
from typing import Final

from molia.base import limits
from molia.dht.contact import Contact
from molia.wire.addresses import host_key, pack_host

UNPROVED_GAP_S: Final = 60.0


class Unproved:
    """The addresses that proved themselves, and the last tries at those that did not."""

    def __init__(self, *, per_group: int, workers: int = 1) -> None:
        """per_group: hosts of one network that may be tried in a minute.

        workers: of the node. Each has its own memory, so each waits that many times as long.
        """
        self._per_group, self._gap_s = per_group, UNPROVED_GAP_S * workers
        self._proved: OrderedDict[tuple[bytes, tuple[str, int]], None] = OrderedDict()
        self._tried: OrderedDict[bytes, tuple[float, bytes]] = OrderedDict()
        """When a host was tried, and its group; the oldest first."""
        self._group_tries: dict[bytes, int] = {}

    def __len__(self) -> int:
        return len(self._tried)

    def prove(self, contact: Contact) -> None:
        """Take note that a contact answered."""
        name = (contact.key.key, contact.address)
        self._proved[name] = None
        self._proved.move_to_end(name)
        if len(self._proved) > limits.DHT_PROVED_MAX:
            self._proved.popitem(last=False)

    def is_proved(self, contact: Contact) -> bool:
        """Tell whether this key answered from this address lately enough to be remembered."""
        return (contact.key.key, contact.address) in self._proved

    def may(self, contact: Contact, now_s: float) -> bool:
        """Tell whether a packet may go to a contact now."""
        if self.is_proved(contact):
            return True
        self._forget_old(now_s)
        return (
            _host(contact) not in self._tried
            and len(self._tried) < limits.DHT_UNPROVED_MAX
            and self._group_tries.get(contact.group, 0) < self._per_group
        )

    def spend(self, contact: Contact, now_s: float) -> bool:
        """As `may`, and count the packet."""
        if not self.may(contact, now_s):
            return False
        if not self.is_proved(contact):
            self._tried[_host(contact)] = (now_s, contact.group)
            self._group_tries[contact.group] = self._group_tries.get(contact.group, 0) + 1
        return True

    def _forget_old(self, now_s: float) -> None:
        """Drop the tries that are old enough."""
        tried = self._tried
        while tried and next(iter(tried.values()))[0] <= now_s - self._gap_s:
            _, (_, group) = tried.popitem(last=False)
            left = self._group_tries[group] - 1
            if left:
                self._group_tries[group] = left
            else:
                del self._group_tries[group]


def _host(contact: Contact) -> bytes:
    """Return what one third party is counted by: a machine, and on local networks a socket."""
    if contact.is_local:
        return contact.group
    packed = pack_host(contact.address[0])
    assert packed is not None, "a contact has a numeric address"
    return host_key(packed)
