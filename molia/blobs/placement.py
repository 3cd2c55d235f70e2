"""Which node gets which share: by node losses survived, by diversity, without needless moves.

With S nodes each gets about n / S shares, so that no node's loss takes more than it must. Shares
stay where they lie as far as that allows, which is a matching of shares and the nodes that have
them. Where nodes are too few for the floor, three of them get a readable set each, at the price of
duplicates, which a later plan gives up once nodes have joined.
Everything here is plain functions: the same candidates give the same plan.
Source: docs/reference/placement.md; Tahoe-LAFS, docs/specifications/servers-of-happiness.rst.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, NamedTuple

from molia.base.limits import (
    DATA_SHARES,
    FULL_HOLDERS,
    SURVIVES_EXACT_MAX,
    TOTAL_SHARES,
    WHOLE_SHARE,
)
from molia.blobs.matching import Level, keep_most

ALL_SHARES: Final = tuple(range(TOTAL_SHARES))


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A reachable node that offers space, or has shares of the blob already."""

    key: bytes
    room_bytes: int
    """What it takes beside what it holds."""
    group: bytes = b""
    """Its address group: a /24, or the address where nothing is bound to addresses."""
    asn: int = 0
    """Its operator by the routing tables; 0: unknown."""
    operator: str = ""
    """What it calls its operator; empty: nothing."""
    held: tuple[int, ...] = ()
    """Shares of this blob that it holds, known to be sound as far as audits say."""


class Place(NamedTuple):
    """A share at a node."""

    share: int
    key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Where shares shall lie."""

    places: tuple[Place, ...]
    """All of them, in order of shares, those that lie there already included."""
    moves: tuple[Place, ...]
    """Those that do not lie there yet."""
    surplus: tuple[Place, ...]
    """What lies where the plan has no use for it: once the moves are done, renew its lease no more.
    It stays until then, for holders that went away once do so again."""
    unplaced: tuple[int, ...]
    """Shares for which there was no room anywhere."""
    survives: int
    """How many nodes may vanish, whichever, once the moves are done."""


# ---------------------------------------------------------------------------- losses survived


def losses_survived(holdings: Iterable[Collection[int]], *, needed: int = DATA_SHARES) -> int:
    """Return how many nodes may vanish, whichever they are, with `needed` distinct shares left.

    holdings: the shares of each node. -1 when it is too late already. With duplicates among more
    than 16 shares the answer may be too low, never too high: each share then counts once.
    """
    masks = _holder_masks(holdings)
    doomed = len(masks) - needed + 1
    if doomed <= 0:
        return -1
    if len(masks) > SURVIVES_EXACT_MAX or all(mask.bit_count() == 1 for mask in masks):
        return _survived_by_single(masks, spare=doomed - 1)
    # the blob is lost when some `doomed` shares are: with all nodes that hold any of them
    return min(_union(chosen).bit_count() for chosen in combinations(masks, doomed)) - 1


def _holder_masks(holdings: Iterable[Collection[int]]) -> list[int]:
    """Return for each share, in order, a bit for each of its holders."""
    masks: dict[int, int] = {}
    for index, shares in enumerate(holdings):
        for share in shares:
            masks[share] = masks.get(share, 0) | 1 << index
    return [masks[share] for share in sorted(masks)]


def _survived_by_single(masks: Sequence[int], *, spare: int) -> int:
    """Return the answer when each share counts at one holder: its least loaded."""
    loads: dict[int, int] = {}
    for mask in sorted(masks, key=int.bit_count):
        holders = [bit for bit in range(mask.bit_length()) if mask >> bit & 1]
        best = min(holders, key=lambda bit: loads.get(bit, 0))
        loads[best] = loads.get(best, 0) + 1
    survived = 0
    for load in sorted(loads.values(), reverse=True):
        spare -= load
        if spare < 0:
            break
        survived += 1
    return survived


def _union(masks: Iterable[int]) -> int:
    union = 0
    for mask in masks:
        union |= mask
    return union


# ---------------------------------------------------------------------------- large blobs


def plan_shares(
    candidates: Sequence[Candidate], *, share_bytes: int, floor: int = 0,
    shares: Sequence[int] = ALL_SHARES, needed: int = DATA_SHARES,
) -> Plan:  # fmt: skip
    """Return where the shares of a blob shall lie.

    candidates: in order of preference, each key once. share_bytes: the largest share's size.
    floor: losses to survive; where that cannot be for want of nodes, up to three nodes get
    `needed` shares each, if that survives more. needed: how many of `shares` give the blob back.
    """
    usable = [c for c in candidates if _capacity(c, share_bytes) > 0]
    chosen = _choose(usable, shares, share_bytes)
    capacities = [_capacity(c, share_bytes) for c in chosen]
    level = Level.of(capacities, len(shares))
    homes = keep_most([c.held for c in chosen], shares, level)
    loads = _fill(homes, shares, level, chosen)
    holdings = [_shares_at(homes, index) for index in range(len(chosen))]
    survives = losses_survived(holdings, needed=needed)
    if survives < floor and len(chosen) < len(shares):
        fuller = _with_full_holders(chosen, capacities, holdings, loads, shares, needed)
        if losses_survived(fuller, needed=needed) > survives:
            holdings = fuller
    return _plan(candidates, chosen, holdings, shares, needed)


def _capacity(candidate: Candidate, share_bytes: int) -> int:
    return len(candidate.held) + max(candidate.room_bytes, 0) // max(share_bytes, 1)


def _choose(
    usable: Sequence[Candidate], shares: Sequence[int], share_bytes: int
) -> list[Candidate]:
    """Return at most as many nodes as there are shares: holders, then those that differ most."""
    if len(usable) <= len(shares):
        return list(usable)
    one_each = Level(tuple(1 for _ in usable), tuple(False for _ in usable), 0)
    kept = keep_most([c.held for c in usable], shares, one_each)
    holders = [c for index, c in enumerate(usable) if index in kept.values()]
    fresh = [
        c for index, c in enumerate(usable)
        if index not in kept.values() and c.room_bytes >= share_bytes
    ]  # fmt: skip
    return [*holders, *most_diverse(fresh, len(shares) - len(holders), beside=holders)]


def most_diverse(
    candidates: Sequence[Candidate], count: int, *, beside: Sequence[Candidate] = ()
) -> list[Candidate]:
    """Return up to `count` candidates, each the least like those chosen before it.

    Sharing an address group weighs more than sharing an ASN, and that more than an operator's
    label; of equals the earlier one is taken.
    """
    left, chosen = list(candidates), list(beside)
    while left and len(chosen) - len(beside) < count:
        best = min(range(len(left)), key=lambda index: _likeness(left[index], chosen))
        chosen.append(left.pop(best))
    return chosen[len(beside) :]


def _likeness(candidate: Candidate, chosen: Sequence[Candidate]) -> tuple[int, int, int]:
    group, asn, operator = candidate.group, candidate.asn, candidate.operator
    return (
        sum(1 for other in chosen if group and other.group == group),
        sum(1 for other in chosen if asn and other.asn == asn),
        sum(1 for other in chosen if operator and other.operator == operator),
    )


def _fill(
    homes: dict[int, int], shares: Sequence[int], level: Level, chosen: Sequence[Candidate]
) -> list[int]:
    """Give each share without a home the least loaded node with room; return the loads."""
    loads = [0] * len(chosen)
    for index in homes.values():
        loads[index] += 1
    for share in shares:
        open_nodes = [i for i in range(len(chosen)) if level.has_room(loads, i)]
        if share not in homes and open_nodes:
            homes[share] = min(open_nodes, key=lambda index: (loads[index], index))
            loads[homes[share]] += 1
    return loads


def _shares_at(homes: dict[int, int], index: int) -> list[int]:
    return sorted(share for share, home in homes.items() if home == index)


def _with_full_holders(
    chosen: Sequence[Candidate], capacities: Sequence[int], holdings: Sequence[Sequence[int]],
    loads: Sequence[int], shares: Sequence[int], needed: int,
) -> list[list[int]]:  # fmt: skip
    """Return the holdings with up to three nodes filled to a readable set each.

    The least loaded are taken: what the others hold is what is left when all three are lost.
    """
    able = [index for index, capacity in enumerate(capacities) if capacity >= needed]
    full = sorted(able, key=lambda index: (len(chosen[index].held) < needed, loads[index]))
    fuller = [list(held) for held in holdings]
    for index in full[:FULL_HOLDERS]:
        mine, before = fuller[index], chosen[index].held
        for share in sorted(shares, key=lambda share: share not in before):
            if len(mine) < needed and share not in mine:
                mine.append(share)
        mine.sort()
    return fuller


def _plan(
    candidates: Sequence[Candidate], chosen: Sequence[Candidate],
    holdings: Sequence[Sequence[int]], shares: Sequence[int], needed: int,
) -> Plan:  # fmt: skip
    places = sorted(
        Place(share, chosen[index].key) for index, held in enumerate(holdings) for share in held
    )
    lying = sorted(Place(share, c.key) for c in candidates for share in c.held)
    placed = {place.share for place in places}
    return Plan(
        places=tuple(places),
        moves=tuple(place for place in places if place not in lying),
        surplus=tuple(place for place in lying if place not in places),
        unplaced=tuple(share for share in shares if share not in placed),
        survives=losses_survived(holdings, needed=needed),
    )


# ---------------------------------------------------------------------------- small blobs


def plan_copies(candidates: Sequence[Candidate], *, size: int, copies: int) -> Plan:
    """Return which nodes shall keep a small blob of `size` bytes: holders first, then unlike ones.

    It survives one loss less than there are copies; with fewer nodes than `copies` each has one.
    """
    holders = [c for c in candidates if WHOLE_SHARE in c.held]
    fresh = [c for c in candidates if WHOLE_SHARE not in c.held and c.room_bytes >= size]
    if len(holders) > copies:
        holders = most_diverse(holders, copies)
    chosen = [*holders, *most_diverse(fresh, copies - len(holders), beside=holders)]
    plan = _plan(candidates, chosen, [[WHOLE_SHARE]] * len(chosen), [WHOLE_SHARE], 1)
    return Plan(
        places=plan.places, moves=plan.moves, surplus=plan.surplus, unplaced=plan.unplaced,
        survives=len(chosen) - 1,
    )  # fmt: skip
