"""Which blob this node repairs, and when it is its turn. A core.

The node tells how its blobs stand; those that lack nothing are forgotten. A case comes due after
its grace, and the holders take turns: the first in rank leads, the others watch for its claim.
`Repair` says that it is our turn and that the budget allows it; the work itself is a read of the
missing shares (`gather`, `rebuilt`) and a job that places them (`distribution`).
Source: docs/reference/audit-and-repair.md.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final

from molia.base.cid import Cid
from molia.base.hashing import purpose_digest
from molia.base.limits import CLAIM_LIFE_MAX_S, CLAIMS_HEEDED_S, REPAIR_CASES_MAX
from molia.base.now import Now
from molia.blobs.standing import Presence, RepairConfig, Standing
from molia.blobs.statements import Kind, Statement

WEEK_S: Final = 604_800
_BURST_S: Final = 60.0
"""Seconds of the bandwidth share that may be spent at once after a rest."""
_RETRY_S: Final = 600.0
_ROUNDING_S: Final = 0.01
"""Waited longer than a debt says, or what is lost to rounding would call us again at once."""


def ranked(keys: Iterable[bytes], *, loc: bytes, unix_s: float) -> list[bytes]:
    """Return holders in the order in which they lead this week's repair of what lies at LOC."""
    week = (int(unix_s) // WEEK_S).to_bytes(4, "big")
    draws = {key: purpose_digest("repair-lead", loc + key + week) for key in keys}
    return sorted(draws, key=lambda key: (draws[key], key))


def rank_of(own: bytes, keys: Iterable[bytes], *, loc: bytes, unix_s: float) -> int:
    """Return how many of the keys lead before `own`, whether or not it is one of them."""
    return ranked((own, *keys), loc=loc, unix_s=unix_s).index(own)


@dataclass(frozen=True, slots=True)
class Repair:
    """Sign a claim until `until_unix_s`, tell the other holders, and repair these shares.

    Say `on_repaired` when it is over.
    """

    cid: Cid
    missing: tuple[int, ...]
    until_unix_s: int


@dataclass(frozen=True, slots=True)
class Stop:
    """Stop repairing this: it is whole again, another claimed it earlier, or time is up."""

    cid: Cid
    reason: str


Effect = Repair | Stop


@dataclass(slots=True)
class _Case:
    loc: bytes
    standing: Standing
    cost_bytes: int
    config: RepairConfig
    since_s: dict[int, float]
    """Losses left -> since when there were no more than so many, without a break."""
    lost_since_s: float | None
    """Since when shares are lost, not only offline."""
    rank: int
    claim: Statement | None = None
    """Another's; once it has run out, turns are counted from its end."""
    claim_ends_s: float = 0.0
    heeded_s: float | None = None
    """Since when claims of others are heeded at all: so long, and not for ever."""
    began_s: float | None = None
    """When our own repair began."""
    own_claim: tuple[int, bytes] | None = None
    not_before_s: float = 0.0
    spent: dict[bytes, None] = field(default_factory=dict)
    """Holders whose claim ran out with nothing repaired."""
    due_s: float = 0.0
    urgency: tuple[int, float] = (0, 0.0)
    """What is done first: the fewest losses left, then the longest wait."""

    def take(self, standing: Standing, now_s: float) -> None:
        """Take how the blob stands now: a time begins when it falls, and ends when it rises."""
        self.standing, left = standing, standing.losses_left
        levels = range(left, max(left, standing.shares - standing.needed - 1) + 1)
        self.since_s = {level: self.since_s.get(level, now_s) for level in levels}
        if not standing.has_lost:
            self.lost_since_s = None
        elif self.lost_since_s is None:
            self.lost_since_s = now_s

        self.due_s = min(self._dues())
        self.urgency = (left, self.due_s)

    def _dues(self) -> Iterator[float]:
        """Yield when repair may begin, by whoever, for each row of the table."""
        for level, since_s in self.since_s.items():
            yield since_s + self.standing.grace_s(level, self.config)
        if self.lost_since_s is not None:
            yield self.lost_since_s + self.config.grace_critical_s


class RepairQueue:
    """The repairs of one node. Times of claims are wall time, all others monotonic."""

    def __init__(self, own: bytes, *, now: Now, config: RepairConfig | None = None) -> None:
        self._own, self.config = own, config or RepairConfig()
        self._cases: dict[Cid, _Case] = {}
        self._effects: list[Effect] = []
        self._budget = self.config.bytes_per_s * _BURST_S
        self._budget_s = now.mono_s
        self.refused = self.bad_claims = 0
        """Cases beyond the bound, and claims that were not heeded."""

    def __len__(self) -> int:
        return len(self._cases)

    def take_effects(self) -> list[Effect]:
        """Return what is to be done now, once."""
        effects, self._effects = self._effects, []
        return effects

    def under_way(self) -> list[Cid]:
        """Return what this node repairs now."""
        return [cid for cid, case in self._cases.items() if case.began_s is not None]

    def waiting(self, now: Now) -> list[tuple[Cid, float]]:
        """Return what waits, the most urgent first, with the seconds until it may be our turn."""
        cases = [(cid, case) for cid, case in self._cases.items() if case.began_s is None]
        cases.sort(key=lambda row: row[1].urgency)
        return [(cid, max(self._turn_s(case) - now.mono_s, 0.0)) for cid, case in cases]

    # ------------------------------------------------------------------ facts

    def on_standing(
        self, cid: Cid, standing: Standing, *, loc: bytes, share_bytes: int, now: Now
    ) -> None:
        """Take how a blob stands that this node holds shares of, or has pinned."""
        case = self._cases.get(cid)
        if not standing.is_repairable:
            self._drop(cid, case, standing)
            return
        if case is None:
            if not self._has_place(standing):
                self.refused += 1
                return
            case = self._cases[cid] = _Case(loc, standing, 0, self.config, {}, None, 0)
        case.take(standing, now.mono_s)
        case.cost_bytes = share_bytes * (standing.needed + len(standing.missing))
        keys = [h.key for h in standing.holdings if h.presence is Presence.HERE]
        case.rank = rank_of(self._own, keys, loc=loc, unix_s=now.unix_s)

    def forget(self, cid: Cid) -> None:
        """Take that this node neither holds shares of the blob nor pins it any more."""
        case = self._cases.pop(cid, None)
        if case is not None and case.began_s is not None:
            self._stop(cid, case, "it is no longer ours")

    def on_claim(self, cid: Cid, claim: Statement, now: Now) -> Statement | None:
        """Take another holder's checked claim; return the one that stands, None: it is this one.

        A claim of somebody who holds nothing, or whose last one came to nothing, is counted and not
        heeded.
        """
        assert claim.kind is Kind.CLAIM, "a claim, not a lease"
        case = self._cases.get(cid)
        if case is None or not claim.lives(now.unix_s):
            return None
        before = case.claim
        if before is not None and not before.lives(now.unix_s):
            case.spent[before.signer.key] = None
            before = case.claim = None
        elif case.claim_ends_s <= now.mono_s:
            before = None  # its signer said that it was done
        holders = [holding.key for holding in case.standing.holdings]
        if claim.signer.key not in holders or claim.signer.key in case.spent:
            self.bad_claims += 1
            return before
        if before is not None and _order(before) <= _order(claim):
            return None if before.signer == claim.signer else before
        case.claim, case.claim_ends_s = claim, now.mono_s + claim.expires - now.unix_s
        if case.heeded_s is None:
            case.heeded_s = now.mono_s
        if case.own_claim is not None and _order(claim) < case.own_claim:
            self._stop(cid, case, "another claimed it earlier")
        return None

    def on_claim_ended(self, cid: Cid, claim: Statement, now: Now) -> bool:
        """Take that the signer of a claim says it is done; tell whether it was heeded."""
        case = self._cases.get(cid)
        if case is None or case.claim is None or case.claim.signer != claim.signer:
            return False
        case.claim_ends_s = min(case.claim_ends_s, now.mono_s)
        return True

    def may_spend(self, size: int, now: Now) -> bool:
        """Tell whether the budget allows what is no repair, and count it: repairs go first."""
        if self.under_way() or self._budget_now(now) < 0:
            return False
        self._budget = self._budget_now(now) - size
        self._budget_s = now.mono_s
        return True

    def on_repaired(self, cid: Cid, *, is_placed: bool, now: Now) -> None:
        """Take that our repair is over. If it failed, others have their turn before us."""
        case = self._cases.get(cid)
        if case is None or case.began_s is None:
            return
        case.began_s = case.own_claim = None
        if is_placed:
            del self._cases[cid]
        else:
            wait_s = _RETRY_S + self.config.takeover_s * len(case.standing.holdings)
            case.not_before_s = now.mono_s + wait_s

    # ------------------------------------------------------------------ time

    def next_deadline_s(self, now: Now) -> float | None:
        """Return when to call `on_deadline`; monotonic."""
        ends = [
            case.began_s + self.config.job_s
            for case in self._cases.values() if case.began_s is not None
        ]  # fmt: skip
        turns = [self._turn_s(c) for c in self._cases.values() if c.began_s is None]
        if turns and len(ends) < self.config.jobs:
            debt = self._budget_now(now)
            wait_s = 0.0 if debt >= 0 else -debt / self.config.bytes_per_s + _ROUNDING_S
            ends.append(max(min(turns), now.mono_s + wait_s))
        return min(ends, default=None)

    def on_deadline(self, now: Now) -> None:
        """Take that it is `now`: begin what is our turn, as far as the budget goes."""
        for cid, case in list(self._cases.items()):
            if case.began_s is not None and now.mono_s >= case.began_s + self.config.job_s:
                self._stop(cid, case, "it took too long")
                case.not_before_s = now.mono_s + _RETRY_S
        due = [
            (case.urgency, cid) for cid, case in self._cases.items()
            if case.began_s is None and self._turn_s(case) <= now.mono_s
        ]  # fmt: skip
        for _, cid in sorted(due):
            if len(self.under_way()) >= self.config.jobs or self._budget_now(now) < 0:
                return
            self._begin(cid, self._cases[cid], now)

    def _turn_s(self, case: _Case) -> float:
        """Return when it is our turn: after those before us, and after a claim has run out."""
        start_s = case.due_s
        if case.claim is not None and case.heeded_s is not None:
            until_s = min(case.claim_ends_s, case.heeded_s + CLAIMS_HEEDED_S)
            start_s = max(start_s, until_s)
        return max(start_s + case.rank * self.config.takeover_s, case.not_before_s)

    def _begin(self, cid: Cid, case: _Case, now: Now) -> None:
        self._budget = self._budget_now(now) - case.cost_bytes
        self._budget_s = now.mono_s
        case.began_s = now.mono_s
        case.own_claim = (int(now.unix_s), self._own)
        life_s = min(int(self.config.job_s), CLAIM_LIFE_MAX_S)
        self._effects.append(Repair(cid, case.standing.missing, int(now.unix_s) + life_s))

    def _budget_now(self, now: Now) -> float:
        """Return the bytes that may be spent; below 0 a repair is being paid off."""
        earned = (now.mono_s - self._budget_s) * self.config.bytes_per_s
        return min(self._budget + earned, self.config.bytes_per_s * _BURST_S)

    def _stop(self, cid: Cid, case: _Case, reason: str) -> None:
        case.began_s = case.own_claim = None
        self._effects.append(Stop(cid, reason))

    def _drop(self, cid: Cid, case: _Case | None, standing: Standing) -> None:
        if case is None:
            return
        if case.began_s is not None:
            gone = standing.losses_left < 0
            self._stop(cid, case, "too few shares are left" if gone else "it is whole again")
        del self._cases[cid]

    def _has_place(self, standing: Standing) -> bool:
        """Make place for a case; False when all are as badly off. Those under way stay."""
        if len(self._cases) < REPAIR_CASES_MAX:
            return True
        idle = [(case.urgency[0], cid) for cid, case in self._cases.items()
                if case.began_s is None]  # fmt: skip
        if not idle or max(idle)[0] <= standing.losses_left:
            return False
        del self._cases[max(idle)[1]]
        return True


def _order(claim: Statement) -> tuple[int, bytes]:
    """Return what claims are compared by: the one that was issued first counts."""
    return claim.issued, claim.signer.key
