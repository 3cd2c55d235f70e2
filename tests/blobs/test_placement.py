"""Placement: losses survived, even and unlike holders, nothing moved without need."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molia.base.limits import TOTAL_SHARES, WHOLE_SHARE
from molia.blobs.matching import Level, keep_most
from molia.blobs.placement import (
    Candidate,
    Place,
    Plan,
    losses_survived,
    most_diverse,
    plan_copies,
    plan_shares,
)
from tests.blobs import placement_oracle as oracle

MIB = 2**20


def node(
    number: int, *, held: tuple[int, ...] = (), room: int = 100 * MIB, group: str = "",
    asn: int = 0, operator: str = "",
) -> Candidate:  # fmt: skip
    """A candidate."""
    return Candidate(key=bytes([number]) * 32, room_bytes=room, held=held, group=group.encode(),
                     asn=asn, operator=operator)  # fmt: skip


def nodes(count: int) -> list[Candidate]:
    """Nodes that are alike and hold nothing."""
    return [node(number) for number in range(count)]


def after(candidates: list[Candidate], plan: Plan) -> list[Candidate]:
    """The candidates once a plan was carried out and what it has no use for is gone."""
    held = {c.key: tuple(sorted(p.share for p in plan.places if p.key == c.key))
            for c in candidates}  # fmt: skip
    return [
        replace(
            c, held=held[c.key], room_bytes=c.room_bytes + (len(c.held) - len(held[c.key])) * MIB
        )
        for c in candidates
    ]


def plan_of(candidates: list[Candidate], *, floor: int = 0) -> Plan:
    """A plan for shares of 1 MiB, checked."""
    plan = plan_shares(candidates, share_bytes=MIB, floor=floor)
    holdings = [[p.share for p in plan.places if p.key == c.key] for c in candidates]
    assert plan.survives == losses_survived(holdings)
    lying = {Place(share, c.key) for c in candidates for share in c.held}
    assert set(plan.moves) == set(plan.places) - lying
    assert set(plan.surplus) == lying - set(plan.places)
    assert {p.share for p in plan.places} | set(plan.unplaced) == set(range(TOTAL_SHARES))
    return plan


holdings = st.lists(st.lists(st.integers(0, 13), unique=True, max_size=14), max_size=7)


@given(holdings, st.integers(1, 10))
@settings(max_examples=60)
def test_losses_survived_equals_trying_all_losses(held: list[list[int]], needed: int) -> None:
    assert losses_survived(held, needed=needed) == oracle.losses_survived(held, needed)


@given(st.lists(st.lists(st.integers(0, 19), unique=True, max_size=12), max_size=7))
@settings(max_examples=60)
def test_with_many_shares_it_never_promises_too_much(held: list[list[int]]) -> None:
    assert losses_survived(held) <= oracle.losses_survived(held)


@pytest.mark.parametrize(
    ("count", "survives"),
    [*[(n, 0) for n in (1, 2, 3)], *[(n, 1) for n in (4, 5, 6)],
     *[(n, 2) for n in range(7, 13)], (13, 3), (14, 4), (20, 4)],
)  # fmt: skip
def test_as_many_losses_are_survived_as_the_nodes_allow(count: int, survives: int) -> None:
    plan = plan_of(nodes(count))
    assert plan.survives == survives
    assert len(plan.places) == TOTAL_SHARES
    per_node = [sum(1 for p in plan.places if p.key == c.key) for c in nodes(count)]
    assert max(per_node) == -(-TOTAL_SHARES // min(count, TOTAL_SHARES))
    if count < 10:  # the oracle tries every set of nodes
        held = [[p.share for p in plan.places if p.key == c.key] for c in nodes(count)]
        assert oracle.losses_survived(held) == survives


@given(
    st.lists(st.tuples(st.integers(0, 4), st.lists(st.integers(0, 4), unique=True, max_size=3)),
             min_size=1, max_size=3),
    st.integers(1, 5),
)  # fmt: skip
@settings(max_examples=150)
def test_no_even_layout_keeps_more_shares_where_they_are(
    rows: list[tuple[int, list[int]]], count: int
) -> None:
    held = [[share for share in mine if share < count] for _, mine in rows]
    capacities = [room + len(mine) for (room, _), mine in zip(rows, held, strict=True)]
    layouts = list(oracle.even_layouts(capacities, count))
    kept = keep_most(held, range(count), Level.of(capacities, count))
    assert all(share in held[index] for share, index in kept.items())
    if layouts:
        best = max(sum(share in held[at] for share, at in enumerate(row)) for row in layouts)
        assert len(kept) == best


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sets(st.integers(0, 13), max_size=4)), max_size=16),
    st.integers(0, 4),
)
@settings(max_examples=100)
def test_a_plan_that_was_carried_out_asks_for_nothing_more(
    rows: list[tuple[int, set[int]]], floor: int
) -> None:
    before = [
        node(number, room=room * MIB, held=tuple(sorted(held)))
        for number, (room, held) in enumerate(rows)
    ]
    plan = plan_of(before, floor=floor)
    again = plan_of(after(before, plan), floor=floor)
    assert again.survives >= plan.survives
    if not plan.unplaced and floor == 0:
        assert (again.moves, again.surplus) == ((), ())


def test_what_is_well_placed_stays() -> None:
    held = [node(n, held=(n,)) for n in range(14)]
    assert plan_of(held).moves == ()
    assert plan_of([*nodes(0), *reversed(held)]).moves == ()
    fresh = [node(n) for n in range(20, 26)]
    assert plan_of([*fresh, *held]).moves == ()


def test_a_lost_share_alone_is_placed_anew() -> None:
    held = [node(n, held=(n,)) for n in range(13)]
    plan = plan_of([*held, node(20), node(21)])
    assert plan.moves == (Place(13, node(20).key),)
    assert plan.survives == 4


def test_a_node_that_joins_takes_over_a_doubled_up_share() -> None:
    seven = after(nodes(7), plan_of(nodes(7)))
    plan = plan_of([*seven, node(9)])
    assert len(plan.moves) == 1
    assert plan.moves[0].key == node(9).key
    assert [p.share for p in plan.surplus] == [plan.moves[0].share]
    many = plan_of([*seven, *[node(n) for n in range(10, 17)]])
    assert (len(many.moves), many.survives) == (7, 4)


@pytest.mark.parametrize(
    ("count", "survives"), [(1, 0), (2, 1), (3, 2), (4, 2), (6, 2), (8, 3), (12, 3)]
)
def test_below_the_floor_three_nodes_get_a_readable_set(count: int, survives: int) -> None:
    plan = plan_of(nodes(count), floor=4)
    assert plan.survives == survives
    per_node = [sum(1 for p in plan.places if p.key == c.key) for c in nodes(count)]
    assert sum(held >= 10 for held in per_node) == min(count, 3)
    assert len({(p.share, p.key) for p in plan.places}) == len(plan.places)


def test_duplicates_that_help_nothing_are_not_made() -> None:
    plan = plan_of(nodes(7), floor=3)
    assert (plan.survives, len(plan.places)) == (2, 14)


def test_duplicates_are_thinned_when_nodes_join() -> None:
    three = after(nodes(3), plan_of(nodes(3), floor=2))
    assert sum(len(c.held) for c in three) == 30
    plan = plan_of([*three, *[node(n) for n in range(5, 16)]], floor=2)
    assert (plan.survives, len(plan.places)) == (4, 14)
    assert len(plan.surplus) == 27
    assert len(plan.moves) == 11


def test_no_share_lies_twice_where_nodes_are_enough() -> None:
    doubled = [node(n, held=(n % 7,)) for n in range(14)]
    plan = plan_of(doubled, floor=4)
    assert len(plan.places) == 14
    assert len({p.share for p in plan.places}) == 14
    assert len(plan.moves) == 7


def test_a_full_node_gets_nothing_and_little_room_gets_little() -> None:
    plan = plan_of([node(0, room=MIB - 1), node(1, room=2 * MIB), *[node(n) for n in range(2, 5)]])
    per_node = [sum(1 for p in plan.places if p.key == node(n).key) for n in range(5)]
    assert per_node == [0, 2, 4, 4, 4]


def test_what_has_no_room_is_said() -> None:
    plan = plan_of([node(0, room=3 * MIB), node(1, room=4 * MIB)])
    assert len(plan.unplaced) == 7
    assert plan.survives == -1
    assert plan_of([]).unplaced == tuple(range(14))


def test_unlike_nodes_are_preferred() -> None:
    same = [node(n, group="a", asn=1, operator="x") for n in range(20)]
    unlike = [node(n, group=str(n), asn=n, operator=str(n)) for n in range(30, 43)]
    plan = plan_of([*same, *unlike])
    assert {c.key for c in unlike} <= {p.key for p in plan.places}


def test_a_group_weighs_more_than_an_asn_and_that_more_than_a_label() -> None:
    first = node(0, group="a", asn=1, operator="x")
    group = node(1, group="a", asn=2, operator="y")
    asn = node(2, group="b", asn=1, operator="z")
    label = node(3, group="c", asn=3, operator="x")
    unknown = node(4)
    chosen = most_diverse([group, asn, label, unknown], 4, beside=[first])
    assert [c.key[0] for c in chosen] == [4, 3, 2, 1]


def test_small_blobs_lie_on_five_unlike_nodes() -> None:
    like = [node(n, group="a") for n in range(6)]
    unlike = [node(n, group=str(n)) for n in range(10, 14)]
    plan = plan_copies([*like, *unlike], size=1000, copies=5)
    assert (len(plan.places), plan.survives) == (5, 4)
    assert sum(p.key[0] < 6 for p in plan.places) == 1
    assert {p.share for p in plan.places} == {WHOLE_SHARE}


def test_copies_stay_where_they_are() -> None:
    held = [node(n, held=(WHOLE_SHARE,), group="a") for n in range(4)]
    plan = plan_copies([*nodes(3)[:0], node(9, room=5), node(8), *held], size=1000, copies=5)
    assert plan.moves == (Place(WHOLE_SHARE, node(8).key),)
    fewer = plan_copies(held, size=1000, copies=2)
    assert (len(fewer.places), len(fewer.surplus), fewer.survives) == (2, 2, 1)
    assert plan_copies([], size=1, copies=5).unplaced == (WHOLE_SHARE,)
