"""kill -9 at any moment: what was acknowledged is there, what was not is whole or gone."""

import json
import random
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from http.client import HTTPException

import pytest

from molia.base.hashing import blake3_digest
from tests.node.process import MIB, Client, Node, body_of, pieces, until
from tests.node.scan import assert_no_orphans

KILLS = 7
WRITERS = 4
LIVE_BYTES_MAX = 8 * MIB
"""What one writer keeps; above it, it deletes."""
STANDSTILL_S = 10.0
"""How long a busy machine may let a node that starts wait, beyond what it tells of."""
Record = Callable[[str, object], None]


@dataclass
class Known:
    """What one client knows of its blobs. Content hashes name them: no two bodies are the same."""

    number: int
    kept: dict[str, tuple[str, int, int]] = field(default_factory=dict)
    """Acknowledged and not deleted: content hash -> CID, seed, size."""
    gone: dict[str, str] = field(default_factory=dict)
    """Deletes that were acknowledged: content hash -> CID."""
    unsure: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Puts and deletes that got no answer: content hash -> seed, size."""
    puts: int = 0
    deletes: int = 0

    def work(self, client: Client, rng: random.Random, stop: threading.Event) -> None:
        """Put and delete until the connection breaks."""
        while not stop.is_set():
            try:
                held = sum(size for _, _, size in self.kept.values())
                if self.kept and (rng.random() < 0.25 or held > LIVE_BYTES_MAX):
                    self.delete(client, rng.choice(sorted(self.kept)))
                else:
                    self.put(client, rng)
            except (OSError, HTTPException):
                return

    def put(self, client: Client, rng: random.Random) -> None:
        seed = rng.getrandbits(60) << 4 | self.number
        large = rng.random() < 0.4
        size = rng.randrange(1_000_000, 4_000_000) if large else rng.randrange(1, 150_000)
        body = body_of(seed, size)
        content = blake3_digest(body).hex()
        self.unsure[content] = (seed, size)
        answer = client("PUT", "/blob", pieces(body) if rng.random() < 0.3 else body)
        assert answer.status == 201, answer
        if not answer.whole:
            raise HTTPException("killed within its answer")  # the name of the blob is lost
        del self.unsure[content]
        self.kept[content] = (answer.body.decode().strip(), seed, size)
        self.puts += 1

    def delete(self, client: Client, content: str) -> None:
        cid, seed, size = self.kept.pop(content)
        self.unsure[content] = (seed, size)
        answer = client("DELETE", f"/blob/{cid}")
        assert answer.status == 204, answer
        del self.unsure[content]
        self.gone[content] = cid
        self.deletes += 1


def run_and_kill(node: Node, clients: list[Known], rng: random.Random) -> None:
    """Let all clients work, and kill the node at a random moment."""
    stop, failures = threading.Event(), []

    def work(known: Known, seed: int) -> None:
        try:
            known.work(node.client(), random.Random(seed), stop)
        except AssertionError as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(k, rng.getrandbits(32))) for k in clients]
    for thread in threads:
        thread.start()
    time.sleep(rng.uniform(0.3, 1.5))
    node.kill()
    stop.set()
    for thread in threads:
        thread.join()
    assert not failures, failures[0]


def restart(node: Node) -> tuple[float, int]:
    """Start the node; return the time until it is ready, and how much log it read."""
    started_s = time.monotonic()
    node.launch()
    client = node.wait_ready()
    # what other processes of this machine took is not the node's
    took_s = time.monotonic() - started_s - node.starved_s()
    shards = client("GET", "/node").json()["shards"]
    read = [re.search(r"(\d+) bytes read", shard["last_recovery"]) for shard in shards]
    log_bytes = sum(int(found[1]) for found in read if found)
    return took_s, log_bytes


def check(client: Client, clients: list[Known]) -> None:
    """Compare all that the node lists and gives with what the clients know."""
    listed = {blob["content"]: blob for blob in client.listing()}
    for known in clients:
        for content, (cid, _, _) in known.kept.items():
            assert content in listed, f"{cid} was acknowledged and is lost"
            assert listed[content]["cid"] == cid
        for content, cid in known.gone.items():
            assert content not in listed, f"{cid} was deleted and is back"
            assert client("GET", f"/blob/{cid}").status == 404
        settle(client, known, set(listed))
    bodies = {
        content: (cid, seed, size) for k in clients for content, (cid, seed, size) in k.kept.items()
    }
    assert set(listed) == set(bodies), "the listing has what nobody put"
    for content, (cid, seed, size) in bodies.items():
        assert listed[content]["size"] == size
        assert client.get(cid) == body_of(seed, size), f"{cid} has other bytes"


def settle(client: Client, known: Known, listed: set[str]) -> None:
    """What got no answer is there whole or not at all; from now on the client knows which."""
    for content, (seed, size) in known.unsure.items():
        answer = client("GET", f"/blob/{content}")
        assert (answer.status == 200) == (content in listed), answer
        if answer.status == 200:
            known.kept[content] = (answer.headers["etag"].strip('"'), seed, size)
        else:
            assert answer.status == 404, answer
    known.unsure.clear()


@pytest.mark.parametrize("seed", [2])
def test_kill_9_loses_nothing_acknowledged_and_leaves_nothing_half(
    node: Node, seed: int, record_property: Record
) -> None:
    rng = random.Random(seed)
    clients = [Known(number) for number in range(WRITERS)]
    node.start()
    node.stop()
    empty_s, _ = restart(node)
    worst = (0.0, 0.0, 0)
    for _ in range(KILLS):
        run_and_kill(node, clients, rng)
        took_s, log_bytes = restart(node)
        # where Python alone needs more than a second, twice the start of an empty node
        bound_s = max(2.0, 2 * empty_s) + STANDSTILL_S + 5 * log_bytes / (1 << 30)
        worst = max(worst, (took_s, bound_s, log_bytes))
        assert took_s <= bound_s, f"{log_bytes} bytes of log took {took_s:.1f} s"
        check(node.client(), clients)
    node.stop()
    bound = assert_no_orphans(node.home)
    assert set(bound) == {cid for known in clients for cid, _, _ in known.kept.values()}
    client = node.start()
    check(client, clients)
    assert client.verify()["damaged"] == 0
    for cid in client.cids():
        client.delete(cid)
    written = sum(path.stat().st_size for path in node.segments())
    # heads and footers stay until segments are compacted
    until(lambda: node.disk_bytes() < written * 0.05, "the space is not given back")
    node.stop()
    assert assert_no_orphans(node.home) == {}
    puts, deletes = sum(k.puts for k in clients), sum(k.deletes for k in clients)
    record_property(
        "summary",
        f"kill -9: {KILLS} kills under {puts} puts and {deletes} deletes; slowest restart "
        f"{worst[0]:.2f} s of {worst[1]:.2f} s with {worst[2] / MIB:.0f} MiB of log",
    )


def test_a_verify_job_goes_on_where_kill_9_cut_it_off(node: Node) -> None:
    client = node.start()
    sizes = [1_200_000] * 12 + [2_000] * 600
    cids = put_all(node, [body_of(number, size) for number, size in enumerate(sizes)])
    for _ in range(10):  # on a busy machine a job may end before the kill: then another one
        job = start_verify_and_kill(node)
        client = node.start()
        view = until(partial(client.ended, job), "the job does not go on")
        assert (view["state"], view["progress"]["damaged"]) == ("done", 0)
        # what is counted twice was done after the last save: far from everything
        assert len(cids) <= view["progress"]["blobs"] < 2 * len(cids)
        if re.search(rf'"job": "{job}".*"resumed": true', node.log.read_text()):
            break
    else:
        pytest.fail("every job was too quick to be cut off")
    node.stop()


def start_verify_and_kill(node: Node) -> str:
    """Start a verify job and kill the node once the job has saved its place and gone on."""
    client = node.client()
    job = client.start_verify()
    assert node.process is not None
    until(lambda: blobs_done(client, job), "the job does not begin")
    # the job saves its place every two seconds: let these pass while it stands still
    node.process.send_signal(signal.SIGSTOP)
    time.sleep(2.2)
    node.process.send_signal(signal.SIGCONT)
    saved = until(lambda: progress_event(node, job) or client.ended(job), "no progress is told")
    until(
        lambda: blobs_done(client, job) > saved.get("blobs", 0) or client.ended(job),
        "the job stands still",
    )
    node.kill()
    return job


def blobs_done(client: Client, job: str) -> int:
    """Return how many blobs a job has checked."""
    return int(client("GET", f"/jobs/{job}").json()["progress"].get("blobs", 0))


def progress_event(node: Node, job: str) -> dict[str, int]:
    """Return the first `progress` event that a job has told."""
    connection = node.client().connection
    connection.request("GET", f"/jobs/{job}/events")
    response = connection.getresponse()
    try:
        kind = ""
        while raw := response.readline():
            line = raw.decode().rstrip()
            if line.startswith("event: "):
                kind = line[7:]
            if line.startswith("data: ") and kind == "progress":
                return dict(json.loads(line[6:]))
    finally:
        connection.close()
    return {}


def put_all(node: Node, bodies: list[bytes], at_once: int = 16) -> list[str]:
    """Put bodies over several connections; return their CIDs in order."""
    cids = [""] * len(bodies)

    def work(first: int) -> None:
        client = node.client()
        for number in range(first, len(bodies), at_once):
            cids[number] = client.put(bodies[number])

    threads = [threading.Thread(target=work, args=(first,)) for first in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(cids)
    return cids
