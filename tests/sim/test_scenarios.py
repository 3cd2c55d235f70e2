"""Scenarios at sizes that cost a second: they clear their bars, replay, and can fail."""

import gc
import json
import os
import subprocess
import sys
import weakref
from statistics import mean

import pytest

from molia.base.now import Now
from molia.dht.records import RecordAddress
from molia.sim import runs
from molia.sim.churn import ChurnConfig
from molia.sim.entropy import SeededEntropy
from molia.sim.report import Report, at_least, at_most
from molia.sim.scenarios import churn, flash, flood, partition, steady, sybil, upgrade
from molia.sim.scenarios.base import DEFENCES, Options, Run
from molia.sim.shelf import MemoryShelf
from molia.sim.tally import Tally, percentile, wilson
from molia.sim.workload import LoadConfig

FIELDS = {"scenario", "nodes", "seed", "minutes", "trace", "operations", "success", "p50_ms",
          "p95_ms", "p99_ms", "upkeep_bytes_per_s"}  # fmt: skip


def tiny(scenario: str, **more: object) -> Options:
    settings: dict[str, object] = {"nodes": 20, "minutes": 0.3, "wire": "null", **more}
    return Options(scenario=scenario, **settings)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------- what is measured


def test_a_failure_stands_at_the_deadline_and_is_never_left_out() -> None:
    tally = Tally()
    for took_s in (0.1, 0.2, 0.3):
        tally.add(took_s=took_s, deadline_s=20.0, cause=None)
    tally.add(took_s=0.05, deadline_s=20.0, cause="not found")
    assert (tally.count, tally.success) == (4, 0.75)
    assert tally.quantile_ms(0.99) == 20_000
    assert tally.quantile_ms(0.5) == 200
    assert "not found 1" in tally.line("get")


def test_percentiles_are_of_what_was_measured_and_intervals_are_wilsons() -> None:
    assert [percentile([1.0, 2.0, 3.0, 4.0], share) for share in (0.25, 0.5, 0.51, 1.0)] == [
        1.0, 2.0, 3.0, 4.0,
    ]  # fmt: skip
    low, high = wilson(300, 300)
    assert low == pytest.approx(0.98736, abs=1e-4)
    assert high == 1.0
    low, high = wilson(5, 10)
    assert low == pytest.approx(0.2366, abs=1e-3)
    assert high == pytest.approx(0.7634, abs=1e-3)


def test_bars_are_cleared_or_missed_and_a_report_with_a_miss_says_how_to_replay_it() -> None:
    report = Report("steady", 20, 7, 0.5, command=tiny("steady", seed=7).command)
    report.bars = [at_most("p50", 300, 120, " ms"), at_least("success", 0.99, 0.995)]
    assert all(bar.passed for bar in report.bars)
    report.bars.append(at_least("success", 0.99, 0.985))
    assert not report.passed
    assert report.lines()[-1] == (
        "  replay: python -m molia.sim steady --nodes 20 --seed 7 --minutes 0.3 --wire null"
    )


# ---------------------------------------------------------------------------- churn's laws


@pytest.mark.parametrize("law", ["exponential", "weibull"])
def test_sessions_last_200_s_in_the_mean_and_those_met_are_the_longer_ones(law: str) -> None:
    config, rng = ChurnConfig(law=law), SeededEntropy(1).random
    sessions = [config.session_s(rng) for _ in range(60_000)]
    left = [config.left_s(rng) for _ in range(60_000)]
    assert mean(sessions) == pytest.approx(200, rel=0.05)
    # what is left of a session that is met has the mean E[X^2] / 2 E[X]: 200 s, and 600 s
    assert mean(left) == pytest.approx(200 if law == "exponential" else 600, rel=0.1)


def test_a_network_under_churn_loses_and_gains_thirty_percent_a_minute() -> None:
    it = Run(tiny("churn", nodes=50), load=LoadConfig(keys=2))
    it.start_churn("exponential")
    it.world.run(40.0)
    assert it.churn is not None
    assert it.churn.leaves / 50 == pytest.approx(0.2, abs=0.12)
    assert it.churn.joins / 50 == pytest.approx(0.2, abs=0.12)
    returned = [node for node in it.fleet.nodes if node.lives > 1]
    assert len(it.fleet.nodes) == 50 + it.churn.joins - sum(n.lives - 1 for n in returned)


# ---------------------------------------------------------------------------- the parts


def test_a_shelf_swaps_only_what_it_was_told_to_expect_and_forgets_what_expired() -> None:
    shelf, now = MemoryShelf(), Now(0.0, 1_000.0)

    def swap(loc: bytes, row: bytes | None, expected: bytes | None, at: Now = now) -> bool:
        return shelf.swap(1, loc, row, expected=expected, expires_unix_s=2_000, now=at)

    assert swap(b"b", b"one", None)
    assert not swap(b"b", b"two", None)
    assert swap(b"b", b"two", b"one")
    assert swap(b"a", b"x", None)
    assert list(shelf.locations(1, b"", 9)) == [b"a", b"b"]
    assert list(shelf.locations(1, b"b", 9)) == [b"b"]
    assert swap(b"a", None, b"x")
    assert shelf.read(1, b"a") is None
    assert swap(b"c", b"later", None, Now(0.0, 2_000.0))
    assert shelf.read(1, b"b") is None


def test_a_network_that_begins_in_the_middle_of_its_life_knows_its_neighbours() -> None:
    it = Run(tiny("steady", nodes=60), load=LoadConfig(keys=1))
    for node in it.fleet.nodes:
        assert node.host is not None
        assert node.contact is not None
        known = {contact.key for contact in node.host.engine.contacts()}
        others = [n.contact for n in it.fleet.nodes if n is not node and n.contact is not None]
        nearest = sorted(others, key=lambda c: c.id ^ node.contact.id)[:5]  # type: ignore[union-attr]
        assert sum(contact.key in known for contact in nearest) >= 4, "quotas may keep one out"


def test_users_find_what_was_written_and_a_node_that_goes_away_fails_its_users() -> None:
    it = Run(tiny("steady"), load=LoadConfig(keys=3))
    it.settle(5.0)
    it.fill()
    key = it.load.keys[0]
    assert key.address == RecordAddress(key.identity.peer_key, key.salt)
    assert it.load.tallies["put"].success == 1.0
    reader = it.fleet.nodes[7]
    it.load.get(key, node=reader)
    it.finish()
    assert it.load.tallies["get"].successes == 1
    it.load.find(1 << 255, node=reader)
    reader.leave(goodbye=False)
    assert it.load.tallies["find"].causes["asker gone"] == 1


def test_a_node_that_ends_is_freed_without_a_search_for_cycles() -> None:
    it = Run(tiny("steady"), load=LoadConfig(keys=1))
    it.settle(5.0)
    node = it.fleet.nodes[3]
    assert node.host is not None
    engine = node.host.engine
    parts = [weakref.ref(part) for part in vars(engine).values() if hasattr(part, "__weakref__")]
    assert len(parts) > 5
    del engine
    gc.disable()
    try:
        node.leave(goodbye=True)
        it.world.run(1.0)
        assert [part() for part in parts if part() is not None] == []
    finally:
        gc.enable()


# ---------------------------------------------------------------------------- the scenarios


def test_a_steady_network_answers_and_nodes_behind_boxes_know_it() -> None:
    report = steady.run(tiny("steady"))
    assert report.passed, report.lines()
    assert str(report.facts["boxed nodes that took themselves for reachable"]).startswith("0 of")
    assert 0 < report.upkeep_mean < 8_000
    assert abs(report.upkeep_mean - sum(report.upkeep_split.values())) < 0.2 * report.upkeep_mean


def test_a_network_begins_with_nodes_that_know_nobody_and_who_comes_reads_at_once() -> None:
    report = steady.run(tiny("steady", variant="cold", nodes=24, minutes=0.05))
    assert report.tallies["first get"].count >= 10
    assert report.tallies["first get"].success == 1.0
    assert next(bar for bar in report.bars if bar.name.startswith("closest 20")).passed
    assert "--variant cold" in report.command


def test_a_small_network_lives_through_churn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(churn, "WARM_S", 10.0)
    report = churn.run(tiny("churn", law="weibull"))
    assert report.lookups.success >= 0.9, report.lines()
    assert report.tallies["get"].count > 5


def test_an_attack_that_takes_the_textbook_down_does_not_reach_the_record(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sybil, "SETTLE_S", 5.0)
    monkeypatch.setattr(sybil, "CREEP_S", 15.0)
    monkeypatch.setattr(sybil, "READS", 150)
    report = sybil.run(tiny("sybil", nodes=100, minutes=0.1, variant="free-64/drop"))
    assert report.tallies["get"].success >= 0.99, report.lines()
    assert float(str(report.extra["success_vanilla"])) < 0.9
    assert report.extra["placement"] == "free-64"


def test_half_of_a_small_network_leaves_and_its_records_stay() -> None:
    report = flash.run(tiny("flash", nodes=30, minutes=0.6))
    assert report.tallies["get"].success >= 0.9, report.lines()


def test_versions_live_together() -> None:
    report = upgrade.run(tiny("upgrade", minutes=0.6))
    assert report.passed, report.lines()
    assert report.trace.count("-") == 2


def test_halves_write_and_heal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(partition, "PARTED_S", 90.0)
    monkeypatch.setattr(partition, "KEYS", 9)
    monkeypatch.setattr(partition, "LOOKS", 24)
    report = partition.run(tiny("partition"))
    assert report.tallies["newest"].success >= 0.95, report.lines()
    assert report.tallies["cross, by 300 s"].success >= 0.9, report.lines()


def test_honest_peers_get_through_a_flood_of_handshakes() -> None:
    report = flood.run(tiny("flood", nodes=10, minutes=0.1))
    assert report.passed, report.lines()
    assert report.wire == "real"


# ---------------------------------------------------------------------------- the command line


def say(*arguments: str, hash_seed: str = "0") -> tuple[int, dict[str, object]]:
    done = subprocess.run(
        [sys.executable, "-m", "molia.sim", *arguments, "--json"], capture_output=True, text=True,
        check=False, env={**os.environ, "PYTHONHASHSEED": hash_seed},
    )  # fmt: skip
    told: dict[str, object] = json.loads(done.stdout)
    return done.returncode, told


def test_a_seed_has_one_trace_whatever_python_hashes_by_and_json_says_what_was_found() -> None:
    words = ("churn", "--nodes", "10", "--minutes", "0.1", "--wire", "null", "--seed", "4")
    code, told = say(*words, hash_seed="1")
    _, again = say(*words, hash_seed="2")
    for one in (told, again):
        assert float(str(one.pop("cpu_s"))) > 0
        assert float(str(one.pop("cpu_s_of_1000_node_minutes"))) > 0
        assert float(str(one.pop("cpu_s_of_1000_node_churn_minute"))) > 0
    assert told == again
    assert told.keys() >= FIELDS
    assert code == (0 if told["passed"] else 1)
    assert told["trace"] != say(*words[:-1], "5")[1]["trace"]


def test_every_scenario_has_a_command_and_every_demand_is_one() -> None:
    for demand in (*runs.SHORT, *runs.LONG):
        assert demand.scenario in runs.SCENARIOS
        assert len(demand.commands()) == len(demand.seeds)
    assert {demand.scenario for demand in runs.SHORT} == set(runs.SCENARIOS)
    assert "vanilla" in DEFENCES


def test_the_table_of_bars_shows_each_run_the_worst_seed_and_how_to_replay_a_miss(
    capsys: pytest.CaptureFixture[str],
) -> None:
    fine = runs.Demand("steady", 8, 0.05, (1, 2), ("--wire", "null"))
    slow = runs.Demand("steady", 8, 0.05, (3,), ("--wire", "null", "--rtt-ms", "99"))
    code = runs.all_bars([fine, slow], jobs=2)
    said = capsys.readouterr().out
    assert said.count("steady --nodes 8") >= 3
    assert "worst of 2 seeds" in said
    assert said.count("GET and FIND") == 3
    assert code == (1 if "MISSED" in said else 0)
    assert ("replay: python -m molia.sim steady" in said) == ("MISSED" in said)
