"""How full a store may be: marks on the disk bytes that its shards tell.

Those bytes are logs with their parity and garbage, indexes, deltas and ballast. What others may
keep here within the quota is the affair of `blobs/leases.py`.
"""

from dataclasses import dataclass

from molia.base.limits import QUOTA_HIGH_SHARE, QUOTA_PRESS_SHARE


@dataclass(frozen=True, slots=True)
class QuotaMarks:
    """The marks of a quota, in bytes."""

    total_bytes: int
    """Disk bytes that the store may take."""

    @property
    def high(self) -> int:
        """Disk bytes above which nothing is admitted; the rest is for deletes and compaction."""
        return int(self.total_bytes * QUOTA_HIGH_SHARE)

    @property
    def press(self) -> int:
        """Disk bytes above which cached blobs go and compaction takes less garbage as well."""
        return int(self.total_bytes * QUOTA_PRESS_SHARE)
