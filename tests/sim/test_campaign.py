"""A campaign is the same for the same seed, and what it finds can be tried again by its number."""

from pathlib import Path

import pytest

from molia.sim.__main__ import main
from molia.sim.campaign import Tally, scratch, try_seed
from molia.sim.journal import IndexCommit
from molia.sim.shard_workload import SCENARIOS, record
from molia.store.log import Log


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_seed_gives_the_same_workload_each_time(tmp_path: Path, scenario: str) -> None:
    first = record(7, tmp_path / "a", scenario=scenario)
    again = record(7, tmp_path / "b", scenario=scenario)
    assert len(first.journal) > 100
    assert any(isinstance(event, IndexCommit) for event in first.journal)
    assert first.journal == again.journal


def test_a_failing_state_fails_again_when_it_is_tried_alone(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Log, "_sync", lambda log, file: None)
    with scratch() as root:
        failure = try_seed(1, root, stop=True).failures[0]
    number = failure.verdict.number
    with scratch() as root:
        again = try_seed(1, root, only=number)
    assert failure.verdict in [found.verdict for found in again.failures]
    assert main(["powercut", "--seed", "1", "--state", str(number)]) == 1
    printed = capsys.readouterr().out
    assert f"replay: python -m molia.sim powercut --seed 1 --state {number}" in printed
    assert "index: " in printed


def test_a_sound_shard_leaves_exit_code_0_and_a_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["powercut", "--seed", "1", "--states", "60"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].split() == ["failures", "0"]
    assert any(line.startswith("append") for line in lines)


def test_tallies_add_up() -> None:
    total = Tally()
    for number in (1, 2):
        part = Tally(seeds=1)
        part.states["roll"] = number
        total.add(part)
    assert (total.total(), total.seeds, total.states["roll"]) == (3, 2, 3)
