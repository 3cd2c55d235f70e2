"""`molia repair`: the queue, and a repair now."""

import json

from tests.cli.conftest import Run
from tests.cli.fake_node import REPAIR, FakeNode
from tests.cli.test_terminal import on_terminal

CID = str(REPAIR["cid"])


def test_the_queue_is_lines_ids_a_table_or_items(node: FakeNode, molia: Run) -> None:
    assert molia("repair").out == f"{CID}\twaiting\t13 (needs 10)\t1\tin 1h\n"
    assert molia("repair", "-q").out == CID + "\n"
    item, summary = map(json.loads, molia("repair", "--json").out.splitlines())
    assert (item["missing"], item["due_s"], summary["count"]) == (1, 3600.5, 1)
    code, screen = on_terminal("repair")
    assert code == 0
    assert all(text in screen for text in ("waiting", "13 (needs 10)", "in 1h"))


def test_a_blob_is_repaired_or_only_looked_at(node: FakeNode, molia: Run) -> None:
    assert molia("repair", CID).out.split("\t")[1] == "running"
    assert molia("repair", CID, "--dry-run").out.split("\t")[1] == "waiting"
    wrong = molia("repair", "what")
    assert (wrong.code, wrong.out) == (2, "")
