"""A network of node processes on loopback for benches, and what the kernel says about each."""

import contextlib
import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from molia.base.limits import GIB
from tests.bench.nodes import ROOT, Server, free_port

JOIN_S: Final = 180.0
POLL_S: Final = 0.1
CONTACTS: Final = 5
"""With which a node finds the rest; those that were killed are not known for long."""
FIRSTS: Final = 3
"""Nodes that the next one begins with."""
STARTING: Final = 2
"""Nodes that start at once: more only wait for each other."""
TICKS_S: Final = os.sysconf("SC_CLK_TCK")
OFFER: Final = {"MOLIA_STORE__OFFER_BYTES": str(20 * GIB)}
COMMON: Final = {
    "MOLIA_API__LOOPBACK": "trusted",
    "MOLIA_WORKERS": "1",
    "MOLIA_THREADS": "2",
    "MOLIA_NETWORK": "bench-net",
    "MOLIA_DHT__REACHABLE": "yes",
    "MOLIA_STORE__SHARDS": "1",
    "MOLIA_STORE__QUOTA_BYTES": str(30 * GIB),
    "MOLIA_STORE__OFFER_OWNER_PERCENT": "100",
    "MOLIA_STORE__CACHE_PERCENT": "0",
}
"""Nothing is cached: each read is to come from others, however often it is repeated."""


class NetNode(Server):
    """One node of the network."""

    def __init__(
        self, home: Path, settings: dict[str, str], command: Sequence[str] = ("-m", "molia", "run")
    ) -> None:
        """command: what Python is told to run."""
        self.home, self._command = home, command
        self._udp = f"127.0.0.1:{free_port()}"
        outside = {n: v for n, v in os.environ.items() if not n.startswith("MOLIA_")}
        mine = {"MOLIA_HOME": str(home), "MOLIA_UDP__LISTEN": self._udp}
        self._environment = {**outside, **COMMON, **settings, **mine}
        port, log = free_port(), home.with_suffix(".log")
        super().__init__(self._begin(port, log), port, log)
        self.peer = self.address = ""
        self.idle_bytes = self.peak_bytes = 0

    def _begin(self, port: int, log: Path) -> "subprocess.Popen[bytes]":
        with log.open("ab") as out:
            return subprocess.Popen(
                [sys.executable, *self._command, "--api", f"127.0.0.1:{port}"],
                env=self._environment, cwd=ROOT, stdout=out, stderr=out,
            )  # fmt: skip

    def wait_up(self) -> None:
        """Return once the node answers; its address is known then."""
        self.wait_ready("/readyz")
        (self.address,) = self.ask("GET", "/node")["addresses"]
        self.peer = self.address.removeprefix("molia://").partition("@")[0]

    def begin_again(self) -> None:
        """Start the node anew in its home, at its ports."""
        self.process = self._begin(self.port, self.log)

    def kill(self) -> None:
        """End the process as a power cut does."""
        if self.process.poll() is None:
            self.note_peak()
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self.process.poll() is None

    def ask(self, method: str, path: str, body: object = None) -> dict[str, Any]:
        """Return the object that the node answers with."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            data = None if body is None else json.dumps(body)
            headers = {"Accept": "application/json", "Content-Type": "application/json"}
            connection.request(method, path, data, headers)
            answer = connection.getresponse()
            text = answer.read()
            assert answer.status in (200, 202), (path, answer.status, text[:300])
            return dict(json.loads(text))
        finally:
            connection.close()

    def is_joined(self, count: int) -> bool:
        """Tell whether the node knows enough of `count` nodes to find all."""
        dht = self.ask("GET", "/node")["dht"]
        return bool(dht["is_joined"]) and dht["contacts"] >= min(count - 1, CONTACTS)

    def metric(self, name: str, label: str = "") -> float:
        """Return the sum of a metric over its labels, or over those with this value."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        finally:
            connection.close()
        pattern = rf"^{re.escape(name)}(?:\{{([^}}]*)\}})? (\S+)$"
        found = re.findall(pattern, text, re.MULTILINE)
        return sum(float(value) for labels, value in found if f'"{label}"' in labels or not label)

    def cpu_s(self) -> float:
        """Return the CPU seconds of the process, user and system, its ended threads included."""
        stat = Path(f"/proc/{self.process.pid}/stat").read_text("ascii")
        fields = stat.rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS_S

    def note_idle(self) -> None:
        """Begin to look for the peak of memory, from what it is now."""
        self.idle_bytes = self.memory_bytes()
        self.reset_peak()

    def note_peak(self) -> None:
        """Remember the peak until now."""
        self.peak_bytes = max(self.peak_bytes, self.peak_memory_bytes() - self.idle_bytes)


class Net:
    """The nodes of a network."""

    def __init__(self, folder: Path, command: Sequence[str] = ("-m", "molia", "run")) -> None:
        self.nodes: list[NetNode] = []
        self._folder, self._command = folder, command

    def add(self, count: int, settings: dict[str, str]) -> list[NetNode]:
        """Start nodes that join, and return them once they have."""
        added: list[NetNode] = []
        while len(added) < count:
            wave = STARTING if self.nodes else 1
            begun = []
            for _ in range(min(wave, count - len(added))):
                known = [node for node in self.alive if node.address][:FIRSTS]
                firsts = ",".join(node.address for node in known)
                told = {**settings, "MOLIA_DHT__BOOTSTRAP": firsts} if known else settings
                home = self._folder / f"n{len(self.nodes):02d}"
                begun.append(NetNode(home, told, self._command))
                self.nodes.append(begun[-1])
            for node in begun:
                node.wait_up()
            added += begun
        return added

    def adopt(self, home: Path, settings: dict[str, str]) -> NetNode:
        """Start a node in a home that is there, and return it once it answers."""
        firsts = ",".join(node.address for node in self.alive[:FIRSTS])
        node = NetNode(home, {**settings, "MOLIA_DHT__BOOTSTRAP": firsts}, self._command)
        self.nodes.append(node)
        node.wait_up()
        return node

    @property
    def alive(self) -> list[NetNode]:
        """The nodes that run."""
        return [node for node in self.nodes if node.is_alive]

    def wait_joined(self) -> None:
        """Return once each node knows enough of the others."""
        wait_until(
            lambda: all(node.is_joined(len(self.alive)) for node in self.alive), "nodes do not join"
        )

    def cpu_s(self) -> float:
        """Return the CPU seconds of all processes that run."""
        return sum(node.cpu_s() for node in self.alive)

    def note_idle(self) -> None:
        """See `NetNode.note_idle`, of all."""
        for node in self.alive:
            node.note_idle()

    def peak_bytes(self) -> int:
        """Return by how much the process that grew most had grown at its peak."""
        for node in self.alive:
            node.note_peak()
        return max(node.peak_bytes for node in self.nodes)

    def named(self, peers: Iterable[str]) -> list[NetNode]:
        """Return the nodes with these keys, in this order."""
        by_peer = {node.peer: node for node in self.nodes}
        return [by_peer[peer] for peer in peers if peer in by_peer]

    def stop(self) -> None:
        """End all of them."""
        for node in self.alive:
            node.process.send_signal(signal.SIGTERM)
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(Server.stop, self.nodes))


def wait_until(
    holds: Callable[[], object], otherwise: str, *, within_s: float = JOIN_S,
    every_s: float = POLL_S,
) -> None:  # fmt: skip
    """Return once `holds()`. Raises RuntimeError when it does not in time."""
    deadline_s = time.monotonic() + within_s
    while not holds():
        if time.monotonic() > deadline_s:
            raise RuntimeError(otherwise)
        time.sleep(every_s)


@contextmanager
def network(folder: Path, command: Sequence[str] = ("-m", "molia", "run")) -> Iterator[Net]:
    """Give a network without nodes; those that are added end with the block."""
    folder.mkdir(exist_ok=True)
    net = Net(folder, command)
    try:
        yield net
    finally:
        with contextlib.suppress(OSError):
            net.stop()
