"""Blobs put twice, at once, deleted while they are read; jobs; and how a node ends."""

import base64
import hashlib
import json
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.client import HTTPException
from pathlib import Path

import pytest

from tests.node.process import MIB, REPLY_S, Client, Node, RawPut, body_of, pieces, until
from tests.node.scan import assert_no_orphans

LARGE, SMALL = 3_000_000, 20_000


def at_once(count: int, work: Callable[[int], None]) -> None:
    """Call `work` from several threads; raise what the first of them raised."""
    failures: list[BaseException] = []

    def run(number: int) -> None:
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 - told by the main thread
            failures.append(error)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """One node for the tests that leave it as they found it: with nothing in it, and no orphans."""
    node = Node(tmp_path_factory.mktemp("shared") / "home")
    try:
        node.start()
        yield node
        assert node.client().cids() == set()
        node.stop()
        assert assert_no_orphans(node.home) == {}
    finally:
        node.close()


@pytest.fixture
def client(shared: Node) -> Iterator[Client]:
    """A connection to the shared node; what the test put is deleted after it."""
    client = shared.client()
    yield client
    for cid in client.cids():
        client.delete(cid)


@pytest.mark.parametrize("size", [0, SMALL, LARGE])
def test_a_second_put_of_the_same_bytes_is_200_and_keeps_the_first(
    client: Client, size: int
) -> None:
    body = body_of(1, size)
    first = client("PUT", "/blob?name=a", body)
    second = client("PUT", "/blob?name=b", pieces(body) if size else body)
    assert (first.status, second.status) == (201, 200)
    assert first.body == second.body
    assert [blob["name"] for blob in client.listing()] == ["a"]
    cid = first.body.decode().strip()
    assert client.get(cid) == body


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_equal_uploads_at_once_make_one_blob(shared: Node, client: Client, size: int) -> None:
    body = body_of(2, size)
    statuses: list[int] = []
    at_once(8, lambda _: statuses.append(shared.client()("PUT", "/blob", body).status))
    assert sorted(statuses) == [200] * 7 + [201]
    (blob,) = client.listing()
    assert client.get(str(blob["cid"])) == body


@pytest.mark.parametrize("size", [SMALL, 1_100_000])
def test_putting_and_deleting_one_blob_at_once_ends_whole_or_gone(
    shared: Node, client: Client, size: int
) -> None:
    body = body_of(3, size)
    cid = client.put(body)
    until_s = time.monotonic() + 1.5

    def fight(number: int) -> None:
        ours, rng = shared.client(), random.Random(number)
        while time.monotonic() < until_s:
            if rng.random() < 0.5:
                answer = ours("PUT", "/blob", body)
                assert answer.status in (200, 201, 503), answer
                if answer.status == 503:
                    assert answer.code == "busy"
            elif rng.random() < 0.5:
                assert ours("DELETE", f"/blob/{cid}").status in (204, 404)
            else:
                answer = ours("GET", f"/blob/{cid}")
                # gone between the look-up and the read: an error, never other bytes
                assert answer.status in (200, 404, 502), answer
                assert answer.status != 200 or not answer.whole or answer.body == body

    at_once(6, fight)
    assert client.put(body) == cid
    assert client.get(cid) == body


def test_a_blob_deleted_while_it_is_read_gives_no_wrong_byte(shared: Node, client: Client) -> None:
    body = body_of(4, 30_000_000)
    cid = client.put(body)
    reader = shared.client().connection
    reader.request("GET", f"/blob/{cid}")
    response = reader.getresponse()
    got = response.read(100_000)
    client.delete(cid)
    try:
        while more := response.read(1_000_000):
            got += more
    except HTTPException as error:
        got += getattr(error, "partial", b"")
    finally:
        reader.close()
    assert body.startswith(got)
    assert client("GET", f"/blob/{cid}").status == 404
    client.put(body)
    assert client.get(cid) == body


def test_pages_of_a_listing_hold_while_others_put(shared: Node, client: Client) -> None:
    old = [client.put(body_of(number, 50)) for number in range(100, 140)]
    stop = threading.Event()

    def put_on() -> None:
        ours, number = shared.client(), 1000
        while not stop.is_set():
            ours.put(body_of(number, 50))
            number += 1

    thread = threading.Thread(target=put_on)
    thread.start()
    try:
        for _ in range(3):
            listed = client.listing(limit=7)
            times = [blob["created_unix_ms"] for blob in listed]
            assert times == sorted(times, reverse=True)
            cids = [blob["cid"] for blob in listed]
            assert len(cids) == len(set(cids))
            assert set(old) <= set(cids)
    finally:
        stop.set()
        thread.join()


def test_pins_come_and_go(client: Client) -> None:
    cid = client.put(body_of(5, SMALL), "?pin=false")
    assert client("GET", "/pin").json()["blobs"] == []
    for _ in range(2):
        assert client("PUT", f"/pin/{cid}").status in (200, 201, 204)
        assert [blob["cid"] for blob in client("GET", "/pin").json()["blobs"]] == [cid]
    assert client("GET", f"/pin/{cid}").status == 200
    for _ in range(2):
        assert client("DELETE", f"/pin/{cid}").status in (200, 204)
        assert client("GET", "/pin").json()["blobs"] == []
    client.put(body_of(5, SMALL))  # a put pins by default, a second one too
    assert [blob["pinned"] for blob in client.listing()] == [True]


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_body_that_breaks_its_promise_is_refused_and_leaves_nothing(
    shared: Node, client: Client, size: int
) -> None:
    body = body_of(6, size)
    other = client.put(body_of(7, SMALL))
    wrong = base64.b64encode(hashlib.sha256(b"other").digest()).decode()
    answer = client("PUT", "/blob", pieces(body), Content_Digest=f"sha-256=:{wrong}:")
    assert (answer.status, answer.code) == (422, "digest-mismatch")
    answer = client("PUT", f"/blob/{other}", pieces(body))
    assert (answer.status, answer.code) == (422, "digest-mismatch")
    right = base64.b64encode(hashlib.sha256(body).digest()).decode()
    assert client.cids() == {other}
    assert client("PUT", "/blob", body, Content_Digest=f"sha-256=:{right}:").status == 201


def test_a_body_over_the_limit_is_413_before_it_is_sent_or_on_the_way(tmp_path: Path) -> None:
    node = Node(tmp_path / "home", {"MOLIA_API__MAX_BLOB_BYTES": "4000000"})
    try:
        client = node.start()
        answer = RawPut(node.port, length=4_000_001, Expect="100-continue").answer()
        assert (answer.status, answer.code) == (413, "body-too-large")
        put = RawPut(node.port)
        put.send(pieces(body_of(8, 6_000_000)))
        put.end()
        answer = put.answer()
        assert (answer.status, answer.code) == (413, "body-too-large")
        cid = client.put(pieces(body_of(8, 4_000_000)))
        assert client.cids() == {cid}
        node.stop()
        assert set(assert_no_orphans(node.home)) == {cid}
    finally:
        node.close()


def put_many(client: Client, seeds: range) -> None:
    for seed in seeds:
        client.put(body_of(seed, 500))


def has_begun(client: Client, job: str) -> bool:
    return bool(client("GET", f"/jobs/{job}").json()["progress"].get("blobs"))


def test_a_job_tells_its_events_and_can_be_cancelled(shared: Node, client: Client) -> None:
    at_once(8, lambda n: put_many(shared.client(), range(n * 100, n * 100 + 50)))
    for _ in range(20):  # on a busy machine a job may end before it is cancelled: then another one
        job = client.start_verify()
        until(partial(has_begun, client, job), "it rests")
        if client("DELETE", f"/jobs/{job}").json()["state"] == "cancelled":
            break
    else:
        pytest.fail("every job was too quick to be cancelled")
    events = client("GET", f"/jobs/{job}/events").body.decode()
    last = [json.loads(line[6:]) for line in events.splitlines() if line.startswith("data: ")][-1]
    assert last["state"] == "cancelled"
    assert last["blobs"] < 400
    assert client.verify()["blobs"] == 400
    assert client("DELETE", f"/jobs/{job}").status == 200
    assert client("GET", f"/jobs/{job}").status == 404


def test_sigterm_lets_an_upload_end_and_refuses_new_ones(node: Node) -> None:
    client = node.start()
    body = body_of(9, 6_000_000)
    put = RawPut(node.port, length=len(body))
    assert put.send(pieces(body[:3_000_000]))
    until(lambda: node.disk_bytes() > MIB, "nothing arrives")
    assert node.process is not None
    node.process.send_signal(signal.SIGTERM)
    late: set[str] = set()
    until(lambda: refuses(client, late), "it takes new work after SIGTERM")
    assert put.send(pieces(body[3_000_000:]))
    answer = put.answer()
    assert answer.status == 201, answer
    assert node.process.wait(REPLY_S) == 0
    node.process = None
    cid = answer.body.decode().strip()
    assert set(assert_no_orphans(node.home)) == {cid} | late
    assert node.start().get(cid) == body
    node.stop()


def refuses(client: Client, late: set[str]) -> bool:
    """Put something small; note its CID if it came before the signal."""
    try:
        answer = client("PUT", "/blob", b"late")
    except (OSError, HTTPException):
        return True
    if answer.status in (200, 201):
        late.add(answer.body.decode().strip())
    return answer.status == 503


def test_of_two_nodes_on_one_home_one_runs_and_one_is_exit_11(node: Node) -> None:
    node.start()
    node.stop()
    runs = [node.spawn("run", "--api", "127.0.0.1:0") for _ in range(2)]
    try:
        until(lambda: any(run.poll() is not None for run in runs), "both run")
        (loser,) = [run for run in runs if run.poll() is not None]
        (winner,) = [run for run in runs if run is not loser]
        assert loser.returncode == 11
        until((node.home / "node.json").exists, "neither runs")
        winner.send_signal(signal.SIGTERM)
        assert winner.wait(REPLY_S) == 0
    finally:
        for run in runs:
            run.kill()
            run.wait(REPLY_S)
