"""The main job on a real file, in about ten steps: store, kill, damage, read back, delete.

Runs a node of its own in a temporary home on a free port, touches nothing else and removes what it
made. Every step checks what it claims; the first that fails ends the run with exit code 1 and the
end of the node's log.
"""

import hashlib
import http.client
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MIB = 1024 * 1024
FILE_SIZE = 64 * MIB
BLOCK_SIZE = 256 * 1024
MOLIA = Path(sys.executable).with_name("molia")


class DemoFailed(Exception):
    """A step did not do what it claims."""


def check(holds: bool, claim: str) -> None:  # noqa: FBT001 - reads as a sentence
    """Raise DemoFailed with `claim` unless it holds."""
    if not holds:
        raise DemoFailed(claim)


class Demo:
    """A node in a temporary home, and the files that go through it."""

    def __init__(self, root: Path) -> None:
        self.root, self.home = root, root / "home"
        self.log = root / "node.log"
        self.node: subprocess.Popen[bytes] | None = None
        self.steps = 0
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]

    @contextmanager
    def step(self, title: str) -> Iterator[list[str]]:
        """Print the step, what it has to tell and how long it took."""
        self.steps += 1
        print(f"{self.steps:2}. {title:<58}", end="", flush=True)
        notes: list[str] = []
        started_s = time.monotonic()
        yield notes
        print(f"{time.monotonic() - started_s:7.2f} s  {' '.join(notes)}".rstrip(), flush=True)

    def molia(self, *arguments: str, timeout_s: float = 300) -> str:
        """Return what a molia command prints; it must succeed."""
        done = subprocess.run(
            [MOLIA, *arguments], env=self.environment(), capture_output=True, text=True,
            timeout=timeout_s, check=False,
        )  # fmt: skip
        check(done.returncode == 0, f"molia {' '.join(arguments)}: {done.stderr.strip()}")
        return done.stdout

    def environment(self) -> dict[str, str]:
        """Return the environment of a command: nothing of the caller's own node."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("MOLIA_")}
        return kept | {"MOLIA_HOME": str(self.home), "MOLIA_UDP__LISTEN": "127.0.0.1:0"}

    def start(self) -> None:
        """Start the node and wait until it takes work."""
        with self.log.open("ab") as log:
            command = [str(MOLIA), "run", "--api", f"127.0.0.1:{self.port}"]
            self.node = subprocess.Popen(
                command, env=self.environment(), stdout=log, stderr=log, cwd=self.root
            )
        deadline_s = time.monotonic() + 60
        while time.monotonic() < deadline_s:
            check(self.node.poll() is None, f"molia run ended with exit code {self.node.poll()}")
            try:
                if self.request("GET", "/readyz")[0] == 200:
                    return
            except OSError:
                time.sleep(0.05)
        raise DemoFailed("the node was not ready within 60 s")

    def kill(self, how: signal.Signals) -> int:
        """Send the node a signal and return its exit code."""
        assert self.node is not None, "the node was started"
        self.node.send_signal(how)
        code = self.node.wait(60)
        self.node = None
        return code

    def request(
        self, method: str, path: str, body: bytes | None = None, **headers: str
    ) -> tuple[int, bytes]:
        """Return status and body of one HTTP request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body, headers)
            reply = connection.getresponse()
            return reply.status, reply.read()
        finally:
            connection.close()

    def disk_bytes(self) -> int:
        """Return the bytes that the log takes on the disk, holes not counted."""
        return sum(path.stat().st_blocks * 512 for path in self.segments())

    def segments(self) -> list[Path]:
        """Return the log files of the store."""
        return sorted(self.home.glob("data/shard-*/seg/*.log"))


def real_file(path: Path) -> int:
    """Write a tar of Python's own library of at most FILE_SIZE: real bytes; return its size."""
    folders = [Path(sysconfig.get_path("stdlib")), Path(sysconfig.get_path("purelib"))]
    with path.open("wb") as out, tarfile.open(fileobj=out, mode="w") as archive:
        for name, folder in ((p, f) for f in folders for p in sorted(f.rglob("*"))):
            if name.is_file() and name.suffix != ".pyc" and out.tell() < FILE_SIZE:
                archive.add(name, arcname=name.relative_to(folder), recursive=False)
    size = min(FILE_SIZE, path.stat().st_size)
    check(size >= FILE_SIZE // 4, "this Python's library is too small for a demonstration")
    os.truncate(path, size)
    return size


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file: a second opinion, none of Molia's code has a part in it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def marker(data: bytes, block: int) -> bytes:
    """Return 64 bytes of a data block that stand nowhere else in the file."""
    for start in range(block * BLOCK_SIZE, (block + 1) * BLOCK_SIZE, 64):
        found = data[start : start + 64]
        if data.count(found) == 1:
            return found
    raise DemoFailed(f"block {block} of the file repeats others")


def damage(demo: Demo, data: bytes, blocks: int) -> int:
    """Overwrite 64 bytes of each of the first blocks wherever they are on the disk; count them."""
    noise, hit = random.Random(1), set()
    for segment in demo.segments():
        content = segment.read_bytes()
        for block in range(blocks):
            wanted = marker(data, block)
            at = content.find(wanted)
            while at >= 0:
                hit.add(block)
                with segment.open("r+b") as file:
                    file.seek(at)
                    file.write(noise.randbytes(64))
                at = content.find(wanted, at + 1)
    return len(hit)


def store_and_read(demo: Demo, big: Path) -> str:
    """Put the file by every door, read it back; return its CID."""
    with demo.step("start a node in an empty home") as notes:
        demo.start()
        notes.append(f"http://127.0.0.1:{demo.port}")
    with demo.step(f"molia put {big.name}: hash, code 10+4, store durably") as notes:
        cid = demo.molia("put", str(big), "--no-progress").strip()
        notes.append(cid)
    with demo.step("PUT /blob with the same bytes gives the same name") as notes:
        status, body = demo.request("PUT", "/blob", big.read_bytes())
        check((status, body.decode().strip()) == (200, cid), f"got {status} {body[:100]!r}")
    with demo.step("GET /blob/CID with a range across two blocks"):
        headers = {"Range": f"bytes={BLOCK_SIZE - 100}-{BLOCK_SIZE + 99}"}
        status, body = demo.request("GET", f"/blob/{cid}", None, **headers)
        wanted = big.read_bytes()[BLOCK_SIZE - 100 : BLOCK_SIZE + 100]
        check(status == 206 and body == wanted, f"got {status} and {len(body)} bytes")
    get_back(demo, cid, big, "molia get CID: every block verified, same SHA-256")
    return cid


def get_back(demo: Demo, cid: str, big: Path, title: str) -> None:
    """Fetch the file and compare it with the original."""
    with demo.step(title):
        target = demo.root / "back.bin"
        demo.molia("get", cid, "-o", str(target), "--force", "--no-progress")
        check(sha256(target) == sha256(big), "the file that came back differs")
        target.unlink()


def kill_in_the_middle(demo: Demo, cid: str, big: Path) -> None:
    """Kill the node while it is storing, and look at what it finds when it is back."""
    with demo.step("kill -9 the node in the middle of another put") as notes:
        other = demo.root / "other.bin"
        other.write_bytes(big.read_bytes()[::-1])
        command = [str(MOLIA), "put", str(other), "--no-progress"]
        putting = subprocess.Popen(
            command, env=demo.environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        before = demo.disk_bytes()
        while demo.disk_bytes() < before + 8 * MIB and putting.poll() is None:
            time.sleep(0.005)
        demo.kill(signal.SIGKILL)
        acknowledged = putting.communicate()[0].decode().strip()
        notes.append("it was acknowledged just before" if acknowledged else "it was not finished")
    with demo.step("start it again: recovery from the log"):
        demo.start()
    with demo.step("nothing half-written is listed"):
        listed = set(demo.molia("ls", "-q").split())
        check(listed == {cid, acknowledged} - {""}, f"listed: {listed}")
    get_back(demo, cid, big, "molia get CID: what was acknowledged is whole")


def damage_and_heal(demo: Demo, cid: str, big: Path) -> None:
    """Damage four blocks of one stripe behind the node's back; it must serve and mend them."""
    with demo.step("stop it, overwrite bytes in 4 blocks of a stripe"):
        check(demo.kill(signal.SIGTERM) == 0, "SIGTERM must end the node with exit code 0")
        check(damage(demo, big.read_bytes(), 4) == 4, "the blocks were not found in the log")
        demo.start()
    get_back(demo, cid, big, "molia get CID: decoded from the 10 sound blocks of 14")
    with demo.step("molia verify: what is damaged is rebuilt") as notes:
        demo.molia("verify")
        health = json.loads(demo.request("GET", f"/blob/{cid}/health")[1])
        check(health["state"] == "healthy", f"after verify: {health}")
        notes.append(f"{health['state']}, {health['spare_shares']} shares to spare")


def delete(demo: Demo, cid: str, big: Path) -> None:
    """Remove the blob and see the disk space come back."""
    with demo.step("molia rm CID: the space goes back to the file system") as notes:
        before = demo.disk_bytes()
        for listed in demo.molia("ls", "-q").split():
            demo.molia("rm", listed)
        stored = int(big.stat().st_size * 1.4 * 0.95)
        deadline_s = time.monotonic() + 60
        while demo.disk_bytes() > before - stored and time.monotonic() < deadline_s:
            time.sleep(0.25)
        freed = before - demo.disk_bytes()
        notes.append(f"{before / MIB:.0f} -> {demo.disk_bytes() / MIB:.0f} MiB")
        check(freed >= stored, f"only {freed / MIB:.0f} MiB came back within 60 s")
        check(demo.request("GET", f"/blob/{cid}")[0] == 404, "a deleted blob is still served")
    with demo.step("SIGTERM: it drains and exits 0"):
        check(demo.kill(signal.SIGTERM) == 0, "SIGTERM must end the node with exit code 0")


def main() -> int:
    """Run the demonstration; return the exit code."""
    root = Path(tempfile.mkdtemp(prefix="molia-demo-"))
    demo = Demo(root)
    started_s = time.monotonic()
    try:
        with demo.step("make a real file: a tar of Python's own library") as notes:
            big = root / "library.tar"
            notes.append(f"{real_file(big) / MIB:.0f} MiB")
        cid = store_and_read(demo, big)
        kill_in_the_middle(demo, cid, big)
        damage_and_heal(demo, cid, big)
        delete(demo, cid, big)
    except (DemoFailed, OSError, subprocess.SubprocessError, ValueError, KeyError) as error:
        print(f"\nFAILED: {error}")
        if demo.log.exists():
            print("".join(demo.log.read_text("utf-8", "replace").splitlines(keepends=True)[-30:]))
        return 1
    finally:
        if demo.node is not None:
            demo.node.kill()
            demo.node.wait()
        shutil.rmtree(root, ignore_errors=True)
    print(f"all {demo.steps} steps did what they claim, in {time.monotonic() - started_s:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
