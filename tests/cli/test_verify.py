"""`molia verify` follows the node's job to its end."""

import json
import signal
import time

import pytest

from molia.base.cid import Cid, Codec
from tests.cli.conftest import Run, spawn
from tests.cli.fake_node import JOB, FakeNode

MISSING = str(Cid(Codec.RAW, bytes(32)))


@pytest.fixture
def damaged(node: FakeNode) -> FakeNode:
    """A node whose job finds two damaged blobs and heals both."""
    cids = [node.world.add(bytes([index])).cid for index in range(2)]
    node.world.events = [
        {"kind": "progress", "blobs": 1, "blob_count": 2, "bytes": 10},
        {"kind": "item", "cid": cids[0], "detail": "3 blocks", "healed": True},
        {"kind": "item", "cid": cids[1], "detail": "1 block", "healed": True},
        {"kind": "done", "state": "done"},
    ]
    node.world.progress = {"blobs": 2, "damaged": 2, "healed": 2, "unhealed": 0}
    return node


def test_what_was_healed_is_told_and_all_is_well(damaged: FakeNode, molia: Run) -> None:
    first, second = damaged.world.blobs
    ran = molia("verify")
    assert ran.code == 0
    assert ran.out.splitlines() == [
        f"healed  {first}  3 blocks",
        f"healed  {second}  1 block",
        "verified: blobs 2, damaged 2, healed 2, unhealed 0",
    ]
    assert ("BODY", '{"kind": "verify", "cids": []}', {}) in damaged.world.requests
    assert molia("verify", "-q").out.split() == [first, second]


def test_what_could_not_be_healed_is_exit_6(damaged: FakeNode, molia: Run) -> None:
    damaged.world.events[2]["healed"] = False
    ran = molia("verify")
    assert ran.code == 6
    assert "NOT HEALED" in ran.out
    assert ran.stderr == "error: some damage could not be healed\n"
    *items, summary = [json.loads(line) for line in molia("verify", "--json").out.splitlines()]
    assert [item["healed"] for item in items] == [True, False]
    assert (summary["type"], summary["ok"], summary["exit_code"]) == ("summary", False, 6)


def test_damage_that_only_the_totals_tell_is_exit_6_too(damaged: FakeNode, molia: Run) -> None:
    damaged.world.events, damaged.world.progress = [], {"blobs": 2, "unhealed": 1}
    assert molia("verify").code == 6


def test_a_stream_that_breaks_is_taken_up_behind_the_last_event(
    damaged: FakeNode, molia: Run
) -> None:
    damaged.world.cut_events_after = 1
    ran = molia("verify", "--json")
    assert [json.loads(line)["type"] for line in ran.out.splitlines()] == [
        "item",
        "item",
        "summary",
    ]
    asked = [headers.get("Last-Event-ID") for _, path, headers in damaged.world.requests
             if path.endswith("/events")]  # fmt: skip
    assert asked[:4] == [None, "1", "2", "3"]


def test_named_blobs_go_by_their_cid_and_a_missing_one_is_exit_4(
    damaged: FakeNode, molia: Run
) -> None:
    kept = next(iter(damaged.world.blobs.values()))
    assert molia("verify", str(kept.row()["content"])).code == 0
    assert ("BODY", json.dumps({"kind": "verify", "cids": [kept.cid]}), {}) in (
        damaged.world.requests
    )
    assert molia("verify", MISSING).code == 4
    assert molia("verify", "nonsense").code == 2


@pytest.mark.parametrize("state", ["failed", "cancelled"])
def test_a_job_that_did_not_end_well_is_exit_1(damaged: FakeNode, molia: Run, state: str) -> None:
    damaged.world.job_state = state
    ran = molia("verify")
    assert ran.code == 1
    assert ran.stderr.startswith("error: ")


def test_ctrl_c_cancels_the_job(damaged: FakeNode) -> None:
    damaged.world.job_state, damaged.world.hold_s = "running", 120.0
    process = spawn("verify")
    while not any(path.endswith("/events") for _, path, _ in damaged.world.requests):
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, stderr = process.communicate(timeout=120)
    assert (process.returncode, stderr) == (130, b"error: interrupted\n")
    assert any(
        (method, path) == ("DELETE", f"/jobs/{JOB}") for method, path, _ in damaged.world.requests
    )


def test_a_named_node_that_does_not_run_is_exit_13(molia: Run) -> None:
    assert molia("verify", "--node", "unix:/nowhere").code == 13


def test_without_a_node_and_without_a_home_it_is_exit_10(molia: Run) -> None:
    ran = molia("verify")
    assert ran.code == 10
    assert "run molia init" in ran.stderr.lower()


def test_rebuilding_the_index_takes_no_cids(molia: Run) -> None:
    assert molia("verify", "--rebuild-index", MISSING).code == 2
    assert molia("verify", "--rebuild-index").code == 10
