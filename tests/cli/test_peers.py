"""`molia peers`, `ping` and `lookup`: tables, lines, steps as they come, and how they fail."""

import json

from tests.cli.conftest import Run
from tests.cli.fake_node import ADDRESS, PEER, RESULT, FakeNode
from tests.cli.test_terminal import on_terminal

STEPS: list[dict[str, object]] = [
    {"kind": "ask", "at_ms": 0.0, "peer": PEER, "why": "\x1b[31mseed"},
    {"kind": "answer", "at_ms": 12.5, "peer": PEER, "closer": [1, 2]},
    {"kind": "done", "key": "k", **RESULT},
]


def test_peers_are_addresses_keys_a_table_or_items(node: FakeNode, molia: Run) -> None:
    assert molia("peers").out == ADDRESS + "\n"
    assert molia("peers", "-q").out == PEER + "\n"
    item, summary = map(json.loads, molia("peers", "--json").out.splitlines())
    assert (item["type"], item["rtt_ms"], summary["count"]) == ("item", 12.5, 1)
    code, screen = on_terminal("peers")
    assert code == 0
    assert all(text in screen for text in ("verified", "12.5 ms", "1h", "198.51.100.7:7071"))


def test_ping_names_the_peer_by_key_or_address(node: FakeNode, molia: Run) -> None:
    assert molia("ping", PEER).out == f"{ADDRESS} 12.5 ms\n"
    assert molia("ping", ADDRESS, "-q").out == ADDRESS + "\n"
    assert json.loads(molia("ping", PEER, "--json").out)["serves"] is True
    code, screen = on_terminal("ping", PEER)
    assert code == 0
    assert "answered in 12.5 ms, sees us at 203.0.113.9:1" in " ".join(screen.split())
    assert "its clock -0.2 s" in " ".join(screen.split())


def test_lookup_prints_the_closest(node: FakeNode, molia: Run) -> None:
    ran = molia("lookup", f"{PEER}/news")
    assert ran.out == ADDRESS + "\n"
    assert ran.stderr == "1 closest nodes after 3 requests in 38 ms: the closest answered\n"
    assert molia("lookup", "k", "-q").out == PEER + "\n"
    found, summary = map(json.loads, molia("lookup", f"{PEER}/news", "--json").out.splitlines())
    assert (found["type"], found["key"], found["rpcs"]) == ("lookup", f"{PEER}/news", 3)
    assert (summary["type"], summary["count"]) == ("summary", 1)


def test_a_traced_lookup_shows_each_step(node: FakeNode, molia: Run) -> None:
    node.world.steps = STEPS
    first, second, last = molia("lookup", "k", "--trace").out.splitlines()
    assert first == rf"     0.0 ms  ask      peer={PEER} why=\x1b[31mseed"
    assert second == f"    12.5 ms  answer   peer={PEER} closer=1,2"
    assert last == ADDRESS
    lines = [
        json.loads(line) for line in molia("lookup", "k", "--trace", "--json").out.splitlines()
    ]
    assert [line["type"] for line in lines] == ["step", "step", "lookup", "summary"]
    assert lines[1]["step"] == "answer"
    assert lines[1]["data"]["closer"] == [1, 2]
    assert molia("lookup", "k", "--trace", "-q").out == PEER + "\n"


def test_a_lookup_that_fails_on_the_way_has_the_nodes_code(node: FakeNode, molia: Run) -> None:
    failed: dict[str, object] = {
        "kind": "error", "code": "lookup-timed-out", "status": 504, "detail": "few answered",
        "title": "The lookup timed out", "hint": "try again",
    }  # fmt: skip
    node.world.steps = [STEPS[0], failed]
    ran = molia("lookup", "k", "--trace")
    assert ran.code == 5
    assert ran.stderr == "error: few answered. Try again\n"
    assert len(ran.out.splitlines()) == 1


def test_steps_that_end_early_are_a_lost_connection(node: FakeNode, molia: Run) -> None:
    node.world.steps = STEPS[:2]
    ran = molia("lookup", "k", "--trace")
    assert (ran.code, len(ran.out.splitlines())) == (5, 2)
    node.world.steps, node.world.cut_events_after = STEPS, 1
    assert molia("lookup", "k", "--trace").code == 5


def test_id_says_how_the_node_stands(node: FakeNode) -> None:
    for dht, words in (
        (None, "alone"),
        ({"is_joined": False}, "no other node is known yet"),
        ({"is_joined": True, "contacts": 9, "network_nodes": 20, "reachable": True},
         "9 contacts of about 20 nodes, reachable"),
        ({"is_joined": True, "contacts": 9, "network_nodes": None, "reachable": False},
         "9 contacts, not reachable, a client"),
    ):  # fmt: skip
        node.world.dht = dht  # type: ignore[assignment]
        _, screen = on_terminal("id")
        assert f"others:    {words}" in screen
