"""A node of two workers: one node to its clients, and none of it ends with one process."""

import contextlib
import http.client
import json
import os
import random
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import pytest

from molia.base.cid import Cid, Codec
from molia.base.limits import BUS_HEAD_MAX, JOB_TARGETS_MAX
from molia.store.keys import Kind, split_block_key
from tests.node.damage import places
from tests.node.process import Client, Node, body_of, until
from tests.node.scan import assert_no_orphans
from tests.node.test_dht import stay

TWO = {"MOLIA_WORKERS": "2"}
linux = pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="/proc tells which process answers a connection"
)
MIB = 1024 * 1024


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node of two workers that is not started yet."""
    made = Node(tmp_path / "home", dict(TWO))
    try:
        yield made
    finally:
        made.close()


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    """A node of two workers that runs, and has run other tests before perhaps."""
    made = Node(tmp_path_factory.mktemp("two") / "home", dict(TWO))
    try:
        made.start()
        stay(made)  # its port is known then
        yield made
    finally:
        made.close()


def sockets_of(pid: int) -> set[str]:
    """The inodes of a process's sockets. Source: proc(5), /proc/PID/fd."""
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.add(os.readlink(descriptor).removeprefix("socket:[").removesuffix("]"))
    return found


def pids(client: Client) -> dict[int, int]:
    """The process of each worker that answers."""
    processes = client("GET", "/node").json()["processes"]
    return {one["index"]: one["pid"] for one in processes if one["state"] == "running"}


def restarts(client: Client) -> list[int]:
    return [one["restarts"] for one in client("GET", "/node").json()["processes"]]


def worker_of(client: Client, workers: dict[int, int]) -> int:
    """Which worker answers a connection. Source: proc(5), /proc/net/tcp and /proc/PID/fd."""
    client("GET", "/healthz")
    ours, port = client.connection.sock.getsockname()[1], client.connection.port
    for line in Path("/proc/net/tcp").read_text("ascii").splitlines()[1:]:
        _, local, remote, *rest = line.split()
        if local.endswith(f":{port:04X}") and remote.endswith(f":{ours:04X}"):
            for index, pid in workers.items():
                if rest[6] in sockets_of(pid):
                    return index
    raise AssertionError("no worker has the connection")


def one_of_each(node: Node) -> tuple[Client, Client]:
    """A connection to each of the two workers."""
    workers = pids(node.client())
    found: dict[int, Client] = {}

    def both() -> bool:
        client = node.client()
        found.setdefault(worker_of(client, workers), client)
        return len(found) == 2

    until(both, "all connections reach the same worker")
    return found[0], found[1]


# ---------------------------------------------------------------------------- one node


@linux
def test_what_one_worker_stores_the_other_has_at_once(running: Node) -> None:
    pair = one_of_each(running)
    before = pair[0].cids()
    bodies = [body_of(number, size) for number, size in enumerate((0, 10, 90_000, 3 * MIB))]
    for number in range(24):
        here, there = pair[number % 2], pair[1 - number % 2]
        body = bodies[number % 4] + number.to_bytes(2)
        cid = here.put(body)
        assert there.get(cid) == body
        assert there("PUT", "/blob", body).status == 200, "it is known to exist"
        assert there("DELETE", f"/pin/{cid}").status in (200, 204)
        assert here("GET", f"/blob/{cid}/health").json()["state"] == "healthy"
        if number % 3 == 0:
            there.delete(cid)
            assert here("GET", f"/blob/{cid}").status == 404
            assert here("DELETE", f"/blob/{cid}").status == 404
    assert pair[0].cids() == pair[1].cids()
    assert len(pair[0].cids() - before) == 16
    views = [client("GET", "/node").json() for client in pair]
    assert [view["blobs"] for view in views] == [len(before) + 16] * 2
    assert [shard["state"] for shard in views[0]["shards"]] == ["ok", "ok"]
    assert views[0]["workers"] == len(views[0]["processes"]) == 2


@linux
def test_jobs_are_shown_followed_and_cancelled_by_any_worker(running: Node) -> None:
    pair = one_of_each(running)
    cid = pair[0].put(body_of(1, 2 * MIB))
    jobs = [client.start_verify(cid) for client in pair]
    for client in pair:
        for job in jobs:
            view = until(partial(client.ended, job), "the job does not end")
            assert view["state"] == "done"
            events = client("GET", f"/jobs/{job}/events").body.decode()
            assert events.count("event: done") == 1
        assert {view["id"] for view in client("GET", "/jobs").json()["jobs"]} >= set(jobs)
    assert pair[0].verify()["damaged"] == 0, "of all shards, in whichever worker"
    for number, job in enumerate(jobs):
        assert pair[number]("DELETE", f"/jobs/{job}").status == 200, "that forgets it"
        assert pair[1 - number]("GET", f"/jobs/{job}").status == 404
    for wrong in ("nonsense", "a" * 26, "%F0%9F%8E%89"):
        assert [client("GET", f"/jobs/{wrong}").status for client in pair] == [404, 404]


@linux
def test_a_long_list_of_jobs_is_shown_by_any_worker(running: Node) -> None:
    """Longer than a message between workers, as jobs name what they are to look at."""
    pair = one_of_each(running)
    absent = [str(Cid(Codec.RAW, number.to_bytes(32))) for number in range(JOB_TARGETS_MAX)]
    count = BUS_HEAD_MAX // sum(map(len, absent)) + 2
    jobs = {pair[0].start_verify(*absent) for _ in range(count)}
    try:
        for client in pair:
            shown = client("GET", "/jobs").json()["jobs"]
            assert {view["id"] for view in shown} >= jobs, "a worker's jobs are left out"
            assert len({view["id"] for view in shown}) == len(shown)
            made = [view["created_unix_ms"] for view in shown]
            assert made == sorted(made, reverse=True)
    finally:
        for job in jobs:
            for _ in range(2):  # that forgets it as well
                pair[0]("DELETE", f"/jobs/{job}")


@linux
def test_metrics_are_the_sums_of_all_workers(running: Node) -> None:
    pair = one_of_each(running)
    names = ("molia_puts_total", "molia_put_seconds_count", "molia_put_bytes_total", "molia_blobs")
    before = [pair[0].metric(name) for name in names]
    for number in range(10):
        pair[number % 2].put(body_of(100 + number, 1_000 + number))
    added = (10, 10, sum(range(1_000, 1_010)), 10)
    for client in pair:
        after = [client.metric(name) for name in names]
        assert [b - a for a, b in zip(before, after, strict=True)] == list(added)
        assert client.metric("molia_shard_writable") == 2, "each shard once"
        text = client("GET", "/metrics").body.decode()
        assert 'molia_worker_restarts{worker="0"} 0.0' in text
        assert 'molia_worker_restarts{worker="1"} 0.0' in text
        started_s = client.metric("process_start_time_seconds")
        assert abs(started_s - time.time()) < 3600, "a time is not summed"


@linux
def test_each_worker_has_a_socket_of_the_udp_port_and_no_other_node_gets_one(
    running: Node, tmp_path: Path
) -> None:
    port = int(running.settings["MOLIA_UDP__LISTEN"].rpartition(":")[2])
    lines = [line.split() for line in Path("/proc/net/udp").read_text("ascii").splitlines()[1:]]
    group = {line[9] for line in lines if line[1].endswith(f":{port:04X}")}
    assert len(group) == 2
    owned = [sockets_of(pid) & group for pid in pids(running.client()).values()]
    assert sorted(map(len, owned)) == [1, 1]
    assert owned[0] != owned[1]
    for workers in ("1", "2"):
        other = Node(tmp_path / "home", {**running.settings, "MOLIA_WORKERS": workers})
        ran = other.molia("run", "--api", "127.0.0.1:0")
        assert ran.returncode == 1
        assert b"another node has it" in ran.stderr


def test_a_home_that_workers_hold_is_locked(running: Node) -> None:
    assert running.molia("run", "--api", "127.0.0.1:0").returncode == 11
    assert running.molia("verify", "--rebuild-index").returncode == 11
    assert running.molia("ls", "--json").returncode == 0


@linux
def test_damage_that_any_worker_reads_is_healed_by_the_one_that_has_the_blob(node: Node) -> None:
    client = node.start()
    bodies = {client.put(body_of(number, 3 * MIB)): number for number in range(4)}
    node.stop()
    rng = random.Random(1)
    for (kind, key), place in places(node).items():
        if kind is Kind.BLOCK and split_block_key(key)[1:] in ((0, 0), (5, 1)):
            place.flip_value(rng)
    node.start()
    pair = one_of_each(node)
    for cid, number in bodies.items():
        for client in pair:
            assert client.get(cid) == body_of(number, 3 * MIB)

    def all_healed() -> bool:
        return pair[0].metric("molia_blocks_healed_total") >= 2 * len(bodies)

    until(all_healed, "not all is healed")
    assert pair[1].verify()["damaged"] == 0


# ---------------------------------------------------------------------------- under load


@dataclass
class Load:
    """Clients that put, read back, list and delete, each on connections of its own."""

    node: Node
    stop: threading.Event = field(default_factory=threading.Event)
    kept: dict[str, int] = field(default_factory=dict)
    """What was acknowledged and not deleted: CID -> seed."""
    unsure: set[str] = field(default_factory=set)
    errors: list[str] = field(default_factory=list)
    refused: list[int] = field(default_factory=list)
    answered: int = 0
    may_break: bool = False
    """Whether a connection may break, or a request be refused by 503, without being a failure."""

    def run(self, threads: int = 4) -> "list[threading.Thread]":
        """Start the clients."""
        started = [threading.Thread(target=self._client, args=(n,)) for n in range(threads)]
        for thread in started:
            thread.start()
        return started

    def _client(self, number: int) -> None:
        rng = random.Random(number)
        client = self.node.client()
        mine: list[tuple[str, int]] = []
        seed = number * 1_000_000
        while not self.stop.is_set():
            seed += 1
            body = body_of(seed, rng.choice((100, 5_000, 200_000, 1_500_000)))
            try:
                self._step(client, rng, mine, seed, body)
                self.answered += 1
            except (OSError, http.client.HTTPException) as error:
                if not self.may_break:
                    self.errors.append(f"no answer: {error!r}")
            except AssertionError as error:
                self.errors.append(str(error))

    def _step(
        self,
        client: Client,
        rng: random.Random,
        mine: list[tuple[str, int]],
        seed: int,
        body: bytes,
    ) -> None:
        answer = client("PUT", "/blob", body)
        if self._is_refused(answer.status):
            return
        assert answer.status == 201, answer
        cid = answer.body.decode().strip()
        self.kept[cid] = len(body)
        mine.append((cid, seed))
        cid, seed = rng.choice(mine)
        answer = client("GET", f"/blob/{cid}")
        if self._is_refused(answer.status):
            return
        assert (answer.status, answer.whole) == (200, True), answer.status
        assert answer.body == body_of(seed, len(answer.body))
        assert len(answer.body) == self.kept[cid]
        if len(mine) > 8:
            cid, seed = mine.pop(0)
            self.unsure.add(cid)
            size = self.kept.pop(cid)
            answer = client("DELETE", f"/blob/{cid}")
            if self._is_refused(answer.status):
                return
            assert answer.status == 204 or (self.may_break and answer.status == 404), (answer, size)

    def _is_refused(self, status: int) -> bool:
        if status == 503 and self.may_break:
            self.refused.append(status)
            return True
        return False

    def end(self, threads: "list[threading.Thread]") -> None:
        """Stop the clients; nothing may have gone wrong."""
        self.stop.set()
        for thread in threads:
            thread.join(60)
        assert not self.errors, self.errors[:5]
        assert self.answered > 0


def goes_on(load: Load, count: int) -> Callable[[], bool]:
    """Whether so many more requests have been answered since now."""
    wanted = load.answered + count
    return lambda: load.answered >= wanted or bool(load.errors)


def check_all_there(node: Node, load: Load) -> None:
    client = node.client()
    listed = client.cids()
    assert set(load.kept) <= listed, "nothing acknowledged is lost"
    for cid, size in list(load.kept.items())[:40]:
        assert len(client.get(cid)) == size
    progress = client.verify()
    assert (progress["damaged"], progress["unhealed"]) == (0, 0)


def test_a_killed_worker_comes_back_alone_and_nothing_acknowledged_is_lost(node: Node) -> None:
    client = node.start()
    load = Load(node, may_break=True)
    threads = load.run()
    until(goes_on(load, 15), "the clients get no answers")
    before = pids(client)
    os.kill(before[1], signal.SIGKILL)
    until(goes_on(load, 1), "nobody answers while one is gone")

    def is_back() -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            now = pids(node.client())
            return set(now) == {0, 1} and now[0] == before[0] and now[1] != before[1]
        return False

    until(is_back, "the worker does not come back")
    until(goes_on(load, 10), "the clients get no answers afterwards")
    load.end(threads)
    until(lambda: node.client()("GET", "/readyz").status == 200, "it is not ready again")
    assert restarts(node.client()) == [0, 1]
    assert node.process is not None
    assert node.process.poll() is None
    check_all_there(node, load)
    node.stop()
    node.settings["MOLIA_WORKERS"] = "1"  # the same store serves one process
    node.start()  # what a put could not clean up while a shard was away is swept now
    node.stop()
    assert set(load.kept) <= set(assert_no_orphans(node.home))


def test_sighup_restarts_all_workers_and_drops_no_request(node: Node) -> None:
    client = node.start()
    before = pids(client)
    load = Load(node)
    threads = load.run()
    until(goes_on(load, 10), "the clients get no answers")
    assert node.process is not None
    node.process.send_signal(signal.SIGHUP)

    def all_new() -> bool:
        now = pids(node.client())
        return set(now) == {0, 1} and not set(now.values()) & set(before.values())

    until(all_new, "the workers are not restarted", within_s=120)
    until(goes_on(load, 10), "the clients get no answers")
    load.end(threads)
    assert restarts(node.client()) == [1, 1]
    check_all_there(node, load)
    node.stop()
    assert "worker_ended" not in node.log.read_text(), "none ended by itself"


# ---------------------------------------------------------------------------- the end


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_sigterm_drains_and_ends_with_0(node: Node) -> None:
    client = node.start()
    cids = {client.put(body_of(number, 1_200_000)) for number in range(3)}
    workers = pids(client)
    for pid in workers.values():  # as a service manager tells every process
        os.kill(pid, signal.SIGTERM)
    node.stop()
    until(lambda: not any(map(is_running, workers.values())), "a worker is left")
    assert not (node.home / "node.json").exists()
    assert not (node.home / "api.sock").exists()
    assert not (node.home / "run").exists()
    node.settings["MOLIA_WORKERS"] = "3"
    client = node.start()
    assert client.cids() == cids, "three have the same store, of which one has no shard"
    assert len(pids(client)) == 3
    assert client.verify()["damaged"] == 0


def test_no_process_is_left_when_the_parent_is_killed(tmp_path: Path) -> None:
    node = Node(tmp_path / ("x" * 120), dict(TWO))  # so long that the bus has to be elsewhere
    try:
        client = node.start()
        kept = {client.put(body_of(number, 1_000)): body_of(number, 1_000) for number in range(6)}
        workers = pids(client)
        node.kill()
        until(lambda: not any(map(is_running, workers.values())), "a worker is left")
        client = node.start()
        assert {cid: client.get(cid) for cid in kept} == kept
    finally:
        node.close()


def test_what_keeps_a_worker_from_starting_is_the_nodes_error(node: Node) -> None:
    assert node.molia("init").returncode == 0
    superblock = node.home / "data" / "STORE"
    superblock.write_bytes(b"nonsense")
    ran = node.molia("run", "--api", "127.0.0.1:0", "--json")
    assert ran.returncode == 6, ran
    assert b"Traceback" not in ran.stderr
    problem = json.loads(ran.stdout.splitlines()[-1]) if ran.stdout else {}
    assert problem.get("ok", False) is False
