"""How a blob stands: which of its shares can be reached, and how long to wait for the others.

Source: docs/reference/audit-and-repair.md, "When repair begins".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final

from molia.base.limits import COPIES_MIN, DATA_SHARES, TOTAL_SHARES
from molia.blobs.placement import losses_survived

_FULL: Final = TOTAL_SHARES - DATA_SHARES
_ABSENCE_FACTOR: Final = 2


class Presence(Enum):
    """What is known of a share at a holder."""

    HERE = "here"
    OFFLINE = "offline"
    """The holder does not answer: it may come back."""
    LOST = "lost"
    """Audits failed, or the holder says that it has it no more."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """A share at a holder."""

    share: int
    key: bytes
    presence: Presence
    longest_absence_s: float = 0.0
    """The longest that this holder was away and came back from."""


class State(Enum):
    """What `stat` calls a blob."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    CRITICAL = "critical"
    """One more loss loses it."""
    LOST = "lost"
    """It cannot be read now; nodes that come back may change that."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairConfig:
    """When and how much a node repairs."""

    grace_min_s: float = 4 * 3_600.0
    grace_max_s: float = 24 * 3_600.0
    """The full grace is between these, by the holders' history."""
    grace_low_s: float = 3_600.0
    """The longest grace with one or two losses left."""
    grace_critical_s: float = 60.0
    """The grace with none left, and for shares that are lost and not only offline."""
    takeover_s: float = 600.0
    """After so long without a claim the next in rank takes over."""
    job_s: float = 45 * 60.0
    jobs: int = 2
    """Repairs of one node at once."""
    bytes_per_s: float = 4e6
    """What repair may read and write, in the long run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What is left of a blob."""

    holdings: tuple[Holding, ...]
    shares: int = TOTAL_SHARES
    """How many it shall have."""
    needed: int = DATA_SHARES

    @property
    def listed(self) -> int:
        """How many every blob has: the shares of a manifest, or the copies of a small blob."""
        return COPIES_MIN if self.needed == 1 else TOTAL_SHARES

    @property
    def reachable(self) -> tuple[int, ...]:
        """The distinct shares that can be read now."""
        here = [h.share for h in self.holdings if h.presence is Presence.HERE]
        return tuple(sorted(dict.fromkeys(here)))

    @property
    def absent(self) -> tuple[bytes, ...]:
        """The holders that do not answer now."""
        away = [h.key for h in self.holdings if h.presence is Presence.OFFLINE]
        return tuple(dict.fromkeys(away))

    @property
    def missing(self) -> tuple[int, ...]:
        """The shares that are to be made again, as soon as their grace is over.

        Those that cannot be read now; where there is added parity, and as many as without it can
        be read, not those whose holders are only away: that is what it was added for.
        """
        here = self.reachable
        lacking = [share for share in range(self.shares) if share not in here]
        if self.shares > self.listed and len(here) >= self.listed:
            away = [h.share for h in self.holdings if h.presence is Presence.OFFLINE]
            lacking = [share for share in lacking if share not in away]
        return tuple(lacking)

    @property
    def losses_left(self) -> int:
        """How many more shares may go."""
        return len(self.reachable) - self.needed

    @property
    def has_lost(self) -> bool:
        """Whether a share that is missing is lost, not only offline, or known nowhere at all.

        Added parity that nobody has made yet is not lost.
        """
        offline = [h.share for h in self.holdings if h.presence is Presence.OFFLINE]
        known = [h.share for h in self.holdings]
        lost = [share for share in self.missing if share not in offline]
        return any(share < self.listed or share in known for share in lost)

    @property
    def survives(self) -> int:
        """How many nodes may vanish; -1: it cannot be read now."""
        by_node: dict[bytes, list[int]] = {}
        for holding in self.holdings:
            if holding.presence is Presence.HERE:
                by_node.setdefault(holding.key, []).append(holding.share)
        return losses_survived(by_node.values(), needed=self.needed)

    @property
    def state(self) -> State:
        """What to call it."""
        if self.losses_left < 0:
            return State.LOST
        if self.losses_left == 0:
            return State.CRITICAL
        is_whole = len(self.reachable) >= self.listed or not self.missing
        return State.HEALTHY if is_whole else State.DEGRADED

    @property
    def is_repairable(self) -> bool:
        """Whether shares are missing and enough are left to make them again."""
        return bool(self.missing) and self.losses_left >= 0

    def grace_s(self, losses_left: int, config: RepairConfig) -> float:
        """Return how long the blob may have had no more than so many losses left."""
        if losses_left <= 0:
            return config.grace_critical_s
        full_s = full_grace_s(self.offline(), config)
        return full_s if losses_left >= _FULL - 1 else min(full_s, config.grace_low_s)

    def offline(self) -> list[Holding]:
        """Return what would be here again if its holder came back."""
        missing = self.missing
        return [
            h for h in self.holdings
            if h.presence is Presence.OFFLINE and h.share in missing
        ]  # fmt: skip


def full_grace_s(offline: Sequence[Holding], config: RepairConfig) -> float:
    """Return the full grace: twice the longest absence that a holder came back from."""
    longest_s = max((h.longest_absence_s for h in offline), default=0.0)
    return min(max(_ABSENCE_FACTOR * longest_s, config.grace_min_s), config.grace_max_s)
