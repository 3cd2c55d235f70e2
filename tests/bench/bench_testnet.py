"""Fifty node processes on this machine: does everybody find everything, and after a massacre?

Figures of a network on loopback, where distances are nothing and the two cores are shared by all
nodes: they show that it works on sockets, and what a lookup costs in CPU. Waiting is the
simulator's subject.
"""

import contextlib
import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from tests.bench.report import Figure, against_number, seen

NODES: Final = 50
NODES_MIN: Final = 6
KILLED: Final = 0.3
CLIENTS: Final = 8
READABLE_S: Final = 5.0
RECOVERY_S: Final = 30.0
LOOKUPS_S: Final = 10.0
ROOT: Final = Path(__file__).parents[2]


class Node:
    """One node of the testnet, asked over HTTP."""

    def __init__(self, told: dict[str, Any]) -> None:
        self.pid: int = told["pid"]
        self._place = urlsplit(told["api"]).netloc
        self._token = (Path(told["home"]) / "api.token").read_text("ascii").strip()

    def ask(self, method: str, path: str, body: bytes = b"") -> tuple[int, bytes]:
        """Return status and body; status 0 when nobody is there."""
        connection = http.client.HTTPConnection(self._place, timeout=RECOVERY_S)
        try:
            headers = {"Authorization": f"Bearer {self._token}"}
            connection.request(method, path, body=body or None, headers=headers)
            answer = connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            return 0, b""
        finally:
            connection.close()

    def put(self, name: str, value: bytes) -> str:
        """Publish a record; return its address."""
        status, body = self.ask("PUT", f"/record/{name}", value)
        assert status in (200, 201), body
        return str(json.loads(body)["address"])

    def reads(self, address: str, value: bytes) -> bool:
        """Tell whether the record reads as it was put."""
        return self.ask("GET", f"/record/{address}") == (200, value)

    def counter(self, name: str) -> float:
        """Return an event's count."""
        text = self.ask("GET", "/metrics")[1].decode()
        found = re.search(rf'^molia_dht_events_total{{event="{name}"}} (\S+)$', text, re.MULTILINE)
        return float(found[1]) if found else 0.0


@contextmanager
def testnet(count: int, base: Path) -> Iterator[tuple[list[Node], float]]:
    """Give the nodes of a testnet that is up, and the seconds that it took."""
    base.mkdir()
    environment = {n: v for n, v in os.environ.items() if not n.startswith("MOLIA_")}
    words = ["testnet", "--nodes", str(count), "--json", "--base", str(base)]
    started_s = time.monotonic()
    process = subprocess.Popen(
        [sys.executable, "-m", "molia", *words], cwd=ROOT, env=environment, stdout=subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "the testnet did not come up"
        yield [Node(told) for told in json.loads(line)["nodes"]], time.monotonic() - started_s
    finally:
        process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=60)
        process.kill()


def bench_testnet(folder: Path, scale: float) -> Iterator[Figure]:
    """Every node reads every other's record; a new one within 5 s; 30% killed at once."""
    count = max(NODES_MIN, int(NODES * scale))
    chance = random.Random(count)
    with testnet(count, folder / "net") as (nodes, up_s), ThreadPoolExecutor(CLIENTS) as clients:
        yield seen(f"testnet of {count}: up and joined", up_s, "s")
        records = list(clients.map(lambda n: (n.put("bench", b"of %d" % n.pid), b"of %d" % n.pid),
                                   nodes))  # fmt: skip
        pairs = [(node, *record) for node in nodes for record in records]
        found = sum(clients.map(lambda pair: pair[0].reads(pair[1], pair[2]), pairs))
        yield against_number(
            "every node reads every other's record", 100 * found / len(pairs), "%", None,
            at_least=100,
        )  # fmt: skip
        yield against_number(
            "a put is readable from all", _readable_s(nodes, clients.map), "s", None,
            at_most=READABLE_S,
        )  # fmt: skip
        yield from _lookups(nodes, clients, chance, max(0.5, LOOKUPS_S * min(1.0, scale)))
        yield from _massacre(nodes, records, clients, chance)


def _readable_s(nodes: Sequence[Node], run: Callable[..., Iterator[bool]]) -> float:
    """Return how long after a put its last reader sees it."""
    started_s = time.monotonic()
    address, waiting = nodes[0].put("late", b"late"), list(nodes)
    while waiting and time.monotonic() - started_s < 2 * RECOVERY_S:
        seen = list(run(lambda node: node.reads(address, b"late"), waiting))
        waiting = [node for node, is_seen in zip(waiting, seen, strict=True) if not is_seen]
    return time.monotonic() - started_s


def _lookups(
    nodes: Sequence[Node], clients: ThreadPoolExecutor, chance: random.Random, within_s: float
) -> Iterator[Figure]:
    """Lookups of random places over warm sessions, begun over HTTP one after the other."""
    keys = [chance.randbytes(32).hex() for _ in range(100_000)]
    _look(nodes, keys[: 4 * len(nodes)], clients, within_s)  # sessions are made
    asked = sum(node.counter("lookup_requests") for node in nodes)
    done, took_s = _look(nodes, keys[4 * len(nodes) :], clients, within_s)
    asked = sum(node.counter("lookup_requests") for node in nodes) - asked
    yield seen("lookups begun, warm, all nodes on this machine", done / took_s, "/s")
    yield seen("requests of a lookup", asked / max(1, done), "")


def _look(
    nodes: Sequence[Node], keys: Sequence[str], clients: ThreadPoolExecutor, within_s: float
) -> tuple[int, float]:
    """Begin lookups until the time is over; return how many ended well, and the time."""
    started_s = time.monotonic()

    def one(numbered: tuple[int, str]) -> bool:
        if time.monotonic() - started_s > within_s:
            return False
        number, key = numbered
        return nodes[number % len(nodes)].ask("GET", f"/lookup/{key}")[0] == 200

    done = sum(clients.map(one, enumerate(keys)))
    return done, min(within_s, time.monotonic() - started_s)


def _massacre(
    nodes: Sequence[Node],
    records: Sequence[tuple[str, bytes]],
    clients: ThreadPoolExecutor,
    chance: random.Random,
) -> Iterator[Figure]:
    """Kill many at once; then every survivor looks for records of the dead and the living."""
    killed = set(chance.sample([node.pid for node in nodes], int(KILLED * len(nodes))))
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    living = [node for node in nodes if node.pid not in killed]
    wanted = [(node, *record) for node in living for record in chance.sample(list(records), 5)]
    started_s = time.monotonic()

    def one(pair: tuple[Node, str, bytes]) -> float:
        found = pair[0].reads(pair[1], pair[2])
        return time.monotonic() - started_s if found else float("inf")

    ends_s = list(clients.map(one, wanted))
    good = sum(end_s <= RECOVERY_S for end_s in ends_s)
    yield against_number(
        f"lookups that find within {RECOVERY_S:g} s of 30% being killed",
        100 * good / len(wanted), "%", None, at_least=95,
    )  # fmt: skip
    yield seen(f"all {len(wanted)} of these lookups took", max(ends_s), "s")
