"""Providers, peers, pings and lookups over HTTP."""

import asyncio
import json
import re
from typing import Any

import pytest

from molia.base import limits
from molia.base.errors import BlobNotFound, LookupTimedOut, NotJoined, PeerSilent
from tests.api.asgi import Client
from tests.api.fake_network import OTHER, OWN

pytestmark = pytest.mark.anyio
ABSENT = "bafkr4i" + "a" * 52
ADDRESS = f"molia://{OTHER}@198.51.100.7:7071"


@pytest.fixture
def client() -> Client:
    return Client(unix=True)


def events_of(body: bytes) -> list[tuple[int, str, Any]]:
    """Return id, kind and data of each event of a stream."""
    found = []
    for block in body.decode().split("\n\n"):
        match = re.fullmatch(r"id: (\d+)\nevent: (\w+)\ndata: (.*)", block)
        if match is not None:
            found.append((int(match.group(1)), match.group(2), json.loads(match.group(3))))
    return found


JSON_HEAD = {"content-type": "application/json"}


async def test_providers_are_found_and_a_blob_is_announced(client: Client) -> None:
    cid = (await client("PUT", "/blob", body=b"x")).body.decode().strip()
    found = (await client("GET", f"/provider/{cid}")).json()
    assert found["cid"] == cid
    assert found["providers"][0]["peer"] == str(OTHER)
    assert found["providers"][0]["shares"] == [0, 13]
    told = await client("POST", f"/provider/{cid}")
    assert told.status == 202
    assert told.json() == {"cid": cid, "locations": 2, "acks": 40, "walks": 2}
    assert (await client("GET", f"/provider/{ABSENT}")).code == "no-providers"
    assert (await client("POST", f"/provider/{ABSENT}")).code == "blob-not-found"
    for method in ("GET", "POST"):
        assert (await client(method, "/provider/what")).code == "bad-cid"


async def test_peers_are_listed_as_json_and_as_addresses(client: Client) -> None:
    peers = (await client("GET", "/peers")).json()["peers"]
    assert [peer["state"] for peer in peers] == ["verified", "session"]
    assert peers[0]["rtt_ms"] == 12.5
    assert peers[1]["bucket"] is None
    text = await client("GET", "/peers", headers={"accept": "text/plain"})
    assert text.body.decode().splitlines()[0] == ADDRESS


async def test_a_peer_is_pinged_by_key_and_by_address(client: Client) -> None:
    for target in (str(OTHER), ADDRESS, ADDRESS.replace("/", "%2F").replace(":", "%3A")):
        pong = await client("POST", f"/peers/{target}/ping")
        assert (pong.status, pong.json()["address"]) == (200, ADDRESS)
        assert pong.json()["seen_address"] == "203.0.113.9:7071"
    assert (await client("POST", f"/peers/{OWN}/ping")).code == "peer-not-found"
    assert (await client("POST", "/peers/x/ping")).code == "bad-peer-key"
    assert (await client("GET", f"/peers/{OTHER}/ping")).status == 405
    client.node.network_error = PeerSilent("no answer in 5 s")
    silent = await client("POST", f"/peers/{OTHER}/ping")
    assert (silent.status, silent.code) == (504, "peer-silent")


async def test_a_lookup_gives_its_result_alone(client: Client) -> None:
    answer = await client("GET", f"/lookup/{OTHER}/news")
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    assert answer.json()["key"] == f"{OTHER}/news"
    assert answer.json()["closest"][0]["peer"] == str(OTHER)


@pytest.mark.parametrize(
    ("query", "headers"),
    [("?trace=true", {}), ("", {"accept": "text/event-stream"})],
)
async def test_a_traced_lookup_streams_its_steps(
    client: Client, query: str, headers: dict[str, str]
) -> None:
    node = client.node
    node.lookup_waits.clear()
    request = asyncio.ensure_future(client("GET", f"/lookup/{OTHER}{query}", headers=headers))
    while not events_of(client.last.body):
        assert not request.done()
        await asyncio.sleep(0)
    assert [kind for _, kind, _ in events_of(client.last.body)] == ["ask"]
    node.lookup_waits.set()
    answer = await request
    assert answer.headers["content-type"].startswith("text/event-stream")
    steps = events_of(answer.body)
    assert [step[:2] for step in steps] == [(1, "ask"), (2, "answer"), (3, "done")]
    assert steps[-1][2]["rpcs"] == 3
    assert node.lookups_open == 0


async def test_a_failure_on_the_way_is_the_last_event(client: Client) -> None:
    client.node.lookup_error = LookupTimedOut("too few answered")
    answer = await client("GET", f"/lookup/{OTHER}?trace=true")
    assert answer.status == 200
    (_, kind, data) = events_of(answer.body)[-1]
    assert (kind, data["code"], data["status"]) == ("error", "lookup-timed-out", 504)
    plain = await client("GET", f"/lookup/{OTHER}")
    assert (plain.status, plain.code) == (504, "lookup-timed-out")


async def test_what_fails_before_the_first_step_is_a_problem(client: Client) -> None:
    for query in ("", "?trace=true"):
        assert (await client("GET", f"/lookup/nothing{query}")).code == "bad-lookup-key"
        assert (await client("GET", f"/lookup/{'k' * 401}{query}")).code == "bad-lookup-key"
        assert (await client("GET", f"/lookup/{query}")).code == "bad-lookup-key"
    client.node.network_error = NotJoined()
    for query in ("", "?trace=true"):
        answer = await client("GET", f"/lookup/{OTHER}{query}")
        assert (answer.status, answer.code) == (503, "not-joined")


async def test_a_client_that_leaves_ends_its_lookup(client: Client) -> None:
    client.node.lookup_waits.clear()
    answer = await client("GET", f"/lookup/{OTHER}?trace=true", leaves=True)
    assert [kind for _, kind, _ in events_of(answer.body)][:1] in ([], ["ask"])
    assert client.node.lookups_open == 0


async def test_a_node_that_stops_ends_lookups_that_are_watched(client: Client) -> None:
    client.node.lookup_waits.clear()
    client.app.state.closing.set()
    await client("GET", f"/lookup/{OTHER}?trace=true")
    assert client.node.lookups_open == 0


async def test_only_so_many_lookups_run_at_once(client: Client) -> None:
    client.node.lookup_waits.clear()
    target = f"/lookup/{OTHER}?trace=true"
    calls = [asyncio.ensure_future(client("GET", target)) for _ in range(limits.LOOKUP_STREAMS_MAX)]
    while client.node.lookups_open < limits.LOOKUP_STREAMS_MAX:
        await asyncio.sleep(0)
    for query in ("", "?trace=true"):
        refused = await client("GET", f"/lookup/{OTHER}{query}")
        assert (refused.status, refused.code) == (503, "busy")
    client.node.lookup_waits.set()
    await asyncio.gather(*calls)
    assert (await client("GET", target)).status == 200


async def test_pings_and_announcements_need_the_token_and_reading_does_not() -> None:
    client = Client()
    cid = (await client("PUT", "/blob", body=b"x")).body.decode().strip()
    for target in (f"/provider/{cid}", f"/peers/{OTHER}/ping"):
        assert (await client("POST", target)).code == "unauthorized"
    for target in (f"/provider/{cid}", "/peers", f"/lookup/{OTHER}"):
        assert (await client("GET", target)).status == 200


async def test_every_failure_of_the_network_is_a_problem(client: Client) -> None:
    client.node.network_error = BlobNotFound("x")
    cid = (await client("PUT", "/blob", body=b"x")).body.decode().strip()
    for method, target in (("GET", f"/provider/{cid}"), ("POST", f"/provider/{cid}")):
        assert (await client(method, target)).code == "blob-not-found"


async def test_repairs_are_listed_and_begun(client: Client) -> None:
    listed = (await client("GET", "/repair")).json()
    assert (listed["enabled"], listed["repaired"], listed["shares_made"]) == (True, 2, 5)
    assert listed["repairs"][0] | {"cid": ""} == {
        "cid": "", "state": "waiting", "reachable": 13, "needed": 10, "missing": 1, "due_s": 3600.5,
    }  # fmt: skip
    cid = (await client("PUT", "/blob", body=b"x")).body.decode().strip()
    for dry_run, state in ((False, "running"), (True, "waiting")):
        asked = json.dumps({"cid": cid, "dry_run": dry_run}).encode()
        begun = await client("POST", "/repair", headers=JSON_HEAD, body=asked)
        assert (begun.status, begun.json()["state"]) == (202, state)
    gone = json.dumps({"cid": ABSENT}).encode()
    answer = await client("POST", "/repair", headers=JSON_HEAD, body=gone)
    assert answer.code == "blob-not-found"
