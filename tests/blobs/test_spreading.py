"""Shares that lie doubled up: who may let go of what, and whose turn it is to move them."""

import itertools
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base.cid import Cid, Codec
from molia.base.limits import SPREADS_MAX
from molia.base.now import Now
from molia.blobs.placement import Place, losses_survived
from molia.blobs.repair import ranked
from molia.blobs.spreading import ENOUGH, SpreadQueue, is_crowded, may_let_go
from molia.blobs.standing import RepairConfig

LOC = bytes(range(32))
START = Now(1_000.0, 1_800_000_000.0)
CONFIG = RepairConfig()
HOUR, TURN = CONFIG.grace_low_s, CONFIG.takeover_s
STORED = tuple(range(14))


def key(number: int) -> bytes:
    """The key of a node."""
    return bytes((number + 1,)) * 32


def cid_of(number: int) -> Cid:
    """A blob."""
    return Cid(Codec.MANIFEST, number.to_bytes(32, "big"))


def at(seconds: float) -> Now:
    """So long after the start."""
    return START.after(seconds)


def singles(first: int) -> dict[bytes, tuple[int, ...]]:
    """Nodes with one share each, from one number on."""
    return {key(number): (number,) for number in range(first, 14)}


@pytest.mark.parametrize(
    ("own", "others", "crowded"),
    [
        ((0,), singles(1), False),
        ((0, 1), singles(2), True),
        ((0, 1), singles(1), False),  # 1 lies elsewhere: it is let go, not moved
        ((0, 1), {**singles(2), key(20): (5,)}, True),
        (STORED[:10], {key(1): STORED[4:], key(2): STORED[:10]}, True),
        ((), singles(0), False),
    ],
)
def test_two_shares_that_nobody_else_has_or_too_few_nodes_make_a_crowd(
    own: tuple[int, ...], others: dict[bytes, tuple[int, ...]], crowded: bool
) -> None:
    assert is_crowded(own, others, stored=STORED) is crowded


def test_only_what_is_sound_elsewhere_goes_and_one_share_stays() -> None:
    held = {key(0): (0, 1), **singles(1)}
    assert may_let_go(held, key(0), ()) == ()
    assert may_let_go(held, key(0), {Place(1, key(1))}) == (1,)
    assert may_let_go(held, key(0), {Place(1, key(2))}) == ()  # it has not got it any more
    both = {key(0): (0, 1), key(50): (0,), **singles(1)}
    assert may_let_go(both, key(0), {Place(0, key(50)), Place(1, key(1))}) == (0,)


def test_full_holders_keep_what_the_survival_rests_on_until_there_are_nodes_for_all() -> None:
    full = {key(n): STORED[n : n + 10] for n in range(3)}
    settled = {Place(share, each) for each, shares in full.items() for share in shares}
    assert losses_survived(full.values()) == 2
    assert may_let_go(full, key(0), settled) == ()
    many = {**full, **{key(30 + n): (n,) for n in range(14)}}
    new = {Place(n, key(30 + n)) for n in range(14)}
    assert len(may_let_go(many, key(0), settled | new)) == 9


@given(st.integers(0, 2**32), st.integers(2, 9))
def test_letting_go_one_after_the_other_never_lowers_what_is_survived(
    seed: int, nodes: int
) -> None:
    rng = random.Random(seed)
    held = {key(n): tuple(sorted(rng.sample(STORED, rng.randint(1, 10)))) for n in range(nodes)}
    settled = {Place(share, each) for each, shares in held.items() for share in shares}
    for each in list(held):
        before = losses_survived(held.values())
        gone = may_let_go(held, each, settled)
        held[each] = tuple(share for share in held[each] if share not in gone)
        assert held[each]
        assert min(before, ENOUGH) <= losses_survived(held.values())
        every = {share for shares in held.values() for share in shares}
        assert every >= set(gone)


def test_who_leads_begins_after_an_hour_and_the_next_after_its_turn() -> None:
    leaders = [key(n) for n in range(3)]
    order = ranked(leaders, loc=LOC, unix_s=START.unix_s)
    for rank, own in enumerate(order):
        it = SpreadQueue(own)
        it.on_crowded(cid_of(1), leaders, loc=LOC, now=at(0))
        it.on_crowded(cid_of(1), leaders, loc=LOC, now=at(HOUR / 2))
        due_s = HOUR + rank * TURN
        assert it.begin(at(due_s - 1)) is None
        assert it.begin(at(due_s)) == it.running == cid_of(1)
        assert it.begin(at(due_s)) is None


def test_a_claim_of_another_is_waited_for_until_it_is_over() -> None:
    it = SpreadQueue(key(0))
    it.on_crowded(cid_of(1), [], loc=LOC, now=at(0))
    it.on_claim(cid_of(1), at(HOUR + 2_700).mono_s)
    it.on_claim(cid_of(2), at(HOUR).mono_s)
    assert it.is_claimed(cid_of(1), at(HOUR))
    assert it.begin(at(HOUR + 2_699)) is None
    it.on_claim_ended(cid_of(1), at(HOUR + 60))
    it.on_claim_ended(cid_of(2), at(HOUR + 60))
    assert it.begin(at(HOUR + 60)) == cid_of(1)


def test_where_nobody_new_is_found_it_is_tried_later_and_later_and_others_wait_as_well() -> None:
    it = SpreadQueue(key(0))
    for number in (1, 2):
        it.on_crowded(cid_of(number), [], loc=LOC, now=at(0))
    now_s, tried = HOUR, list[float]()
    it.forget(cid_of(2))
    while len(tried) < 6:
        if it.begin(at(now_s)) is not None:
            tried.append(now_s)
            it.on_spread(cid_of(1), is_better=False, now=at(now_s))
        now_s += TURN / 10
    gaps = [round((late - early) / TURN) for early, late in itertools.pairwise(tried)]
    assert gaps == [6, 12, 24, 48, 48]
    it.on_crowded(cid_of(3), [], loc=LOC, now=at(0))
    assert it.begin(at(tried[-1] + TURN / 10 - 1)) is None
    assert it.begin(at(tried[-1] + TURN / 10)) == cid_of(3)
    it.on_spread(cid_of(3), is_better=True, now=at(now_s))
    it.on_crowded(cid_of(4), [], loc=LOC, now=at(0))
    assert it.begin(at(tried[-1] + TURN / 10)) == cid_of(4)


def test_what_is_remembered_has_a_bound() -> None:
    it = SpreadQueue(key(0))
    for number in range(SPREADS_MAX + 3):
        it.on_crowded(cid_of(number), [], loc=LOC, now=at(0))
    assert len(it) == SPREADS_MAX
