"""Signed leases among themselves: the higher one wins wherever it comes from; quotas."""

import itertools
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.blobs.leases import (
    HeldLease,
    Quotas,
    Verdict,
    release,
    renew,
    renewal_due_s,
    settle,
    share_cost,
)
from molia.blobs.statements import Statement
from tests.blobs.test_statements import ANN, BOB, DIGEST, NETWORK, NOW, lease

MONTH_S = 30 * 86_400


def kept(offered: Sequence[Statement]) -> HeldLease:
    """What a holder keeps after some leases came in."""
    held: HeldLease | None = None
    for one in offered:
        _, held = settle(held, one)
    assert held is not None
    return held


@given(
    st.lists(
        st.builds(lambda at, life: lease(issued=NOW + at, life_s=life), st.integers(0, 5),
                  st.integers(0, 50)),
        min_size=1, max_size=4,
    )
)  # fmt: skip
def test_the_order_of_arrival_does_not_matter(offered: list[Statement]) -> None:
    ends = {kept(order).lease.encoded for order in itertools.permutations(offered)}
    assert len(ends) == 1
    best = max(offered, key=lambda one: (one.issued, one.expires))
    assert ends == {best.encoded}


def test_a_release_ends_a_lease_and_nobody_brings_it_back() -> None:
    first = renew(ANN, NETWORK, DIGEST, before=None, unix_s=NOW, life_s=MONTH_S)
    ended = release(ANN, NETWORK, DIGEST, before=first, unix_s=NOW + 5)
    assert ended.is_release
    held = kept([first, ended])
    assert held.lease == ended
    assert held.keep_until == first.expires
    assert settle(held, first) == (Verdict.OLDER, held)
    assert not held.lease.lives(NOW + 6)


def test_the_same_again_changes_nothing() -> None:
    held = kept([lease()])
    assert settle(held, lease()) == (Verdict.SAME, held)


def test_what_comes_next_beats_what_was_even_when_the_clock_went_back() -> None:
    first = renew(ANN, NETWORK, DIGEST, before=None, unix_s=NOW, life_s=MONTH_S)
    for later in (
        renew(ANN, NETWORK, DIGEST, before=first, unix_s=NOW - 500, life_s=MONTH_S),
        release(ANN, NETWORK, DIGEST, before=first, unix_s=NOW),
    ):
        assert later.beats(first)


def test_another_owners_lease_stands_by_itself() -> None:
    with pytest.raises(AssertionError):
        settle(kept([lease()]), lease(signer=BOB))


def test_renewal_is_spread_over_a_tenth_after_the_first_third_of_a_life() -> None:
    due = [
        renewal_due_s(renew(ANN, NETWORK, bytes([n]) * 32, before=None, unix_s=NOW, life_s=1_000))
        for n in range(100)
    ]
    assert all(NOW + 333 <= at < NOW + 434 for at in due)
    assert max(due) - min(due) > 80


def test_a_holder_that_missed_a_renewal_hears_of_the_next_one_in_time() -> None:
    for n in range(100):
        digest = bytes([n]) * 32
        first = renew(ANN, NETWORK, digest, before=None, unix_s=NOW, life_s=1_000)
        missed_s = renewal_due_s(first)
        second = renew(ANN, NETWORK, digest, before=first, unix_s=missed_s, life_s=1_000)
        assert renewal_due_s(second) < first.expires - 100


def test_a_share_costs_more_than_its_blocks() -> None:
    assert share_cost(block_bytes=10, stripe_count=2) == 10 + 64 + 2_048


changes = st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.integers(1, 60)), max_size=30)


@given(changes, st.data())
def test_quotas_hold_whatever_comes_and_goes(
    offers: list[tuple[bytes, int]], data: st.DataObject
) -> None:
    quotas, inside = Quotas(total_bytes=200, owner_bytes=100), list[tuple[bytes, int]]()
    refused = 0
    for owner, cost in offers:
        if quotas.may_take(owner, cost):
            quotas.add(owner, cost)
            inside.append((owner, cost))
        else:
            refused += 1
            if data.draw(st.booleans()) and inside:
                gone = inside.pop(data.draw(st.integers(0, len(inside) - 1)))
                quotas.remove(*gone)
        for one in (b"a", b"b", b"c"):
            assert quotas.used_by(one) == sum(c for o, c in inside if o == one) <= 100
        assert quotas.used_bytes == sum(c for _, c in inside) <= 200
        assert quotas.room_bytes == 200 - quotas.used_bytes
    assert quotas.refused == refused


def test_a_share_of_two_owners_counts_for_each_and_once_in_all() -> None:
    quotas = Quotas(total_bytes=100, owner_bytes=100)
    quotas.add(b"a", 80)
    assert not quotas.may_take(b"b", 80)
    assert quotas.may_take(b"b", 80, is_new=False)
    quotas.add(b"b", 80, is_new=False)
    assert quotas.used_bytes == 80
    quotas.remove(b"a", 80, is_gone=False)
    assert (quotas.used_bytes, quotas.used_by(b"a"), quotas.used_by(b"b")) == (80, 0, 80)
    quotas.remove(b"b", 80)
    assert quotas.used_bytes == 0


def test_too_many_owners_are_refused() -> None:
    quotas = Quotas(total_bytes=100, owner_bytes=100, owners_max=2)
    for owner in (b"a", b"b"):
        quotas.add(owner, 1)
    assert not quotas.may_take(b"c", 1)
    assert quotas.may_take(b"a", 1)
