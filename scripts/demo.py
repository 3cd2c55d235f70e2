"""The main job on a network of 20 nodes: put, kill holders, get, repair, kill more, get again.

Runs 20 node processes on loopback in a temporary directory, touches nothing else and removes what
it made. Repair waits seconds here, where a real network waits up to a day for who may come back.
Every step checks what it claims; the first that fails ends the run with exit code 1.
"""

import hashlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

MIB = 1024 * 1024
FILE_SIZE = 64 * MIB
NODES = 20
REPAIR = {
    "LOOK_S": "2", "GRACE_13_S": "3", "GRACE_12_S": "3", "GRACE_URGENT_S": "2", "TAKEOVER_S": "12",
    "BUDGET_BYTES": "1000000000",
}  # fmt: skip
MOLIA = Path(sys.executable).with_name("molia")
REPAIR_WAIT_S = 90.0


class DemoFailed(Exception):
    """A step did not do what it claims."""


def check(holds: bool, claim: str) -> None:  # noqa: FBT001 - reads as a sentence
    """Raise DemoFailed with `claim` unless it holds."""
    if not holds:
        raise DemoFailed(claim)


class Node:
    """One node of the network, as its API shows it."""

    def __init__(self, row: dict[str, Any]) -> None:
        self.url, self.pid = str(row["api"]), int(row["pid"])
        self.peer = str(row["address"]).removeprefix("molia://").partition("@")[0]

    def ask(self, path: str) -> dict[str, Any]:
        """Return the object that the node answers a GET with."""
        connection = http.client.HTTPConnection(urlsplit(self.url).netloc, timeout=60)
        try:
            connection.request("GET", path, None, {"Accept": "application/json"})
            reply = connection.getresponse()
            body = reply.read()
            check(reply.status == 200, f"GET {path}: {reply.status} {body[:200]!r}")
            return dict(json.loads(body))
        finally:
            connection.close()

    def molia(self, *arguments: str) -> str:
        """Return what a molia command that talks to the node prints; it must succeed."""
        done = subprocess.run(
            [MOLIA, *arguments, "--node", self.url, "--no-progress"], env=environment(),
            capture_output=True, text=True, timeout=120, check=False,
        )  # fmt: skip
        check(done.returncode == 0, f"molia {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout


class Demo:
    """The network, and the steps."""

    def __init__(self, root: Path) -> None:
        self.root, self.steps = root, 0
        self.network: subprocess.Popen[str] | None = None
        self.nodes: list[Node] = []

    @contextmanager
    def step(self, title: str) -> Iterator[list[str]]:
        """Print the step, what it has to tell and how long it took."""
        self.steps += 1
        print(f"{self.steps:2}. {title:<66}", end="", flush=True)
        notes: list[str] = []
        started_s = time.monotonic()
        yield notes
        print(f"{time.monotonic() - started_s:7.2f} s  {' '.join(notes)}".rstrip(), flush=True)

    def start(self) -> None:
        """Start the network and wait until its nodes know each other."""
        command = [str(MOLIA), "testnet", "--nodes", str(NODES), "--json", "--base", str(self.root)]
        self.network = subprocess.Popen(
            command, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.network.stdout is not None, "it is a pipe"
        line = self.network.stdout.readline()
        check(bool(line), "the network did not start")
        self.nodes = [Node(row) for row in json.loads(line)["nodes"]]

    def stop(self) -> None:
        """End the network."""
        if self.network is not None and self.network.poll() is None:
            self.network.send_signal(signal.SIGTERM)
            try:
                self.network.wait(30)
            except subprocess.TimeoutExpired:
                self.network.kill()

    def kill(self, nodes: list[Node]) -> None:
        """Kill nodes as a power cut does."""
        for node in nodes:
            os.kill(node.pid, signal.SIGKILL)
        self.nodes = [node for node in self.nodes if node not in nodes]

    def holders(self, cid: str) -> list[Node]:
        """Return the nodes that have a share, by the network's own answer."""
        shares = self.nodes[-1].ask(f"/blob/{cid}/health")["shares"]
        named = dict.fromkeys(holder for share in shares for holder in share["holders"])
        return [node for node in self.nodes if node.peer in named]

    def survives(self, cid: str, asker: Node) -> tuple[int, str]:
        """Return how many nodes may vanish, and what the blob is called."""
        health = asker.ask(f"/blob/{cid}/health")
        return int(health["survives"]), str(health["state"])


def environment() -> dict[str, str]:
    """Return the environment of a command: nothing of the caller's own node, and quick repairs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("MOLIA_")}
    return kept | {f"MOLIA_REPAIR__{name}": value for name, value in REPAIR.items()}


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file: a second opinion, none of Molia's code has a part in it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def get_back(demo: Demo, node: Node, cid: str, big: Path) -> None:
    """Get the file through a node and compare it with the original."""
    target = demo.root / "back.bin"
    node.molia("get", cid, "-o", str(target), "--force")
    check(sha256(target) == sha256(big), "the file that came back differs")
    target.unlink()


def put(demo: Demo, big: Path) -> str:
    """Put the file on the first node; return its CID."""
    with demo.step(f"molia put {big.name} on one node: 14 shares on other nodes") as notes:
        cid = demo.nodes[0].molia("put", str(big)).strip()
        survives, state = demo.survives(cid, demo.nodes[0])
        check(survives == 4, f"it survives {survives} losses, not 4: {state}")
        notes.append(f"{state}, survives 4 losses")
    print(f"    {cid}")
    return cid


def run(demo: Demo, big: Path) -> None:
    """Go through the steps."""
    with demo.step(f"start {NODES} nodes on loopback, each a process of its own"):
        demo.start()
    cid = put(demo, big)
    first = demo.nodes[0]
    with demo.step("kill -9 four of them: who put it, and three other holders"):
        demo.kill([first, *[node for node in demo.holders(cid) if node is not first][:3]])
    holders = demo.holders(cid)
    reader = next(node for node in reversed(demo.nodes) if node not in holders)
    with demo.step("molia get on a node that never saw it: same SHA-256"):
        get_back(demo, reader, cid, big)
    with demo.step("repair, with a grace of 2 s in place of up to a day") as notes:
        wait_for_repair(demo, reader, cid)
        notes.append("survives 4 losses again")
    with demo.step("kill -9 four more holders"):
        spared = [node for node in demo.holders(cid) if node is not reader]
        demo.kill(spared[:4])
    with demo.step("molia get again: same SHA-256") as notes:
        get_back(demo, reader, cid, big)
        notes.append(f"{NODES - len(demo.nodes)} of {NODES} nodes are gone")


def wait_for_repair(demo: Demo, reader: Node, cid: str) -> None:
    """Return when the file survives four losses again."""
    until_s, said = time.monotonic() + REPAIR_WAIT_S, None
    while time.monotonic() < until_s:
        said = demo.survives(cid, reader)
        if said[0] >= 4:
            return
        time.sleep(0.5)
    raise DemoFailed(f"after {REPAIR_WAIT_S:.0f} s it survives {said and said[0]} losses")


def main() -> int:
    """Run the demonstration; return the exit code."""
    root = Path(tempfile.mkdtemp(prefix="molia-demo-"))
    demo, started_s = Demo(root), time.monotonic()
    try:
        with demo.step("make a file of random bytes") as notes:
            big = root / "big.bin"
            big.write_bytes(os.urandom(FILE_SIZE))
            notes.append(f"{FILE_SIZE // MIB} MiB, SHA-256 {sha256(big)[:16]}…")
        run(demo, big)
    except (DemoFailed, OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        print(f"\nFAILED: {error}")
        return 1
    finally:
        demo.stop()
        shutil.rmtree(root, ignore_errors=True)
    print(f"all {demo.steps} steps did what they claim, in {time.monotonic() - started_s:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
