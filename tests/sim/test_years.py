"""Two years of churn on one shard, in virtual time: bounded space, and nothing leaks."""

from collections.abc import Callable

import pytest

from molia.sim.__main__ import main
from molia.sim.campaign import scratch
from molia.sim.years import OPTIONS, Years

MONTHS = 24
WARM_MONTHS = 3
SPACE_MAX = 1.6


@pytest.mark.slow
@pytest.mark.parametrize("can_punch", [True, False], ids=["punching", "plain"])
def test_two_years_of_churn_take_no_more_than_1_6_times_what_is_alive(
    can_punch: bool, record_property: Callable[[str, object], None]
) -> None:
    with scratch() as root:
        years = Years(root, seed=1, can_punch=can_punch)
        months = [years.month(number, restart=number % 6 == 0) for number in range(1, MONTHS + 1)]
        years.rebuild()
        years.close()
    for month in months:
        assert month.files == month.rows
        assert month.open_files <= OPTIONS.open_files
        assert month.dead == 0
        assert month.files <= 4 + 4 * month.disk_bytes // OPTIONS.segment_bytes
        if month.number > WARM_MONTHS:
            assert month.peak <= SPACE_MAX, str(month)
    worst = max(month.peak for month in months[WARM_MONTHS:])
    name = "punching" if can_punch else "plain"
    record_property("summary", f"24 months of churn, {name}: at most {worst:.2f} x what is alive")


def test_the_same_seed_lives_the_same_months(capsys: pytest.CaptureFixture[str]) -> None:
    printed = []
    for _ in range(2):
        assert main(["years", "--months", "2", "--seed", "7"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert printed[0].count("month") == 4
