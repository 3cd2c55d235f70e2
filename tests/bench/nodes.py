"""Servers as processes of their own, and what the kernel says about them."""

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[2]
START_TIMEOUT_S = 180
MIB = 1024 * 1024


class Server:
    """A process that serves HTTP on a loopback port."""

    def __init__(self, process: "subprocess.Popen[bytes]", port: int, log: Path) -> None:
        self.process, self.port, self.log = process, port, log

    def wait_ready(self, path: str) -> None:
        """Return once `path` answers 200."""
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline_s:
            if self.process.poll() is not None:
                break
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            try:
                connection.request("GET", path)
                if connection.getresponse().status == 200:
                    return
            except OSError:
                time.sleep(0.05)
            finally:
                connection.close()
        raise RuntimeError(f"no answer from {path}:\n{self.log.read_text('utf-8', 'replace')}")

    def stop(self) -> None:
        """End the process and wait for it."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(90)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def memory_bytes(self) -> int:
        """Return the resident memory now."""
        return self._status("VmRSS")

    def peak_memory_bytes(self) -> int:
        """Return the largest resident memory since `reset_peak`."""
        return self._status("VmHWM")

    def reset_peak(self) -> None:
        """Begin to look for the peak anew. Source: proc(5), clear_refs."""
        Path(f"/proc/{self.process.pid}/clear_refs").write_text("5", "ascii")

    def written_bytes(self) -> int:
        """Return the bytes that the process caused to be written to a disk. Source: proc(5), io."""
        counters = dict(
            line.split(": ")
            for line in Path(f"/proc/{self.process.pid}/io").read_text("ascii").splitlines()
        )
        return int(counters["write_bytes"]) - int(counters["cancelled_write_bytes"])

    def _status(self, field: str) -> int:
        for line in Path(f"/proc/{self.process.pid}/status").read_text("ascii").splitlines():
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
        raise RuntimeError(f"/proc has no {field}")


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def running_node(folder: Path, **settings: str) -> Iterator[Server]:
    """Yield a node with an empty home in `folder`; the home goes when the block ends."""
    home = folder / "home"
    port, log = free_port(), folder / "node.log"
    environment = {n: v for n, v in os.environ.items() if not n.startswith("MOLIA_")}
    ours = {"MOLIA_HOME": str(home), "MOLIA_API__LOOPBACK": "trusted"}
    one = {"MOLIA_WORKERS": "1", "MOLIA_UDP__LISTEN": "127.0.0.1:0"}  # figures are per process
    environment |= {**ours, **one, **settings}
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "molia", "run", "--api", f"127.0.0.1:{port}"],
            env=environment, cwd=ROOT, stdout=out, stderr=out,
        )  # fmt: skip
    server = Server(process, port, log)
    try:
        server.wait_ready("/readyz")
        yield server
    finally:
        server.stop()
        shutil.rmtree(home, ignore_errors=True)


@contextmanager
def memory_server(folder: Path) -> Iterator[Server]:
    """Yield the same HTTP server with nothing behind it: see `tests/bench/bare_app.py`."""
    port, log = free_port(), folder / "bare.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.bare_app", str(port)],
            cwd=ROOT, stdout=out, stderr=out,
        )  # fmt: skip
    server = Server(process, port, log)
    try:
        server.wait_ready("/stream/1")
        yield server
    finally:
        server.stop()
