"""Real nodes on loopback find each other, keep each other's records, and live through kills."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from molia.base.crypto import Identity
from molia.base.ids import PeerKey, network_id
from molia.dht.blinding import period_at
from molia.dht.records import SignedRecord, publish
from tests.node.process import Answer, Node, body_of, close_all, until

JOIN_S = 150.0  # who was killed and comes back may be left alone for a minute
WRITERS = 16


def view(node: Node) -> dict[str, Any]:
    """Return how a node stands in the DHT."""
    shown: dict[str, Any] = node.client()("GET", "/node").json()["dht"]
    return shown


def address(node: Node) -> str:
    """Return where a node is reached."""
    return str(node.client()("GET", "/node").json()["addresses"][0])


def peer(node: Node) -> str:
    """Return a node's key."""
    return str(node.client()("GET", "/node").json()["peer"])


def stay(node: Node) -> None:
    """Let a node come back at the port that it has."""
    node.settings["MOLIA_UDP__LISTEN"] = address(node).rpartition("@")[2]


def knows(node: Node, count: int) -> bool:
    """Tell whether a node has joined and has so many contacts."""
    shown = view(node)
    return bool(shown["is_joined"] and shown["reachable"] and shown["contacts"] >= count)


def joined(nodes: list[Node], count: int) -> None:
    """Return when each of the nodes knows at least so many others."""
    for node in nodes:
        until(partial(knows, node, count), "a node does not join", within_s=JOIN_S)


def put(node: Node, name: str, value: bytes, **headers: str) -> Answer:
    """Put a record under a node's key."""
    return node.client()("PUT", f"/record/{name}", value, **headers)


def put_well(node: Node, name: str, value: bytes, *, acks: int) -> Answer:
    """Return what the first put of a record told, once so many others hold it.

    Where processors are few, one of them may answer too late to be counted: then it is put again.
    """
    first = last = put(node, name, value)

    def is_held() -> bool:
        nonlocal last
        if last.json().get("acks", 0) < acks:
            last = put(node, name, value)
        return bool(last.json().get("acks", 0) >= acks)

    until(is_held, "too few hold a record")
    return first


def get(node: Node, where: str, query: str = "") -> Answer:
    """Read a record."""
    return node.client()("GET", f"/record/{where}{query}")


def says(asker: Node, where: str, text: str) -> bool:
    """Tell whether a record is found and has a text in it."""
    return text in get(asker, where).body.decode()


@pytest.fixture(scope="module")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Node]]:
    """Four nodes that know each other, the last with two workers; and one of another network."""
    homes = tmp_path_factory.mktemp("network")
    made = [Node(homes / f"home{number}") for number in range(5)]
    made[3].settings["MOLIA_WORKERS"] = "2"
    made[4].settings["MOLIA_NETWORK"] = "another"
    try:
        made[0].start()
        for node in made[1:]:
            node.settings["MOLIA_DHT__BOOTSTRAP"] = address(made[0])
            node.launch()
        for node in made[1:]:
            node.wait_ready()
        joined(made[:4], 3)
        yield made
    finally:
        close_all(made)


@pytest.fixture
def network(nodes: list[Node]) -> list[Node]:
    """Return the four."""
    return nodes[:4]


@pytest.fixture
def stranger(nodes: list[Node]) -> Node:
    """Return the node of another network."""
    return nodes[4]


def test_nodes_that_share_one_address_find_each_others_records(network: list[Node]) -> None:
    for number, node in enumerate(network):
        stored = put_well(node, "motto", b"of node %d" % number, acks=3)
        assert stored.status == 201, stored
        assert stored.json()["seq"] == 1
    for number, node in enumerate(network):
        for asker in network:
            found = get(asker, f"{peer(node)}/motto")
            assert (found.status, found.body) == (200, b"of node %d" % number)
    assert get(network[1], "motto", "?consistent=true").body == b"of node 1"
    assert get(network[0], f"{peer(network[1])}/nothing").code == "record-not-found"


def test_of_writers_that_expect_the_same_record_one_wins(network: list[Node]) -> None:
    node = network[3]  # two workers answer
    seq = put(node, "race", b"before").json()["seq"]

    def write(number: int) -> Answer:
        return put(node, "race", b"by %d" % number, If_Match=f'"{seq}"')

    with ThreadPoolExecutor(WRITERS) as pool:
        answers = list(pool.map(write, range(WRITERS)))
    won = [number for number, answer in enumerate(answers) if answer.status == 200]
    assert len(won) == 1, answers
    assert {answer.status for answer in answers} == {200, 412}
    for asker in network:
        found = get(asker, f"{peer(node)}/race", "?consistent=true")
        assert (found.body, found.headers["etag"]) == (b"by %d" % won[0], f'"{seq + 1}"')


def signed(value: bytes, *, seq: int) -> SignedRecord:
    """Return a record that an application signs with its own key."""
    identity, unix_s = Identity(b"7" * 32), time.time()
    return publish(
        identity, network_id("molia", b""), b"app", value, seq=seq,
        expires=int(unix_s) + 3_600, period=period_at(identity.peer_key, unix_s),
    )  # fmt: skip


def test_of_two_records_of_one_seq_from_two_nodes_the_lower_hash_stays_and_both_are_told(
    network: list[Node],
) -> None:
    low, high = sorted((signed(b"one", seq=3), signed(b"two", seq=3)), key=lambda r: r.value_hash)
    answers = [network[0].client()("PUT", "/record", low.encoded)]
    assert answers[0].status == 201

    def is_held() -> bool:
        again = network[0].client()("PUT", "/record", low.encoded)
        return bool(again.json().get("acks", 0) >= 3)

    until(is_held, "too few hold the record")
    answers.append(network[1].client()("PUT", "/record", high.encoded))
    assert answers[0].json()["address"] == low.blinded_key.hex()
    assert answers[1].status == 409
    older = network[2].client()("PUT", "/record", signed(b"older", seq=2).encoded)
    assert older.code == "record-stale"
    key = Identity(b"7" * 32).peer_key
    assert get(network[3], f"{key}/app").body in (b"one", b"two")
    forged = low.encoded[:-1] + bytes((low.encoded[-1] ^ 1,))
    assert network[1].client()("PUT", "/record", forged).code == "bad-record"
    assert network[2].client()("PUT", "/record", bytes(4_000)).status == 413


def test_a_blob_is_found_from_elsewhere_soon_after_its_put_and_forgotten(
    network: list[Node],
) -> None:
    small = network[1].client().put(b"a small blob")
    large = network[3].client().put(body_of(4, 1_000_001))
    content = network[3].client()("GET", f"/blob/{large}", accept="application/json")
    assert content.status == 200

    def providers(cid: str) -> list[str]:
        answer = network[2].client()("GET", f"/provider/{cid}")
        found = answer.json()["providers"] if answer.status == 200 else []
        return [provider["peer"] for provider in found]

    until(lambda: providers(small) == [peer(network[1])], "the small blob is not found")
    until(lambda: providers(large) == [peer(network[3])], "the large blob is not found")
    info = network[3].client()("GET", f"/blob/{large}/manifest", accept="application/json").json()
    until(lambda: providers(info["content"]) == [peer(network[3])], "its content is not found")
    asked = network[2].client()("POST", f"/provider/{small}")
    assert asked.code == "blob-not-found"

    def is_announced() -> bool:
        announced = network[1].client()("POST", f"/provider/{small}")
        assert (announced.status, announced.json()["locations"]) == (202, 1)
        return bool(announced.json()["acks"] >= 2)

    until(is_announced, "too few are told of it")
    network[1].client().delete(small)
    until(lambda: view(network[1])["provided"] == 0, "the node still announces it")


def test_a_node_says_where_it_is_who_is_there_and_answers_pings(network: list[Node]) -> None:
    for node in network:
        where = f"{peer(node)}/molia%2Faddr"
        until(partial(says, network[0], where, address(node)), "a node does not say where it is")

    def verified() -> set[str]:
        shown = network[0].client()("GET", "/peers").json()["peers"]
        return {each["peer"] for each in shown if each["state"] == "verified"}

    others = {peer(node) for node in network[1:]}
    until(lambda: verified() == others, "not those who are there are shown as there")
    pong = network[2].client()("POST", f"/peers/{peer(network[3])}/ping").json()
    assert (pong["address"], pong["serves"]) == (address(network[3]), True)
    assert abs(pong["clock_offset_s"]) < 5
    steps = network[1].client()("GET", f"/lookup/{peer(network[2])}?trace=true").body.decode()
    kinds = re.findall(r"^event: (\w+)$", steps, re.MULTILINE)
    assert "asked" in kinds
    assert kinds[-1] == "done"
    closest = network[1].client()("GET", f"/lookup/{peer(network[2])}").json()["closest"]
    assert closest[0]["peer"] == peer(network[2])


def test_what_happens_is_counted(network: list[Node]) -> None:
    client = network[0].client()
    assert client.metric("molia_dht_contacts") >= 3
    assert client.metric("molia_dht_held_rows") >= 1
    assert client.metric("molia_dht_events_total") > 10
    assert client.metric("molia_dht_operations_total") >= 1
    assert client.metric("molia_dht_own_records") >= 1


def test_a_record_outlives_its_publisher_and_a_holder(network: list[Node], tmp_path: Path) -> None:
    where = f"{peer(network[1])}/legacy"
    assert put(network[1], "legacy", b"still here").status == 201
    for node in network[1:3]:
        stay(node)
        node.kill()
    late = Node(tmp_path / "late", settings={"MOLIA_DHT__BOOTSTRAP": address(network[0])})
    try:
        late.start()
        joined([late], 2)
        found = until(lambda: get(late, where), "no answer")
        assert (found.status, found.body) == (200, b"still here")
    finally:
        late.close()
    for node in network[1:3]:
        node.launch()
    for node in network[1:3]:
        node.wait_ready()
    joined(network, 3)
    assert get(network[2], where).body == b"still here"
    answer = put(network[1], "legacy", b"and changed")
    assert (answer.status, answer.json()["seq"]) == (200, 2)
    assert get(network[3], where, "?consistent=true").body == b"and changed"


def test_a_node_finds_back_by_what_it_remembers(network: list[Node]) -> None:
    node = network[2]
    stay(node)
    node.stop()
    until(lambda: view(network[0])["contacts"] == 2, "its goodbye is not heard", within_s=30.0)
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in node.home.glob("contacts-*.bin"))
    bootstrap = node.settings.pop("MOLIA_DHT__BOOTSTRAP")
    node.start()
    joined(network, 3)
    assert get(node, f"{peer(network[1])}/legacy").status in (200, 404)
    node.settings["MOLIA_DHT__BOOTSTRAP"] = bootstrap


def test_networks_of_other_names_never_meet(network: list[Node], stranger: Node) -> None:
    until(lambda: "node_alone" in stranger.tail(), "it does not notice that it is alone")
    assert view(stranger)["contacts"] == 0
    assert put(stranger, "motto", b"alone").code == "not-joined"
    cid = stranger.client().put(b"works alone")
    assert stranger.client().get(cid) == b"works alone"
    for path in (
        "/record/motto", "/record/motto?consistent=true", f"/record/{peer(network[0])}/legacy",
        f"/provider/{cid}",
    ):  # fmt: skip
        answer = stranger.client()("GET", path)
        assert (answer.status, answer.code) == (503, "not-joined"), path
    for node in network:
        shown = node.client()("GET", "/peers").json()["peers"]
        assert peer(stranger) not in {each["peer"] for each in shown}


def test_a_bad_bootstrap_address_is_named_and_a_silent_one_is_no_failure(node: Node) -> None:
    node.home.mkdir(mode=0o700)
    (node.home / "bootstrap").write_text("# ours\nnot an address\n")
    (node.home / "bootstrap").chmod(0o600)
    refused = node.molia("run", "--api", "127.0.0.1:0")
    assert refused.returncode == 2
    assert b"bootstrap:2" in refused.stderr
    (node.home / "bootstrap").write_text(f"molia://{PeerKey(b'1' * 32)}@127.0.0.1:9\n")
    node.start()
    assert view(node)["is_joined"] is False
    node.stop()


def test_nothing_listens_beyond_loopback(network: list[Node]) -> None:
    process = network[0].process
    assert process is not None
    inodes = {
        match[1]
        for link in Path(f"/proc/{process.pid}/fd").iterdir()
        if (match := re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink())))
    }
    found = []
    for family in ("udp", "udp6", "tcp", "tcp6"):
        for line in Path(f"/proc/{process.pid}/net/{family}").read_text("ascii").splitlines()[1:]:
            fields = line.split()
            if fields[9] in inodes:
                found.append(fields[1].rpartition(":")[0])
    loopback = ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")
    assert found
    assert all(place in loopback for place in found)
