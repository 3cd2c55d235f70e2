"""How likely a blob is lost within a year, by the model that nodes fail independently.

A Markov chain over how many holders have failed: each fails at the rate 1 / MTTF, and repair, once
it is through, brings the blob back to none. Times are exponential in it, though real graces are
fixed, so it errs on the safe side; that nodes of one operator or place fail together is not in it.
Source: docs/reference/audit-and-repair.md, "What it is worth".
"""

from collections.abc import Sequence
from math import comb, exp, expm1
from typing import Final

YEAR_S: Final = 365.25 * 86_400


def mean_time_to_loss_s(
    *, holders: int, survives: int, mttf_s: float, repair_s: Sequence[float]
) -> float:
    """Return the mean time until more than `survives` of the holders have failed unrepaired.

    repair_s: how long repair takes with 1, 2 and so on of them failed; the last value stands for
    all after it. None at all: nobody repairs.
    """
    assert 0 <= survives < holders, "some holders are left"
    # t_i = constant + slope * t_0, from the last state before the loss down to the first
    constant = slope = 0.0
    for failed in range(survives, 0, -1):
        fails = (holders - failed) / mttf_s
        mends = 1.0 / repair_s[min(failed, len(repair_s)) - 1] if repair_s else 0.0
        both = fails + mends
        constant, slope = (1.0 + fails * constant) / both, (mends + fails * slope) / both
    first_s = mttf_s / holders
    # 1 - slope is lost to rounding where repair is fast, so the product of the steps stands for it
    return (first_s + constant) / _escape(holders, survives, mttf_s, repair_s)


def _escape(holders: int, survives: int, mttf_s: float, repair_s: Sequence[float]) -> float:
    """Return how likely the first failure leads to the loss, with no repair in between."""
    chance = 1.0
    for failed in range(1, survives + 1):
        fails = (holders - failed) / mttf_s
        mends = 1.0 / repair_s[min(failed, len(repair_s)) - 1] if repair_s else 0.0
        chance *= fails / (fails + mends)
    return chance


def annual_loss(*, holders: int, survives: int, mttf_s: float, repair_s: Sequence[float]) -> float:
    """Return how likely a blob is lost within a year; see `mean_time_to_loss_s`."""
    if survives < 0:
        return 1.0
    mean_s = mean_time_to_loss_s(
        holders=holders, survives=survives, mttf_s=mttf_s, repair_s=repair_s
    )
    return -expm1(-YEAR_S / mean_s)


def loss_without_repair(*, holders: int, survives: int, mttf_s: float, after_s: float) -> float:
    """Return how likely more than `survives` of the holders have failed by then; exact."""
    gone = 1.0 - exp(-after_s / mttf_s)
    return sum(
        comb(holders, n) * gone**n * (1.0 - gone) ** (holders - n)
        for n in range(survives + 1, holders + 1)
    )
