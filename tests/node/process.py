"""A real node as a process of its own: started, asked over HTTP, killed, looked into.

Every wait has a deadline and polls; nothing sleeps for a fixed time in the hope that it suffices.
"""

import contextlib
import http.client
import json
import os
import random
import re
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import urlsplit

ROOT: Final = Path(__file__).parents[2]
MIB: Final = 1024 * 1024
START_S: Final = 120.0
REPLY_S: Final = 120.0
POLL_S: Final = 0.05
Body = bytes | Iterable[bytes]
T = TypeVar("T")


@dataclass
class Answer:
    """What came back over HTTP. `whole` is False when the connection broke inside the body."""

    status: int
    headers: dict[str, str]
    body: bytes
    whole: bool = True

    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The problem code of a refusal."""
        assert self.headers["content-type"] == "application/problem+json", self
        return str(self.json()["code"])


class Client:
    """One connection to a node, opened again when it breaks."""

    def __init__(self, port: int) -> None:
        self.connection = http.client.HTTPConnection("127.0.0.1", port, timeout=REPLY_S)

    def __del__(self) -> None:
        self.connection.close()

    def __call__(self, method: str, path: str, body: Body | None = None, **headers: str) -> Answer:
        """Return the answer. Raises OSError or HTTPException when there is none."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            self.connection.request(method, path, body=body, headers=named)
            response = self.connection.getresponse()
            whole = True
            try:
                data = response.read()
            except http.client.IncompleteRead as error:
                data, whole = error.partial, False
        except (OSError, http.client.HTTPException):
            self.connection.close()
            raise
        if not whole:
            self.connection.close()
        known = {name.lower(): value for name, value in response.getheaders()}
        return Answer(response.status, known, data, whole)

    def put(self, body: Body, query: str = "") -> str:
        """Store a body and return its CID."""
        answer = self("PUT", f"/blob{query}", body)
        assert answer.status in (200, 201), answer
        return answer.body.decode().strip()

    def get(self, cid: str) -> bytes:
        """Return a blob's bytes."""
        answer = self("GET", f"/blob/{cid}")
        assert (answer.status, answer.whole) == (200, True), answer
        return answer.body

    def delete(self, cid: str) -> None:
        """Delete a blob."""
        answer = self("DELETE", f"/blob/{cid}")
        assert answer.status == 204, answer

    def listing(self, limit: int = 1000) -> list[dict[str, Any]]:
        """Return the whole listing, page by page."""
        found: list[dict[str, Any]] = []
        cursor: str | None = ""
        while cursor is not None:
            more = f"&cursor={cursor}" if cursor else ""
            page = self("GET", f"/blob?limit={limit}{more}").json()
            found += page["blobs"]
            cursor = page["next"]
        return found

    def cids(self) -> set[str]:
        """Return the CIDs of everything listed; none may come twice."""
        cids = [str(blob["cid"]) for blob in self.listing()]
        assert len(cids) == len(set(cids)), "a blob is listed twice"
        return set(cids)

    def metric(self, name: str) -> float:
        """Return the sum of a metric over its labels; 0 while it was never counted."""
        text = self("GET", "/metrics").body.decode()
        pattern = rf"^{re.escape(name)}(?:\{{[^}}]*\}})? (\S+)$"
        return sum(float(value) for value in re.findall(pattern, text, re.MULTILINE))

    def verify(self, *cids: str) -> dict[str, Any]:
        """Run a verify job to its end; return its progress."""
        job = self.start_verify(*cids)
        view = until(lambda: self.ended(job), "the verify job does not end", within_s=90)
        assert view["state"] == "done", view
        return dict(view["progress"])

    def start_verify(self, *cids: str) -> str:
        """Start a verify job; return its id."""
        body = json.dumps({"kind": "verify", "cids": list(cids)}).encode()
        answer = self("POST", "/jobs", body, content_type="application/json")
        assert answer.status == 202, answer
        return str(answer.json()["id"])

    def ended(self, job: str) -> dict[str, Any]:
        """Return a job that has ended, or nothing yet."""
        view: dict[str, Any] = self("GET", f"/jobs/{job}").json()
        return view if view["state"] in ("done", "failed", "cancelled") else {}


@dataclass
class Node:
    """A home, and the process that serves it while there is one."""

    home: Path
    settings: dict[str, str] = field(default_factory=dict)
    process: "subprocess.Popen[bytes] | None" = None
    port: int = 0

    @property
    def log(self) -> Path:
        """What the node said on stderr, over all its runs."""
        return self.home.with_name(self.home.name + ".log")

    @property
    def environment(self) -> dict[str, str]:
        """The surroundings of the node and of commands on its home."""
        bare = {n: v for n, v in os.environ.items() if not n.startswith(("MOLIA_", "XDG_"))}
        ours = {
            "MOLIA_HOME": str(self.home),
            "MOLIA_API__LOOPBACK": "trusted",
            "MOLIA_STORE__SHARDS": "2",
            "MOLIA_STORE__QUOTA_BYTES": "4GiB",
            "MOLIA_UDP__LISTEN": "127.0.0.1:0",
            "MOLIA_WORKERS": "1",  # most look into the process; test_workers.py has more of them
            "PYTHONPATH": str(ROOT),
        }
        return {**bare, **ours, **self.settings}

    def spawn(self, *arguments: str, **options: Any) -> "subprocess.Popen[bytes]":
        """Start `molia ARGUMENTS` on this home."""
        command = [sys.executable, "-m", "molia", *arguments]
        return subprocess.Popen(command, env=self.environment, cwd=self.home.parent, **options)

    def molia(self, *arguments: str) -> "subprocess.CompletedProcess[bytes]":
        """Run `molia ARGUMENTS` on this home to its end."""
        command = [sys.executable, "-m", "molia", *arguments]
        return subprocess.run(
            command, env=self.environment, cwd=self.home.parent, capture_output=True,
            timeout=REPLY_S, check=False,
        )  # fmt: skip

    def start(self) -> Client:
        """Start the node and return once it is ready."""
        self.launch()
        return self.wait_ready()

    def launch(self) -> None:
        """Start the process."""
        assert self.process is None, "one process at a time"
        (self.home / "node.json").unlink(missing_ok=True)
        with self.log.open("ab") as log:
            self.process = self.spawn(
                "run", "--api", "127.0.0.1:0", stdout=subprocess.DEVNULL, stderr=log
            )

    def wait_ready(self) -> Client:
        """Return a client once `readyz` answers 200."""
        self.wait_up()
        until(
            lambda: self.client()("GET", "/readyz").status == 200, "the node is not ready",
            within_s=START_S,
        )  # fmt: skip
        return self.client()

    def wait_up(self) -> Client:
        """Return a client once the API answers."""
        until(self._has_node_file, f"the node does not come up, see {self.log}", within_s=START_S)
        url = json.loads((self.home / "node.json").read_text())["urls"][0]
        self.port = urlsplit(url).port or 0
        return self.client()

    def _has_node_file(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the node ended with {self.process.returncode}:\n{self.tail()}")
        return (self.home / "node.json").exists()

    def client(self) -> Client:
        """Return a connection of its own."""
        return Client(self.port)

    def kill(self) -> None:
        """End the process as a kill -9 does."""
        self.end(signal.SIGKILL)

    def stop(self) -> None:
        """End the process in good order."""
        code = self.end(signal.SIGTERM)
        assert code == 0, f"SIGTERM ended in {code}:\n{self.tail()}"

    def end(self, number: int) -> int:
        """Send a signal and wait for the end."""
        process, self.process = self.process, None
        assert process is not None, "nothing runs"
        process.send_signal(number)
        return process.wait(timeout=REPLY_S)

    def close(self) -> None:
        """End what still runs; the log must hold no traceback."""
        if self.process is not None:
            self.kill()
        said = self.log.read_text("utf-8", "replace") if self.log.exists() else ""
        assert "Traceback" not in said, said[-6000:]

    def tail(self) -> str:
        """Return the end of what the node said."""
        return self.log.read_text("utf-8", "replace")[-3000:] if self.log.exists() else ""

    def disk_bytes(self) -> int:
        """Return the blocks that the segments take on the disk."""
        return sum(path.stat().st_blocks * 512 for path in self.segments())

    def segments(self) -> list[Path]:
        """Return the files of all logs."""
        return sorted((self.home / "data").glob("shard-*/seg/*.log"))

    def memory(self, name: str) -> int:
        """Return a size of the process in bytes: VmRSS or VmHWM. Source: proc(5)."""
        assert self.process is not None
        for line in Path(f"/proc/{self.process.pid}/status").read_text("ascii").splitlines():
            if line.startswith(name + ":"):
                return int(line.split()[1]) * 1024
        raise AssertionError(f"/proc has no {name}")

    def starved_s(self) -> float:
        """Return for how long the main thread waited for a processor that others had.

        Source: Documentation/scheduler/sched-stats.rst, "/proc/<pid>/schedstat".
        """
        assert self.process is not None
        try:
            text = Path(f"/proc/{self.process.pid}/schedstat").read_text("ascii")
        except FileNotFoundError:
            return 0.0
        return int(text.split()[1]) / 1e9


def close_all(nodes: Iterable[Node]) -> None:
    """End what still runs of all of these, also where the log of one is not as it should be."""
    with contextlib.ExitStack() as ends:
        for node in nodes:
            ends.callback(node.close)


def until(holds: Callable[[], T], otherwise: str, *, within_s: float = 60.0) -> T:
    """Return what `holds` gives as soon as that is true; fail with `otherwise` if it never is."""
    deadline_s = time.monotonic() + within_s
    while True:
        found = holds()
        if found:
            return found
        assert time.monotonic() < deadline_s, f"{otherwise} (within {within_s:g} s)"
        time.sleep(POLL_S)


def body_of(seed: int, size: int) -> bytes:
    """Return the same `size` random bytes for the same seed."""
    return random.Random(seed).randbytes(size)


def pieces(body: bytes, size: int = 300_000) -> Iterable[bytes]:
    """Yield a body piece by piece: it is sent chunked."""
    for at in range(0, len(body), size):
        yield body[at : at + size]


class RawPut:
    """A put whose bytes are sent by hand: cut off, held back, or answered before its end."""

    def __init__(self, port: int, *, length: int | None = None, **headers: str) -> None:
        self.chunked = length is None
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=REPLY_S)
        size = "Transfer-Encoding: chunked" if length is None else f"Content-Length: {length}"
        more = "".join(f"{name.replace('_', '-')}: {text}\r\n" for name, text in headers.items())
        head = f"PUT /blob HTTP/1.1\r\nHost: localhost:{port}\r\n{size}\r\n{more}\r\n"
        self.socket.sendall(head.encode())

    def send(self, chunks: Iterable[bytes]) -> bool:
        """Send chunks until an answer comes; return whether all were sent."""
        for chunk in chunks:
            if select.select([self.socket], [], [], 0)[0]:
                return False
            framed = b"%x\r\n%b\r\n" % (len(chunk), chunk) if self.chunked else chunk
            try:
                self.socket.sendall(framed)
            except OSError:
                return False
        return True

    def end(self) -> None:
        """End a chunked body."""
        with contextlib.suppress(OSError):
            self.socket.sendall(b"0\r\n\r\n")

    def answer(self) -> Answer:
        """Return the answer and close the connection."""
        with self.socket, http.client.HTTPResponse(self.socket, method="PUT") as response:
            response.begin()
            headers = {name.lower(): value for name, value in response.getheaders()}
            return Answer(response.status, headers, response.read())

    def cut_off(self) -> None:
        """Close the connection inside the body."""
        self.socket.close()
