"""The yearly loss: the figures of the design, and a chain walked step by step."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.blobs.estimate import (
    YEAR_S,
    annual_loss,
    loss_without_repair,
    mean_time_to_loss_s,
)

DAY_S = 86_400.0


def walked_s(
    rng: random.Random, holders: int, survives: int, mttf_s: float, repair_s: list[float]
) -> float:
    """Walk the chain to the loss once; return how long it took."""
    failed, now_s = 0, 0.0
    while failed <= survives:
        fails = (holders - failed) / mttf_s
        mends = 0.0
        if failed and repair_s:
            mends = 1 / repair_s[min(failed, len(repair_s)) - 1]
        now_s += rng.expovariate(fails + mends)
        failed = failed + 1 if rng.random() < fails / (fails + mends) else 0
    return now_s


@pytest.mark.parametrize(("years", "loss"), [(1, 1.1e-5), (5, 4.2e-9)])
def test_eager_repair_in_a_day_is_worth_what_the_design_says(years: int, loss: float) -> None:
    found = annual_loss(holders=14, survives=4, mttf_s=years * YEAR_S, repair_s=[DAY_S])
    assert found == pytest.approx(loss, rel=0.07)


@pytest.mark.parametrize(
    ("holders", "survives", "repair_s"),
    [(14, 4, [20.0]), (14, 4, [40.0, 10.0, 5.0]), (7, 2, [10.0]), (3, 0, [5.0]), (14, 4, [])],
)
def test_the_mean_time_is_that_of_walking(
    holders: int, survives: int, repair_s: list[float]
) -> None:
    rng = random.Random(5)
    walks = [walked_s(rng, holders, survives, 100.0, repair_s) for _ in range(1_500)]
    mean_s = sum(walks) / len(walks)
    found = mean_time_to_loss_s(holders=holders, survives=survives, mttf_s=100.0, repair_s=repair_s)
    assert found == pytest.approx(mean_s, rel=0.1)


@given(st.integers(1, 20), st.data(), st.floats(1.0, 1e9))
def test_without_repair_it_is_the_sum_of_the_waits(
    holders: int, data: st.DataObject, mttf_s: float
) -> None:
    survives = data.draw(st.integers(0, holders - 1))
    waits = sum(mttf_s / (holders - n) for n in range(survives + 1))
    found = mean_time_to_loss_s(holders=holders, survives=survives, mttf_s=mttf_s, repair_s=[])
    assert found == pytest.approx(waits)


def test_fast_repair_is_not_rounded_away() -> None:
    found = annual_loss(holders=14, survives=4, mttf_s=50 * YEAR_S, repair_s=[60.0])
    assert 0 < found < 1e-20
    assert annual_loss(holders=1, survives=-1, mttf_s=1, repair_s=[]) == 1.0


def test_what_is_lost_without_repair_is_counted_exactly() -> None:
    rng, lost = random.Random(6), 0
    for _ in range(4_000):
        lost += sum(rng.expovariate(1 / 100) < 30 for _ in range(14)) > 4
    found = loss_without_repair(holders=14, survives=4, mttf_s=100, after_s=30)
    assert found == pytest.approx(lost / 4_000, abs=0.03)
