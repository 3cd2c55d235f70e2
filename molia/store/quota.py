"""Who may store how much: the whole quota, what is offered to others, and each owner's part.

The whole counts disk bytes, as the shards tell them: logs with their parity and garbage, indexes,
deltas, ballast. What belongs to an owner is counted in the bytes of the shares it keeps here. The
counts are made again from the leases at start: `charge` each, then admit.
"""

from dataclasses import dataclass
from typing import Final

from molia.base.errors import NoSpace
from molia.base.limits import OWNERS_MAX, QUOTA_HIGH_SHARE, QUOTA_PRESS_SHARE

OWN: Final = b""
"""This node itself, as an owner: bound by the whole quota alone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuotaLimits:
    """The bounds, in bytes."""

    total_bytes: int
    """Disk bytes that the store may take."""
    offer_bytes: int = 0
    """What all others may keep here together; 0 for nothing."""
    owner_bytes: int = 0
    """What one other owner may keep here; 0 for all that is offered."""

    @property
    def high_mark(self) -> int:
        """Disk bytes above which nothing is admitted; the rest is for deletes and compaction."""
        return int(self.total_bytes * QUOTA_HIGH_SHARE)

    @property
    def press_mark(self) -> int:
        """Disk bytes above which compaction takes less garbage as well."""
        return int(self.total_bytes * QUOTA_PRESS_SHARE)


class Quota:
    """What each owner keeps here, and whether more may come."""

    def __init__(self, limits: QuotaLimits) -> None:
        self.limits = limits
        self._owners: dict[bytes, int] = {}
        self.lent_bytes = 0
        """What all others keep here."""
        self.refused: dict[str, int] = {"total": 0, "offer": 0, "owner": 0, "owners": 0}
        """How often something was refused, by the bound that it met."""

    def used_by(self, owner: bytes) -> int:
        """Return what an owner keeps here."""
        return self._owners.get(owner, 0)

    @property
    def owner_count(self) -> int:
        """The number of owners that keep something here."""
        return len(self._owners)

    def admit(self, owner: bytes, size: int, *, disk_bytes: int) -> None:
        """Return if `size` more bytes of an owner may come. Raises NoSpace.

        disk_bytes: what the store takes on the disk now.
        """
        limits = self.limits
        if disk_bytes + size > limits.high_mark:
            self._refuse("total", f"the store's quota of {limits.total_bytes} bytes is used up")
        if owner == OWN:
            return
        if self.lent_bytes + size > limits.offer_bytes:
            self._refuse("offer", f"the {limits.offer_bytes} bytes offered to others are used up")
        bound = limits.owner_bytes or limits.offer_bytes
        if self.used_by(owner) + size > bound:
            self._refuse("owner", f"one owner may keep {bound} bytes here")
        if owner not in self._owners and len(self._owners) >= OWNERS_MAX:
            self._refuse("owners", f"{OWNERS_MAX} owners keep something here already")

    def charge(self, owner: bytes, size: int) -> None:
        """Count bytes that an owner now keeps here."""
        assert size >= 0, "what goes is refunded"
        self._owners[owner] = self.used_by(owner) + size
        if owner != OWN:
            self.lent_bytes += size

    def refund(self, owner: bytes, size: int) -> None:
        """Count bytes that an owner keeps here no more; never below nothing."""
        left = self.used_by(owner)
        size = min(size, left)
        if owner != OWN:
            self.lent_bytes -= size
        if left == size:
            self._owners.pop(owner, None)
        else:
            self._owners[owner] = left - size

    def is_pressed(self, disk_bytes: int) -> bool:
        """Tell whether so little is left that compaction is to work harder."""
        return disk_bytes > self.limits.press_mark

    def _refuse(self, bound: str, reason: str) -> None:
        self.refused[bound] += 1
        raise NoSpace(reason, hint="delete something, or raise store.quota_bytes")
