"""A publisher killed with -9 at any point of a put: all that was said stays true."""

import contextlib
import os
import random
import threading
import time
from collections.abc import Callable
from functools import partial
from http.client import HTTPException
from typing import Any

from molia.base.hashing import blake3_digest
from tests.network.crowd import PLACE_S, Crowd, Member, got
from tests.node.process import Answer, Node, body_of, until
from tests.node.scan import assert_no_orphans

POINTS = int(os.environ.get("MOLIA_TEST_KILL_POINTS", "4"))
SIZE = 5_300_000
"""Three stripes."""
LIFE_S = 25
Record = Callable[[str, object], None]


class Put(threading.Thread):
    """A put under way, and its answer if one comes."""

    def __init__(self, node: Node, body: bytes, query: str) -> None:
        super().__init__()
        self._client, self._body, self._query = node.client(), body, query
        self.answer: Answer | None = None

    def run(self) -> None:
        """Put."""
        with contextlib.suppress(OSError, HTTPException):
            answer = self._client("PUT", f"/blob{self._query}", self._body)
            self.answer = answer if answer.whole else None


def ended_jobs(node: Node) -> list[dict[str, Any]]:
    """Return the jobs of a node once all have ended; none of a node that has none."""
    jobs: list[dict[str, Any]] = node.client()("GET", "/jobs").json()["jobs"]
    return [] if any(job["state"] in ("queued", "running") for job in jobs) else jobs


def keepers(nodes: list[Member], cid: str) -> list[Member]:
    """Return the nodes that keep shares of a blob for another, by what they logged."""

    def count(node: Member, event: str) -> int:
        lines = node.log.read_text("utf-8", "replace").splitlines()
        return sum(f'"{cid[-8:]}"' in line and f'"{event}"' in line for line in lines)

    return [
        node for node in nodes
        if count(node, "share_kept") and not count(node, "held_share_ended")
    ]  # fmt: skip


def test_killed_at_any_point_the_job_ends_and_what_was_acknowledged_is_read_elsewhere(
    crowd: Crowd, record_property: Record
) -> None:
    rng, node, kept = random.Random(20), crowd.nodes[5], dict[str, bytes]()
    began_s = time.monotonic()
    kept[node.client().put(body_of(1_000, SIZE))] = body_of(1_000, SIZE)
    took_s, acknowledged, bound = time.monotonic() - began_s, 0, 0
    for point in range(POINTS):
        body = body_of(1_001 + point, SIZE)
        put = Put(node, body, rng.choice(["", "?wait=local"]))
        put.start()
        time.sleep(rng.uniform(0, took_s))  # the moment is what is drawn
        node.kill()
        put.join()
        node.start()
        content = blake3_digest(body).hex()
        cids = list(filter(None, [_cid_of(node, content)]))
        if put.answer is not None:
            acknowledged += 1
            assert put.answer.status == 201, put.answer
            assert cids == [put.answer.body.decode().strip()]
        for cid in cids:
            bound += 1
            until(partial(_is_safe, node, cid), f"{cid} is not placed", within_s=PLACE_S)
            kept[cid] = body
    until(lambda: ended_jobs(node), "a job does not end", within_s=PLACE_S)
    assert {job["state"] for job in ended_jobs(node)} <= {"done", "failed"}
    reader = crowd.nodes[11]
    for cid, body in kept.items():
        assert got(cid, reader) == body
    record_property(
        "summary",
        f"publisher: killed at {POINTS} points of puts, {acknowledged} acknowledged, "
        f"{bound} there after the restart, none lost",
    )


def _is_safe(node: Member, cid: str) -> bool:
    return node.survives(cid) >= 4


def _cid_of(node: Member, content: str) -> str:
    """Return the CID of what a node has stored; empty while it has not."""
    found = [blob["cid"] for blob in node.client().listing() if blob["content"] == content]
    return str(found[0]) if found else ""


def test_what_a_publisher_that_never_comes_back_half_placed_goes_with_its_lease(
    crowd: Crowd,
) -> None:
    node = crowd.nodes[7]
    others, content = crowd.up(node), blake3_digest(body_of(2_000, 4 * SIZE)).hex()
    until_unix_s = int(time.time()) + LIFE_S
    put = Put(node, body_of(2_000, 4 * SIZE), f"?pin=false&expires={until_unix_s}")
    put.start()
    try:
        cid = until(lambda: _cid_of(node, content), "it is not stored", within_s=PLACE_S)
        until(lambda: keepers(others, cid), "nothing is placed", within_s=PLACE_S)
        node.kill()
        put.join()
        until(
            lambda: not keepers(others, cid), "what was half placed stays",
            within_s=LIFE_S + PLACE_S,
        )  # fmt: skip
        assert time.time() >= until_unix_s, "it went before its time"
    finally:
        crowd.revive()
    looked_at = others[:3]
    for other in looked_at:
        other.kill()
        other.start()  # what a stream that broke off left goes with the next start
    crowd.wait_joined(looked_at)
    for other in looked_at:
        other.stop()
        assert_no_orphans(other.home)
    crowd.revive()
