"""The durability trials: equal when repeated, right where the answer is known."""

from dataclasses import replace

import pytest

from molia.sim import durability
from molia.sim.durability import Trial, World, run

STEADY = Trial(nodes=24, blobs=40, days=30, mttf_days=40, up_hours=0)


def test_a_trial_repeats_to_the_letter() -> None:
    trial = Trial(nodes=20, blobs=3, days=4, mttf_days=10)
    first, second = run(trial), run(trial)
    assert first.trace == second.trace
    assert first.lines() == second.lines()
    assert run(Trial(nodes=20, blobs=3, days=4, mttf_days=10, seed=2)).trace != first.trace


def test_without_repair_as_many_are_lost_as_the_sum_says() -> None:
    reports = [run(replace(STEADY, repairs=False, seed=n)) for n in range(6)]
    expected = sum(report.estimate() * 40 for report in reports)
    assert sum(report.lost for report in reports) == pytest.approx(expected, rel=0.2)
    assert all(report.repairs == report.repair_bytes == 0 for report in reports)


def test_with_repair_none_are_lost_and_traffic_is_that_of_the_failures() -> None:
    report = run(STEADY)
    assert report.lost == 0
    assert report.estimate() * 40 < 0.1
    lost_shares = report.failures * 40 * 14 / 24
    assert report.moves - 40 * 14 == pytest.approx(lost_shares, rel=0.2)
    assert report.repair_bytes <= lost_shares * 11 * STEADY.share_bytes * 1.2
    assert 4 <= report.repair_s / 3_600 < 6


def test_short_absences_move_nothing() -> None:
    world = World(Trial(nodes=20, blobs=3, days=5, mttf_days=1e6, up_hours=200, down_hours=0.1))
    report = world.run()
    assert report.absences > 5
    assert report.moves == 3 * 14
    assert report.repairs == 0


@pytest.mark.slow
def test_surplus_that_stays_for_a_while_saves_repairs() -> None:
    trial = Trial(nodes=20, blobs=2, days=40, mttf_days=1e6, up_hours=48, down_hours=3)
    kept, dropped = run(trial), run(replace(trial, surplus_days=0))
    assert kept.lost == dropped.lost == 0
    assert kept.repairs < 0.8 * dropped.repairs


def test_the_command_prints_both_and_returns_the_verdict(
    capsys: pytest.CaptureFixture[str],
) -> None:
    arguments = ["--nodes=16", "--blobs=2", "--days=2", "--up-hours=0"]
    assert durability.main(arguments) == 0
    out = capsys.readouterr().out
    assert "seed 1, repair on: 0 of 2 blobs lost" in out
    assert "seed 1, repair off" in out
