"""A put on one node lies on others soon after; what goes wrong on the way is told and mended."""

import itertools
import json
import re
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest

from tests.node.process import Answer, Node, body_of, close_all, until
from tests.node.test_dht import address, joined, peer, stay

OFFER = "256MiB"
SIZE = 1_300_000
"""One stripe of which each of the 14 shares has a block."""
SEEDS = itertools.count(100)
T = TypeVar("T")


def start_network(nodes: list[Node]) -> None:
    """Start nodes that know each other: one that is given three of them is soon known to all."""
    firsts: list[str] = []
    for node in nodes:
        node.settings["MOLIA_DHT__REACHABLE"] = "yes"
        node.settings["MOLIA_DHT__BOOTSTRAP"] = ",".join(firsts)
        node.launch()
        if len(firsts) < 3:
            node.wait_ready()
            firsts.append(address(node))
    for node in nodes[3:]:
        node.wait_ready()
    joined(nodes, len(nodes) - 1)


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    """Five nodes that offer space to each other."""
    homes = tmp_path_factory.mktemp("placing")
    made = [Node(homes / f"home{number}") for number in range(5)]
    for node in made:
        node.settings["MOLIA_STORE__OFFER_BYTES"] = OFFER
    try:
        start_network(made)
        yield made
    finally:
        close_all(made)


def health(node: Node, cid: str) -> dict[str, Any]:
    """Return what a node says of a blob."""
    shown: dict[str, Any] = node.client()("GET", f"/blob/{cid}/health").json()
    return shown


def survives(node: Node, cid: str, losses: int) -> bool:
    """Tell whether a node says that a blob survives so many losses."""
    return bool(health(node, cid)["survives"] == losses)


def names(node: Node, cid: str, holder: str) -> bool:
    """Tell whether a node says that somebody holds a part of a blob."""
    return any(holder in share["holders"] for share in health(node, cid)["shares"])


def in_time(put: Callable[[int], T], is_well: Callable[[T], bool]) -> T:
    """Return what a put gave for which no holder was too late to be chosen.

    put: takes the seed of its bytes.
    """
    seeds = [next(SEEDS) for _ in range(3)]
    found = next(filter(is_well, map(put, seeds)), None)
    assert found is not None, "no put finds all holders"
    return found


def holdings(node: Node) -> dict[str, Any]:
    """Return what a node keeps for others."""
    shown: dict[str, Any] = node.client()("GET", "/node").json()["holding"]
    return shown


def test_a_put_lies_on_five_nodes_says_what_it_survives_and_is_read_everywhere(
    network: list[Node],
) -> None:
    def put(seed: int) -> tuple[bytes, list[int], Answer]:
        body, before = body_of(seed, SIZE), [holdings(node)["shares"] for node in network]
        return body, before, network[0].client()("PUT", "/blob", body, accept="application/json")

    body, before, answer = in_time(put, lambda put: put[2].json()["holders"] == 5)
    assert answer.status == 201, answer
    told = answer.json()
    assert (told["holders"], told["survives"], told["state"]) == (5, 1, "healthy")
    assert answer.headers["x-molia-survives"] == "1"
    job = network[0].client()("GET", f"/jobs/{answer.headers['x-molia-job']}").json()
    assert (job["kind"], job["state"], job["progress"]["placed"]) == ("place", "done", 14)
    now = [holdings(node)["shares"] for node in network]
    shares = [after - earlier for earlier, after in zip(before, now, strict=True)]
    assert shares[0] == 0
    assert sorted(shares[1:]) == [2, 3, 3, 3]
    holders = {
        key for share in health(network[0], told["cid"])["shares"] for key in share["holders"]
    }
    assert holders == {peer(node) for node in network}
    for node in network[1:]:
        assert node.client().get(told["cid"]) == body


def test_wait_local_answers_at_once_and_the_job_tells_the_rest(network: list[Node]) -> None:
    def put(seed: int) -> str:
        answer = network[2].client()("PUT", "/blob?wait=local", body_of(seed, SIZE))
        assert (answer.status, answer.headers["x-molia-survives"]) == (201, "0")
        events = network[2].client()("GET", f"/jobs/{answer.headers['x-molia-job']}/events")
        counts = [int(text) for text in re.findall(r'"placed": ?(\d+)', events.body.decode())]
        assert counts == sorted(counts)
        assert counts[-1] == 14
        return answer.body.decode().strip()

    in_time(put, lambda cid: survives(network[2], cid, 1))


def test_the_command_shows_what_a_put_survives(network: list[Node], tmp_path: Path) -> None:
    def put(seed: int) -> dict[str, Any]:
        file = tmp_path / "file.bin"
        file.write_bytes(body_of(seed, SIZE))
        done = network[0].molia("put", str(file), "--json")
        assert done.returncode == 0, done
        shown: dict[str, Any] = json.loads(done.stdout.splitlines()[-2])
        return shown

    item = in_time(put, lambda item: item["holders"] == 5)
    assert (item["holders"], item["survives"], item["state"]) == (5, 1, "healthy")

    def is_shown() -> bool:
        shown = network[0].molia("stat", item["cid"], "--json")
        return bool(json.loads(shown.stdout)["health"]["survives"] == 1)

    until(is_shown, "what it survives is not shown")


def test_a_publisher_that_is_killed_at_any_moment_goes_on_after_its_restart(
    network: list[Node],
) -> None:
    node = network[1]
    stay(node)
    acknowledged: list[tuple[int, str]] = []
    for seed, after_s in enumerate((0.0, 0.1), start=10):
        answer = node.client()("PUT", "/blob?wait=local", body_of(seed, 5 * SIZE))
        acknowledged.append((seed, answer.body.decode().strip()))
        small = node.client()("PUT", "/blob?wait=local", body_of(seed, 1_000))
        acknowledged.append((seed, small.body.decode().strip()))
        time.sleep(after_s)  # the moment is what is drawn
        node.kill()
        node.start()
    for seed, cid in acknowledged:
        is_small = cid.startswith("bafkr")
        wanted = 4 if is_small else 1
        until(partial(survives, node, cid, wanted), f"{cid} is not placed")
        size = 1_000 if is_small else 5 * SIZE
        assert network[4].client().get(cid) == body_of(seed, size)
    states = {job["state"] for job in node.client()("GET", "/jobs").json()["jobs"]}
    assert states == {"done"}


@pytest.mark.parametrize("is_killed", [True, False])
def test_what_was_put_before_anybody_was_there_is_placed_once_somebody_is(
    tmp_path: Path, is_killed: bool
) -> None:
    first, second = Node(tmp_path / "first"), Node(tmp_path / "second")
    first.settings["MOLIA_WORKERS"] = "2"
    second.settings["MOLIA_STORE__OFFER_BYTES"] = OFFER
    for node in (first, second):
        node.settings["MOLIA_DHT__REACHABLE"] = "yes"
    try:
        first.start()
        stay(first)
        bodies = [body_of(20, SIZE), *(body_of(seed, 1_000) for seed in range(21, 25))]
        told = [first.client()("PUT", "/blob?wait=local", body) for body in bodies]
        assert [each.status for each in told] == len(told) * [201]
        assert {each.headers["x-molia-survives"] for each in told} == {"0"}
        if is_killed:
            first.kill()
            first.start()
        second.settings["MOLIA_DHT__BOOTSTRAP"] = address(first)
        second.start()
        for body, each in zip(bodies, told, strict=True):
            cid = each.body.decode().strip()
            until(partial(names, first, cid, peer(second)), f"{cid} is not placed")
            assert second.client().get(cid) == body
    finally:
        close_all([first, second])


def test_a_worker_that_writes_no_shard_answers_when_a_blob_is_placed(tmp_path: Path) -> None:
    first, second = Node(tmp_path / "first"), Node(tmp_path / "second")
    second.settings |= {"MOLIA_WORKERS": "3", "MOLIA_STORE__SHARDS": "1"}
    for node in (first, second):
        node.settings["MOLIA_STORE__OFFER_BYTES"] = OFFER
    try:
        start_network([first, second])
        told = []
        for seed in range(30, 46):  # any worker takes a connection
            client = second.client()
            client.connection.timeout = 20.0
            told.append(client("PUT", "/blob", body_of(seed, SIZE), accept="application/json"))
        assert {each.status for each in told} == {201}
        assert {each.json()["holders"] for each in told[8:]} == {2}
    finally:
        close_all([first, second])
