"""Quotas: what one peer, one location and all together may take, and that tables are bounded."""

from molia.base import limits
from molia.dht.quotas import Buckets, Quotas, Refusal
from tests.dht.record_samples import someone

LOC = bytes(32)
ANN, BOB = someone(1).peer_key, someone(2).peer_key


def loc(number: int) -> bytes:
    return number.to_bytes(32, "big")


def writes(quotas: Quotas, count: int, *, spread: bool, now_s: float = 0.0) -> list[Refusal | None]:
    return [
        quotas.take(ANN, loc(number if spread else 0), is_new=False, now_s=now_s)
        for number in range(count)
    ]


def test_a_location_changes_so_often_and_regains_it_with_time() -> None:
    quotas, burst = Quotas(rows_max=10), int(limits.LOC_WRITES_BURST)
    assert writes(quotas, burst + 2, spread=False) == [None] * burst + [Refusal.LOC] * 2
    assert quotas.take(BOB, loc(1), is_new=False, now_s=0.0) is None, "others are not touched"
    assert writes(quotas, 3, spread=False, now_s=2.0) == [None, None, Refusal.LOC]


def test_a_peer_may_have_so_much_kept_and_others_as_much() -> None:
    quotas = Quotas(rows_max=10, peer_burst=50.0)
    assert writes(quotas, 52, spread=True) == [None] * 50 + [Refusal.PEER] * 2
    assert quotas.take(BOB, LOC, is_new=False, now_s=0.0) is None
    assert writes(quotas, 3, spread=True, now_s=2.0) == [None, None, Refusal.PEER]


def test_a_refused_write_costs_nothing() -> None:
    quotas = Quotas(rows_max=10, peer_burst=1.0)
    assert quotas.take(ANN, LOC, is_new=False, now_s=0.0) is None
    for _ in range(200):
        assert quotas.take(ANN, loc(1), is_new=False, now_s=0.0) is Refusal.PEER
    assert quotas.take(BOB, loc(1), is_new=False, now_s=0.0) is None, "the location is not used up"


def test_a_full_node_takes_changes_and_nothing_new() -> None:
    quotas = Quotas(rows_max=2)
    quotas.on_rows(2)
    assert quotas.take(ANN, LOC, is_new=True, now_s=0.0) is Refusal.TOTAL
    assert quotas.take(ANN, LOC, is_new=False, now_s=0.0) is None
    quotas.on_rows(-1)
    assert quotas.take(ANN, LOC, is_new=True, now_s=0.0) is None


def test_a_table_of_buckets_is_bounded_and_forgets_who_was_quiet_longest() -> None:
    buckets = Buckets(rate=0.001, burst=1.0, table_max=3)
    assert [buckets.take(key, 0.0) for key in (b"a", b"b", b"c", b"a", b"d")] == [
        True, True, True, False, True,
    ]  # fmt: skip
    assert len(buckets) == 3
    assert [buckets.has(key, 0.0) for key in (b"a", b"b", b"d")] == [True, False, False]


def test_a_day_of_one_peer_is_at_most_its_burst_and_what_refills() -> None:
    buckets = Buckets(rate=1.0, burst=20.0, table_max=3)
    taken = sum(buckets.take(b"a", now_s / 10) for now_s in range(1_000))
    assert taken <= 20 + 100
