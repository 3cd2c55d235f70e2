"""Who may store how much: every bound refuses, counts, and gives way again."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base.errors import NoSpace
from molia.base.limits import OWNERS_MAX
from molia.store.quota import OWN, Quota, QuotaLimits

LIMITS = QuotaLimits(total_bytes=1_000, offer_bytes=500, owner_bytes=200)
ANNE, BOB, CARL = b"anne", b"bob", b"carl"


def test_nothing_is_admitted_above_the_high_mark() -> None:
    quota = Quota(LIMITS)
    quota.admit(OWN, 100, disk_bytes=800)
    with pytest.raises(NoSpace, match="quota of 1000 bytes"):
        quota.admit(OWN, 101, disk_bytes=800)
    with pytest.raises(NoSpace):
        quota.admit(ANNE, 1, disk_bytes=900)
    assert quota.refused["total"] == 2
    assert [quota.is_pressed(used) for used in (800, 801)] == [False, True]


def test_one_owner_keeps_no_more_than_its_part() -> None:
    quota = Quota(LIMITS)
    quota.admit(ANNE, 200, disk_bytes=0)
    quota.charge(ANNE, 200)
    with pytest.raises(NoSpace, match="one owner may keep 200"):
        quota.admit(ANNE, 1, disk_bytes=0)
    quota.admit(BOB, 200, disk_bytes=0)
    quota.refund(ANNE, 50)
    quota.admit(ANNE, 50, disk_bytes=0)
    assert quota.refused["owner"] == 1


def test_others_together_keep_no_more_than_is_offered() -> None:
    quota = Quota(LIMITS)
    for owner in (ANNE, BOB):
        quota.charge(owner, 200)
    with pytest.raises(NoSpace, match="offered to others"):
        quota.admit(CARL, 101, disk_bytes=0)
    quota.admit(OWN, 800, disk_bytes=0)
    quota.charge(OWN, 300)
    assert quota.lent_bytes == 400
    assert quota.refused["offer"] == 1


def test_a_node_that_offers_nothing_keeps_nothing_of_others() -> None:
    quota = Quota(QuotaLimits(total_bytes=1_000))
    with pytest.raises(NoSpace):
        quota.admit(ANNE, 1, disk_bytes=0)


def test_the_table_of_owners_is_bounded() -> None:
    quota = Quota(QuotaLimits(total_bytes=10**9, offer_bytes=10**8))
    for number in range(OWNERS_MAX):
        quota.charge(number.to_bytes(4), 1)
    with pytest.raises(NoSpace, match="owners keep something"):
        quota.admit(b"one more", 1, disk_bytes=0)
    quota.admit((0).to_bytes(4), 1, disk_bytes=0)
    quota.refund((1).to_bytes(4), 1)
    quota.admit(b"one more", 1, disk_bytes=0)
    assert quota.refused["owners"] == 1


moves = st.lists(st.tuples(st.sampled_from((OWN, ANNE, BOB)), st.integers(-60, 60)))


@given(moves=moves)
def test_the_counts_equal_those_of_a_plain_table(moves: list[tuple[bytes, int]]) -> None:
    quota, table = Quota(LIMITS), Counter[bytes]()
    for owner, size in moves:
        if size >= 0:
            quota.charge(owner, size)
        else:
            quota.refund(owner, -size)
        table[owner] = max(0, table[owner] + size)
        assert quota.used_by(owner) == table[owner]
    assert quota.lent_bytes == table[ANNE] + table[BOB]
