"""What cannot be read is said with the reason, by HTTP and by the command."""

import json

from tests.network.crowd import Crowd, got, put_well
from tests.node.process import body_of

SIZE = 1_300_000
"""One stripe of which each of the 14 shares has a block."""
ABSENT = "bafyr4ifxglj7722cgjf7y2brywyxbshye2vpsxcxjrsxggla7r2yuzcalq"
NOT_FOUND, OUT_OF_REACH = 4, 5


def test_with_nine_of_fourteen_shares_left_it_says_so_and_who_was_asked(crowd: Crowd) -> None:
    publisher = crowd.nodes[3]
    cid = put_well(publisher, body_of(9, SIZE))
    holders = crowd.holders(cid, publisher)
    gone = [publisher, *[node for node in holders if node is not publisher][:4]]
    reader = crowd.up(*holders)[0]
    try:
        crowd.kill(gone)
        answer = reader.client()("GET", f"/blob/{cid}")
        assert (answer.status, answer.code) == (504, "shares-out-of-reach"), answer
        told = answer.json()["detail"]
        assert "9 of 10 needed shares" in told
        for node in holders:
            assert node.key[-8:] in told
        done = reader.molia("get", cid, "-o", "none.bin", "--no-progress")
        assert done.returncode == OUT_OF_REACH, done
        assert b"9 of 10 needed shares" in done.stderr
        assert not (reader.home.parent / "none.bin").exists()
        health = reader.health(cid)
        assert (health["state"], health["survives"], health["spare_shares"]) == ("lost", 0, 0)
    finally:
        crowd.revive()
    assert got(cid, reader) == body_of(9, SIZE)


def test_what_nobody_has_is_not_found_in_ten_seconds(crowd: Crowd) -> None:
    reader = crowd.nodes[0]
    done = reader.molia("get", ABSENT, "-o", "none.bin", "--json")
    assert done.returncode == NOT_FOUND, done
    (told,) = [json.loads(line) for line in done.stdout.splitlines() if b'"error"' in line]
    assert (told["type"], told["code"]) == ("error", "no-holders")
