"""`molia doctor`: one line for each thing that was looked at, and what to do about the bad ones."""

import json
import time
from pathlib import Path
from typing import Any

import pytest

from molia.cli.doctor import BAD, OK, WARN, diagnose, disk_bytes
from tests.cli.conftest import Run
from tests.cli.fake_node import FakeNode

GIB = 1 << 30
NOW = int(time.time())


def shard(**changed: object) -> dict[str, object]:
    """Return how a shard is that is well."""
    scrub = {"phase": "idle", "started_unix_s": NOW - 90_000, "ended_unix_s": NOW - 86_400,
             "read_bytes": 5, "part": 1.0, "damaged": 0}  # fmt: skip
    return {"index": 0, "state": "ok", "reason": "", "keys": 5, "log_bytes": 1000,
            "disk_bytes": 2000, "live_bytes": 900, "punchable_bytes": 0, "garbage_bytes": 50,
            "segments": 2, "compaction": "", "unapplied_bytes": 10, "reader_lag": 0, "damaged": 0,
            "scrub": scrub, "clock": "", "last_recovery": ""} | changed  # fmt: skip


def state_of(*shards: dict[str, object], **changed: object) -> dict[str, object]:
    """Return how a node is that is well."""
    worker = {"index": 0, "state": "running", "pid": 1, "uptime_s": 5.0, "restarts": 0}
    return {"stored_bytes": GIB, "quota_bytes": 10 * GIB, "disk_free_bytes": 50 * GIB, "home": "",
            "shards": list(shards) or [shard()], "processes": [worker],
            "dht": {"is_joined": True, "reachable": True, "contacts": 7}} | changed  # fmt: skip


def test_a_node_that_is_well_has_nothing_but_ok() -> None:
    found = {finding.what: finding.level for finding in diagnose(state_of())}
    assert set(found.values()) == {OK}
    assert {"node", "quota", "disk", "garbage", "index", "scrub", "damage", "clock"} < set(found)


@pytest.mark.parametrize(
    ("state", "what", "level"),
    [
        (state_of(shard(state="read-only", reason="EIO")), "shard 0", BAD),
        (state_of(shard(state="full")), "node", BAD),
        (state_of(stored_bytes=9 * GIB), "quota", BAD),
        (state_of(disk_free_bytes=2 * GIB), "disk", WARN),
        (state_of(shard(unapplied_bytes=2 * GIB)), "index", WARN),
        (state_of(shard(reader_lag=50_000)), "index", WARN),
        (state_of(shard(damaged=3)), "damage", WARN),
        (state_of(shard(), shard(index=1, clock="the clock jumped by 9000 s")), "clock", WARN),
        (
            state_of(shard(scrub={"started_unix_s": 5, "phase": "segments", "part": 0.5})),
            "scrub",
            WARN,
        ),
        (state_of(processes=[{"state": "starting", "restarts": 2}]), "workers", WARN),
        (state_of(dht={"is_joined": True, "reachable": False, "contacts": 1}), "network", WARN),
    ],
)
def test_what_is_not_well_is_said_with_a_remedy(
    state: dict[str, object], what: str, level: str
) -> None:
    (finding,) = [finding for finding in diagnose(state) if finding.what == what]
    assert finding.level == level
    assert finding.remedy or what in ("node", "workers")


@pytest.mark.parametrize("junk", [None, 5, "x", [], {}, [None], [5], [{}], [{"scrub": {}}], -1])
def test_an_answer_that_makes_no_sense_makes_no_traceback(junk: Any) -> None:
    keys = ("shards", "processes", "dht", "stored_bytes", "quota_bytes", "disk_free_bytes", "home")
    for key in keys:
        assert list(diagnose(state_of(**{key: junk})))
    for key in shard():
        assert list(diagnose(state_of(shard(**{key: junk}))))
    assert list(diagnose({}))


def test_the_disk_is_asked_itself(tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "log").write_bytes(bytes(40 << 20))
    taken = disk_bytes(data)
    assert taken >= 40 << 20
    for stored, level in ((taken, OK), (taken * 2, WARN)):
        state = state_of(home=str(tmp_path), stored_bytes=stored)
        (finding,) = [finding for finding in diagnose(state) if finding.what == "disk truth"]
        assert finding.level == level


def test_the_verb_prints_a_line_each_and_its_code_tells(node: FakeNode, molia: Run) -> None:
    node.world.node = state_of()
    ran = molia("doctor")
    assert ran.code == 0
    assert all(line.startswith("ok:") for line in ran.out.splitlines())
    assert molia("doctor", "-q").out == ""
    node.world.node = state_of(shard(state="read-only", reason="EIO"))
    ran = molia("doctor", "-q")
    assert ran.code == 1
    assert "bad:  shard 0: read-only: EIO. Look at the disk" in ran.out
    *items, summary = [json.loads(line) for line in molia("doctor", "--json").out.splitlines()]
    assert {"type", "level", "what", "detail", "remedy"} <= set(items[0])
    assert (summary["ok"], summary["exit_code"], summary["bad"]) == (False, 1, 2)


def test_the_verb_lets_the_node_trust_its_clock(node: FakeNode, molia: Run) -> None:
    node.world.node = state_of()
    assert molia("doctor", "--trust-clock").code == 0
    assert ("POST", "/clock/trust") in [request[:2] for request in node.world.requests]
