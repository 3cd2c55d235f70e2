"""Shares that lie doubled up: whose turn it is to move them, and which a holder may let go. A core.

A node has two shares of a blob where nodes were few, or where a repair found no others. When nodes
join, those that have more than one send what the plan gives to others, one after the other, as in
a repair: so of what is survived nothing is lost on the way. What was sent stays at both for a
day; then the old holder lets go of what it has seen itself to be sound elsewhere.
Source: docs/reference/audit-and-repair.md, "Spreading".
"""

from collections import OrderedDict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from molia.base.cid import Cid
from molia.base.limits import DATA_SHARES, SPREADS_MAX, TOTAL_SHARES
from molia.base.now import Now
from molia.blobs.placement import Place, losses_survived
from molia.blobs.repair import rank_of
from molia.blobs.standing import RepairConfig

ENOUGH: Final = TOTAL_SHARES - DATA_SHARES
"""Losses survived beyond which copies are given up."""
_CROWD: Final = 2
_REST_TURNS: Final = 6
_REST_TURNS_MAX: Final = 48
_PACE_TURNS: Final = 0.1
"""Of a takeover: how soon another blob is tried when one found nobody new."""
Held = Mapping[bytes, Collection[int]]
"""The shares of each node that answers."""


def is_crowded(own: Collection[int], others: Held, *, stored: Sequence[int]) -> bool:
    """Tell whether a node that joins could take over a share of those that we have."""
    elsewhere = {share for shares in others.values() for share in shares}
    alone = [share for share in own if share not in elsewhere]
    are_few = len(others) + 1 < len(stored)
    return len(alone) >= _CROWD or (are_few and len(own) >= _CROWD)


def may_let_go(
    held: Held, own: bytes, settled: Collection[Place], *, needed: int = DATA_SHARES
) -> tuple[int, ...]:
    """Return the shares that `own` need not have: without them as many losses are survived.

    settled: what has long been sound at others. At least one share stays. For a thread.
    """
    ours = set(held.get(own, ()))
    left: dict[bytes, Collection[int]] = {key: held[key] for key in held if key != own}
    wanted = min(losses_survived([ours, *left.values()], needed=needed), ENOUGH)
    elsewhere = {
        share: sum(Place(share, key) in settled for key, shares in left.items() if share in shares)
        for share in ours
    }
    gone = []
    for share in sorted(ours, key=lambda share: (-elsewhere[share], share)):
        fewer = ours - {share}
        if not elsewhere[share] or not fewer:
            continue
        if losses_survived([fewer, *left.values()], needed=needed) >= wanted:
            ours = fewer
            gone.append(share)
    return tuple(sorted(gone))


@dataclass(slots=True)
class _Case:
    due_s: float
    """When whoever leads may begin."""
    rank: int = 0
    is_ripe: bool = False
    """Something may be let go of, whether or not anybody joined."""
    tries: int = 0
    """Those that found nobody new."""
    rests_until_s: float = 0.0
    claimed_until_s: float = 0.0


class SpreadQueue:
    """The blobs of one node with shares that lie doubled up; one is spread at a time."""

    def __init__(self, own: bytes, *, config: RepairConfig | None = None) -> None:
        self._own, self.config = own, config or RepairConfig()
        self._cases: OrderedDict[Cid, _Case] = OrderedDict()
        self._running: Cid | None = None
        self._not_before_s = float("-inf")

    def __len__(self) -> int:
        return len(self._cases)

    @property
    def running(self) -> Cid | None:
        """What is being spread now."""
        return self._running

    def on_crowded(
        self, cid: Cid, leaders: Sequence[bytes], *, loc: bytes, is_ripe: bool = False, now: Now
    ) -> None:
        """Take a blob that lacks nothing and lies doubled up; leaders: who else could spread it.

        is_ripe: something of it may be let go of here. The one that was told of first is forgotten
        beyond the bound: the next look tells of it.
        """
        case = self._cases.get(cid)
        if case is None:
            case = self._cases[cid] = _Case(now.mono_s + self.config.grace_low_s)
        if is_ripe and not case.is_ripe:
            case.rests_until_s = 0.0
        case.is_ripe = is_ripe
        case.rank = rank_of(self._own, leaders, loc=loc, unix_s=now.unix_s)
        while len(self._cases) > SPREADS_MAX:
            self._cases.popitem(last=False)

    def forget(self, cid: Cid) -> None:
        """Take that a blob lacks shares, is not crowded, or is no longer ours."""
        self._cases.pop(cid, None)

    def on_claim(self, cid: Cid, until_s: float) -> None:
        """Take that another node is at it until then, in monotonic seconds."""
        case = self._cases.get(cid)
        if case is not None:
            case.claimed_until_s = max(case.claimed_until_s, until_s)

    def on_claim_ended(self, cid: Cid, now: Now) -> None:
        """Take that it is no longer."""
        case = self._cases.get(cid)
        if case is not None:
            case.claimed_until_s = now.mono_s

    def is_claimed(self, cid: Cid, now: Now) -> bool:
        """Tell whether another node is at it."""
        case = self._cases.get(cid)
        return case is not None and case.claimed_until_s > now.mono_s

    def begin(self, now: Now) -> Cid | None:
        """Return the blob whose turn it is now; None: there is none, or one is under way."""
        if self._running is not None or now.mono_s < self._not_before_s:
            return None
        turns = [(self._turn_s(case), cid) for cid, case in self._cases.items()]
        due_s, cid = min(turns, default=(0.0, None))
        if cid is None or due_s > now.mono_s:
            return None
        self._running = cid
        return cid

    def on_spread(self, cid: Cid, *, is_better: bool, now: Now) -> None:
        """Take that our try is over. One that found nobody new is made again later and later."""
        assert cid == self._running, "one at a time"
        self._running = None
        if is_better:
            self._cases.pop(cid, None)
            return
        self._not_before_s = now.mono_s + _PACE_TURNS * self.config.takeover_s
        case = self._cases.get(cid)
        if case is not None:
            turns = min(_REST_TURNS * 2**case.tries, _REST_TURNS_MAX)
            case.tries = min(case.tries + 1, _REST_TURNS_MAX)
            case.rests_until_s = now.mono_s + turns * self.config.takeover_s

    def _turn_s(self, case: _Case) -> float:
        due_s = case.due_s + case.rank * self.config.takeover_s
        return max(due_s, case.rests_until_s, case.claimed_until_s)
