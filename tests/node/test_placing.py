"""A put on one node lies on others soon after; what goes wrong on the way is told and mended."""

import json
from collections.abc import Iterator

import pytest

from tests.node.process import Node, body_of
from tests.node.test_dht import address, joined

OFFER = "256MiB"
SIZE = 1_300_000
"""One stripe of which each of the 14 shares has a block."""


def start_network(nodes: list[Node]) -> None:
    """Start nodes that know each other."""
    nodes[0].start()
    for node in nodes[1:]:
        node.settings["MOLIA_DHT__BOOTSTRAP"] = address(nodes[0])
        node.launch()
    for node in nodes[1:]:
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
        for node in made:
            node.close()


def test_a_put_lies_on_five_nodes_and_says_what_it_survives(network: list[Node]) -> None:
    answer = network[0].client()("PUT", "/blob", body_of(1, SIZE), accept="application/json")
    assert answer.status == 201, answer
    print(answer)
    told = answer.json()
    assert (told["holders"], told["survives"], told["state"]) == (5, 1, "healthy")
    assert answer.headers["x-molia-survives"] == "1"
    job = network[0].client()("GET", f"/jobs/{answer.headers['x-molia-job']}").json()
    print(json.dumps(job))
    for node in network[1:]:
        print(node.client().metric("molia_held_shares"))
    cid = told["cid"]
    for node in network[1:]:
        assert node.client().get(cid) == body_of(1, SIZE)
