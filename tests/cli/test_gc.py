"""`molia gc`: what nobody wants any more."""

import json

from tests.cli.conftest import Run
from tests.cli.fake_node import FakeNode


def test_each_kind_is_a_line_and_a_doubt_about_the_clock_is_told(
    node: FakeNode, molia: Run
) -> None:
    told = molia("gc", "--dry-run")
    assert told.out.splitlines() == [
        "2 blobs of yours, whose time is over: 2.9 KiB would go",
        "0 blobs removed before, too long ago to be brought back: 0 B would go",
        "1 blobs kept for others, whose leases have all ended: 70 B would go",
    ]
    assert molia("gc", "-q").out.splitlines()[0] == "blobs\t2\t3000"
    assert "70 B gone" in molia("gc").out
    told_json = json.loads(molia("gc", "--json").out)
    assert (told_json["type"], told_json["blobs"], told_json["dry_run"]) == ("garbage", 2, False)
    assert told_json["asked"] == {"dry_run": False}
    node.world.unwanted["doubt"] = "the clock jumped"
    assert "nothing goes for its age: the clock jumped" in molia("gc").stderr
