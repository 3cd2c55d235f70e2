"""Real nodes on loopback: what one has, every other one gives; what nobody has, it says in time."""

import time
from collections.abc import Iterator
from functools import partial

import pytest

from molia.base.hashing import blake3_digest
from tests.node.process import Node, body_of, close_all, until
from tests.node.test_dht import address, joined, peer

LARGE, SMALL = body_of(21, 5_300_000), body_of(22, 70_000)


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    """Three nodes that know each other, the last with two workers."""
    homes = tmp_path_factory.mktemp("network")
    made = [Node(homes / f"home{number}") for number in range(3)]
    made[2].settings["MOLIA_WORKERS"] = "2"
    try:
        made[0].start()
        for node in made[1:]:
            node.settings["MOLIA_DHT__BOOTSTRAP"] = address(made[0])
            node.launch()
        for node in made[1:]:
            node.wait_ready()
        joined(made, 2)
        yield made
    finally:
        close_all(made)


@pytest.fixture(scope="module")
def blobs(nodes: list[Node]) -> tuple[str, str]:
    """Return a large and a small blob, put on the node with two workers and found by the others."""
    large, small = (nodes[2].client().put(body, "?name=a.bin") for body in (LARGE, SMALL))
    for cid in (large, small):
        until(partial(_is_announced, nodes[0], cid), "nobody is told of a blob")
    return large, small


def _is_announced(node: Node, cid: str) -> bool:
    return node.client()("GET", f"/provider/{cid}").status == 200


def test_a_node_that_never_saw_a_blob_gives_it(nodes: list[Node], blobs: tuple[str, str]) -> None:
    for node in nodes[:2]:
        for cid, body in zip(blobs, (LARGE, SMALL), strict=True):
            client = node.client()
            assert client.get(cid) == body
            head = client("HEAD", f"/blob/{cid}")
            assert (head.status, head.headers["content-length"]) == (200, str(len(body)))
            part = client("GET", f"/blob/{cid}", Range="bytes=60000-65000")
            assert (part.status, part.body) == (206, body[60_000:65_001])
            beyond = client("GET", f"/blob/{cid}", Range=f"bytes={len(body)}-")
            assert beyond.status == 416
    assert nodes[2].client().metric("molia_blob_requests_total") > 0


def test_any_worker_of_a_node_gets_what_is_elsewhere(nodes: list[Node]) -> None:
    body = body_of(24, 1_400_000)
    cid = nodes[0].client().put(body)
    until(partial(_is_announced, nodes[2], cid), "nobody is told of the blob")
    for _ in range(6):  # each on a connection of its own, and so of either worker
        part = nodes[2].client()("GET", f"/blob/{cid}", Range="bytes=1000-300000")
        assert (part.status, part.body) == (206, body[1_000:300_001])


def test_what_is_asked_for_locally_is_asked_of_nobody(
    nodes: list[Node], blobs: tuple[str, str]
) -> None:
    told = nodes[2].client()("GET", f"/blob/{blobs[0]}", Cache_Control="only-if-cached")
    assert told.status == 200
    absent = nodes[1].client().put(b"here alone")
    refused = nodes[0].client()("GET", f"/blob/{absent}", Cache_Control="only-if-cached")
    assert (refused.status, refused.code) == (412, "not-cached")


def test_a_content_hash_leads_to_a_blob_elsewhere(
    nodes: list[Node], blobs: tuple[str, str]
) -> None:
    for cid, body in zip(blobs, (LARGE, SMALL), strict=True):
        content = blake3_digest(body).hex()
        until(partial(_is_announced, nodes[0], content), "no binding is found")
        answer = nodes[0].client()("GET", f"/blob/{content}")
        assert (answer.status, answer.body) == (200, body)
        assert answer.headers["etag"] == f'"{cid}"'


def test_commands_get_show_and_check_what_is_elsewhere(
    nodes: list[Node], blobs: tuple[str, str]
) -> None:
    node, (large, small) = nodes[0], blobs
    got = node.molia("get", large, "-o", "out.bin", "--force")
    assert got.returncode == 0, got.stderr
    assert (node.home.parent / "out.bin").read_bytes() == LARGE
    assert node.molia("cat", small).stdout == SMALL
    shown = node.molia("stat", large)
    assert shown.returncode == 0, shown.stderr
    assert b"state:" in shown.stdout

    def is_named() -> bool:
        health = node.client()("GET", f"/blob/{large}/health").json()
        holders = {holder for share in health["shares"] for holder in share["holders"]}
        return health["state"] == "healthy" and peer(nodes[2]) in holders

    until(is_named, "who has it is not named")


def test_what_nobody_has_is_said_in_time(nodes: list[Node]) -> None:
    absent = "bafyr4ifxglj7722cgjf7y2brywyxbshye2vpsxcxjrsxggla7r2yuzcalq"
    began_s = time.monotonic()
    answer = nodes[0].client()("GET", f"/blob/{absent}")
    assert (answer.status, answer.code) == (404, "no-holders")
    assert time.monotonic() - began_s <= 30, "a search takes eight seconds at most"
    told = nodes[0].molia("get", absent, "-o", "none.bin")
    assert told.returncode == 4
    assert b"nobody is known to have" in told.stderr


def test_what_was_got_once_is_cached(nodes: list[Node], blobs: tuple[str, str]) -> None:
    for cid, body in zip(blobs, (LARGE, SMALL), strict=True):
        assert nodes[1].client().get(cid) == body
        until(partial(_is_local, nodes[1], cid), "it is not cached")
        assert cid not in nodes[1].client().cids()
        assert nodes[1].client()("DELETE", f"/blob/{cid}").status == 404


def _is_local(node: Node, cid: str) -> bool:
    return node.client()("GET", f"/blob/{cid}", Cache_Control="only-if-cached").status == 200


def test_a_holder_that_is_gone_is_named(nodes: list[Node]) -> None:
    cid = nodes[2].client().put(body_of(23, 1_200_000))
    until(partial(_is_announced, nodes[0], cid), "nobody is told of the blob")
    key = peer(nodes[2])
    nodes[2].kill()
    answer = nodes[1].client()("GET", f"/blob/{cid}")
    assert (answer.status, answer.code) == (504, "shares-out-of-reach"), answer
    assert key[-8:] in answer.json()["detail"]
    assert "needed shares" in answer.json()["detail"]
