"""`ls`, `stat`, `rm` and `pin`."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from molia.base.cid import Cid, Codec
from molia.base.hashing import blake3_digest
from tests.cli.conftest import Run
from tests.cli.fake_node import JOB, PEER, FakeNode

MISSING = str(Cid(Codec.RAW, bytes(32)))


@pytest.fixture
def five(node: FakeNode) -> list[str]:
    """Five blobs, so that a listing has three pages; every other one is pinned."""
    bodies = [bytes([index]) * 10 for index in range(5)]
    return [
        node.world.add(body, name=f"f{index}", pinned=index % 2 == 0).cid
        for index, body in enumerate(bodies)
    ]


def objects(out: str) -> list[dict[str, object]]:
    return [json.loads(line) for line in out.splitlines()]


def test_ls_gives_every_page_one_cid_a_line(molia: Run, five: list[str]) -> None:
    assert molia("ls").out.split() == five
    assert molia("ls", "-q").out.split() == five


def test_ls_long_gives_columns_for_scripts(node: FakeNode, molia: Run, five: list[str]) -> None:
    node.world.blobs[five[0]].name = "tab\tand\nline\x1b[31m"
    rows = [line.split("\t") for line in molia("ls", "-l").out.splitlines()]
    assert len(rows) == 5
    assert [row[0] for row in rows] == five
    assert rows[0][1:3] == ["10", "pinned"]
    assert rows[1][2] == "-"
    assert rows[0][4] == "tab\\tand\\nline\\x1b[31m"


def test_ls_filters_by_pin_and_risk(node: FakeNode, molia: Run, five: list[str]) -> None:
    assert molia("ls", "--pinned").out.split() == five[::2]
    assert molia("pin", "ls").out.split() == five[::2]
    assert molia("ls", "--at-risk").out == ""
    node.world.state = "degraded"
    assert molia("ls", "--at-risk", "--pinned").out.split() == five[::2]


def test_ls_json_is_items_and_a_summary(molia: Run, five: list[str]) -> None:
    *items, summary = objects(molia("ls", "--json").out)
    assert [item["cid"] for item in items] == five
    assert {item["type"] for item in items} == {"item"}
    assert (summary["type"], summary["count"]) == ("summary", 5)


def test_stat_shows_what_is_known(node: FakeNode, molia: Run) -> None:
    kept = node.world.add(b"x" * 2_000_000, name="film\x1b]0;evil")
    out = molia("stat", kept.cid).out
    assert f"cid:      {kept.cid}\n" in out
    assert "size:     2000000\n" in out
    assert "shares:   14 kept, 10 needed\n" in out
    assert "\x1b" not in out
    blob = json.loads(molia("stat", kept.cid, "--json").out)
    assert blob["name"] == "film\x1b]0;evil"
    assert blob["health"]["spare_shares"] == 4
    assert molia("stat", kept.cid, "-q").out == kept.cid + "\n"


def test_stat_manifest_writes_its_bytes(node: FakeNode, molia: Run) -> None:
    kept = node.world.add(b"x" * 2_000_000)
    assert molia("stat", "--manifest", kept.cid).stdout == kept.manifest
    assert json.loads(molia("stat", "--manifest", kept.cid, "--json").out)["k"] == 10
    assert molia("stat", "--manifest", node.world.add(b"x").cid).code == 4


@pytest.mark.parametrize("name", ["plain.bin", "back\\slash"])
def test_stat_b3_is_what_b3sum_checks(node: FakeNode, molia: Run, name: str) -> None:
    body = b"y" * 1_500_000
    kept = node.world.add(body, name="plain.bin")
    out = molia("stat", "--b3", kept.cid).out
    assert out == f"{blake3_digest(body).hex()}  plain.bin\n"
    b3sum = shutil.which("b3sum")
    if b3sum is None:
        pytest.skip("b3sum is not installed: the line is compared, not checked by it")
    Path("plain.bin").write_bytes(body)
    checked = subprocess.run([b3sum, "-c"], input=out.encode(), capture_output=True, check=True)
    assert b"OK" in checked.stdout


def test_rm_removes_and_goes_on_after_a_failure(
    node: FakeNode, molia: Run, five: list[str]
) -> None:
    ran = molia("rm", five[0], MISSING, five[1])
    assert ran.code == 3
    assert ran.out.split() == five[:2]
    assert ran.stderr.startswith(f"error: no blob {MISSING}")
    assert list(node.world.blobs) == five[2:]
    assert molia("rm", MISSING).code == 4
    error, summary = objects(molia("rm", MISSING, "--json").out)
    assert (error["type"], error["cid"], error["exit_code"]) == ("error", MISSING, 4)
    assert (summary["type"], summary["failed"]) == ("summary", 1)


def test_undelete_lists_what_is_there_and_brings_it_back(
    node: FakeNode, molia: Run, five: list[str]
) -> None:
    assert molia("undelete").out == ""
    molia("rm", five[0], five[1])
    assert molia("undelete").out.split() == five[:2]
    item, _, summary = objects(molia("undelete", "--json").out)
    assert (item["cid"], item["until_unix_s"]) == (five[0], 2_000_000_000)
    assert (summary["type"], summary["count"]) == ("summary", 2)
    ran = molia("undelete", five[0], MISSING)
    assert (ran.code, ran.out.split()) == (3, five[:1])
    assert set(node.world.blobs) == {*five} - {five[1]}
    assert molia("undelete", "oops").code == 2


def test_a_slip_in_the_last_cid_removes_nothing(
    node: FakeNode, molia: Run, five: list[str]
) -> None:
    assert molia("rm", five[0], "oops").code == 2
    assert len(node.world.blobs) == 5


def test_pin_add_and_rm(node: FakeNode, molia: Run, five: list[str]) -> None:
    assert molia("pin", "add", five[1], five[3]).out.split() == [five[1], five[3]]
    assert all(kept.pinned for kept in node.world.blobs.values())
    assert molia("pin", "rm", five[0]).code == 0
    assert not node.world.blobs[five[0]].pinned
    assert molia("pin", "add", MISSING).code == 4


def test_a_pin_of_what_others_have_waits_until_it_is_here(node: FakeNode, molia: Run) -> None:
    node.world.elsewhere = MISSING
    node.world.events = [
        {"kind": "progress", "bytes": 100, "size": 100},
        {"kind": "done", "state": "done"},
    ]
    node.world.progress = {"bytes": 100, "size": 100, "holders": 6, "survives": 4}
    assert molia("pin", "add", MISSING).out.split() == [MISSING]
    item, summary = map(json.loads, molia("pin", "add", MISSING, "--json").out.splitlines())
    assert (item["pinned"], item["holders"], item["survives"]) == (True, 6, 4)
    assert summary["ok"]
    before = len(node.world.requests)
    told = json.loads(molia("pin", "add", MISSING, "--no-wait", "--json").out.splitlines()[0])
    assert (told["pinned"], told["job"]) == (True, JOB)
    assert [path for _, path, _ in node.world.requests[before:]] == [f"/pin/{MISSING}"]
    node.world.job_state = "failed"
    ran = molia("pin", "add", MISSING)
    assert (ran.code, ran.out) == (1, "")
    assert "gave up: disk" in ran.stderr


def test_id_is_the_peer_key(node: FakeNode, molia: Run) -> None:
    assert molia("id").out == PEER + "\n"
    assert json.loads(molia("id", "--json").out)["network"] == "molia"
