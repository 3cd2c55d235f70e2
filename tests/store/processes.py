"""Shard 0 kept by a process of its own, for tests of readers in another one.

`python -m tests.store.processes keep|begin|hold|scan|torture|read PATH …`. What the torture's
writer has begun and what it has acknowledged stands in a mapped file, so that readers can tell a
right answer at any moment: of each key two versions; an odd one is a value, an even one is that it
is deleted.
"""

import contextlib
import json
import mmap
import random
import struct
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from molia.base.now import Now
from molia.node.copier import Copier
from molia.node.system import SystemClock
from molia.store import opening
from molia.store.index import Index
from molia.store.keys import Kind
from molia.store.os_disk import OsDisk
from molia.store.shard import Delete, Put, Shard, Transaction
from molia.store.shared import SharedShard
from tests.store.shards import TINY, UUID, disk_at, open_shard

ROOT: Final = Path(__file__).parents[2]
SHARED: Final = replace(TINY, shared=True, checkpoint_keys=40, punch_bytes=8192)
KEYS: Final = 60
_VERSIONS: Final = struct.Struct("<QQ")
BOARD: Final = "board"


def now() -> Now:
    """This instant: the processes share the machine's clock."""
    return Now(time.monotonic(), time.time())


def reader_of(path: Path) -> SharedShard:
    """Return the shard as a process that does not write it sees it. Raises ShardUnavailable."""
    shard = SharedShard(disk_at(path), 0, store_uuid=UUID, options=SHARED)
    shard.open()
    return shard


class Keeper:
    """A process that holds the shard and does what it is told."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, *, rebuild: bool = False) -> None:
        """Open the shard."""
        self._process = spawn("keep", str(self._path), str(int(rebuild)), stdin=subprocess.PIPE)
        assert self._answer() == "open"

    def put(self, key: bytes, value: bytes) -> None:
        """Store a row."""
        self._ask(["put", key.hex(), value.hex()])

    def delete(self, key: bytes) -> None:
        """Delete a row."""
        self._ask(["delete", key.hex()])

    def work(self) -> None:
        """Let the shard checkpoint and punch."""
        self._ask(["work"])

    def kill(self) -> None:
        """End the process as kill -9 does."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def _ask(self, command: list[str]) -> None:
        assert self._process is not None
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(command).encode() + b"\n")
        self._process.stdin.flush()
        assert self._answer() == "done"

    def _answer(self) -> str:
        assert self._process is not None
        assert self._process.stdout is not None
        return self._process.stdout.readline().decode().strip()


def spawn(*arguments: str, **options: Any) -> "subprocess.Popen[bytes]":
    """Start this module's command in a process of its own."""
    command = [sys.executable, "-m", "tests.store.processes", *arguments]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, **options)


def keep(path: Path, *, rebuild: bool) -> None:
    """Do what stdin says."""
    shard, _ = open_shard(disk_at(path), SHARED, now=now(), rebuild=rebuild)
    print("open", flush=True)
    for line in sys.stdin:
        match json.loads(line):
            case ["put", key, value]:
                put = Put(Kind.META, bytes.fromhex(key), bytes.fromhex(value))
                shard.apply([Transaction((put,))], now())
            case ["delete", key]:
                shard.apply([Transaction((Delete(Kind.META, bytes.fromhex(key)),))], now())
            case ["work"]:
                when = now().after(60.0)
                while (due_s := shard.work(when, idle=True)) is not None:
                    when = when.after(max(0.0, due_s - when.mono_s))
        print("done", flush=True)
    shard._release()


def begin(path: Path) -> None:
    """Open the shard, and stay where its index is up to date and the old delta still there."""

    def wait(*_: object, **__: object) -> None:
        print("recovered", flush=True)
        sys.stdin.read()

    opening.forget_deltas = wait  # type: ignore[attr-defined]
    open_shard(disk_at(path), SHARED, now=now())


def hold(path: Path) -> None:
    """Hold one snapshot of the index until killed, as a reader that hangs would."""
    (directory,) = path.glob("shard-00/index-*")
    index = Index(str(directory), map_bytes=SHARED.map_bytes, writable=False)
    with index.read() as snapshot:
        snapshot.page(Kind.META, b"", b"", 1)
        print("holding", flush=True)
        sys.stdin.read()


def scan(path: Path) -> None:
    """Scan everything, over and over, until killed."""
    shard = reader_of(path)
    while True:
        after = b""
        while page := shard.scan(Kind.META, b"", now=now(), after=after, limit=10_000):
            after = page[-1].key
        print("scanned", flush=True)


# ---------------------------------------------------------------------------- torture


class Board:
    """Of each key, the version that was begun last and the one acknowledged last."""

    def __init__(self, path: Path) -> None:
        with (path / BOARD).open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), 0)

    @staticmethod
    def make(path: Path) -> None:
        """Make the file: nothing was ever written."""
        (path / BOARD).write_bytes(bytes(_VERSIONS.size * KEYS))

    def begun(self, number: int) -> int:
        """Return the version that may be seen at the latest."""
        return int.from_bytes(self._map[number * 16 : number * 16 + 8], "little")

    def acked(self, number: int) -> int:
        """Return the version that must be seen at the earliest."""
        return int.from_bytes(self._map[number * 16 + 8 : number * 16 + 16], "little")

    def begin(self, number: int, version: int) -> None:
        """Note a version that is about to be written."""
        self._map[number * 16 : number * 16 + 8] = version.to_bytes(8, "little")

    def ack(self, number: int, version: int) -> None:
        """Note a version that was written."""
        self._map[number * 16 + 8 : number * 16 + 16] = version.to_bytes(8, "little")


def key_of(number: int) -> bytes:
    """Return a key."""
    return b"%08d" % number * 3


def value_of(number: int, version: int) -> bytes:
    """Return the value of a version: some are worth punching, some are not."""
    rng = random.Random(number * 1_000_003 + version)
    size = rng.choice((0, 40, 3_000, 20_000, 100_000))
    return version.to_bytes(8, "little") + rng.randbytes(size)


def torture(path: Path, seed: int) -> None:
    """Write, delete, checkpoint, punch and compact until killed."""
    rng, board = random.Random(seed), Board(path)
    disk = OsDisk(str(path), plain=seed % 2 == 1)
    shard, report = open_shard(disk, replace(SHARED, compact=True), now=now())
    copier = Copier(shard, 0, SystemClock())
    assert not report.damage_count, report
    for number in range(KEYS):
        value = shard.get(Kind.BLOCK, key_of(number), now=now())
        wrong = judge(number, value, board.acked(number), board.begun(number))
        assert not wrong, f"after recovery: {wrong}"
        version = int.from_bytes(value[:8], "little") if value is not None else 0
        if value is None:
            version = (board.begun(number) + 1) // 2 * 2
        board.begin(number, max(version, board.begun(number)))
        board.ack(number, version)
        if version < board.begun(number):  # decide what was left open
            _write(shard, board, [(number, board.begun(number) + 1)])
    print("open", flush=True)
    while True:
        numbers = rng.sample(range(KEYS), rng.randint(1, 6))
        _write(shard, board, [(n, board.begun(n) + rng.choice((1, 1, 2))) for n in numbers])
        for _ in range(rng.randint(0, 4)):
            shard.work(now().after(rng.choice((0.0, 60.0))), idle=rng.random() < 0.5)
            if shard.is_copying:
                copier.wake()
        if rng.random() < 0.02:
            print(f"retired {shard.stats().counters.retired_segments}", flush=True)


def _write(shard: Shard, board: Board, versions: list[tuple[int, int]]) -> None:
    ops: list[Put | Delete] = []
    for number, version in versions:
        board.begin(number, version)
        key = key_of(number)
        if version % 2:
            ops.append(Put(Kind.BLOCK, key, value_of(number, version), overwrite=True))
        else:
            ops.append(Delete(Kind.BLOCK, key))
    shard.apply([Transaction((op,)) for op in ops], now())
    for number, version in versions:
        board.ack(number, version)


def judge(number: int, value: bytes | None, earliest: int, latest: int) -> str:
    """Say what is wrong with an answer, given the versions that it may be."""
    if value is None:
        may_be_gone = any(version % 2 == 0 for version in range(earliest, latest + 1))
        return "" if may_be_gone else f"key {number} is gone, of {earliest} to {latest}"
    version = int.from_bytes(value[:8], "little")
    if not earliest <= version <= latest:
        return f"key {number} has version {version}, not {earliest} to {latest}"
    return "" if value == value_of(number, version) else f"key {number}: wrong bytes"


def read(path: Path, seed: int) -> None:
    """Compare what is read with what was acknowledged, until killed; print how much was."""
    rng, board = random.Random(seed), Board(path)
    shard = reader_of(path)
    count = 0
    while True:
        number = rng.randrange(KEYS)
        earliest = board.acked(number)
        check = rng.random() < 0.5
        value = shard.get(Kind.BLOCK, key_of(number), now=now(), check=check)
        wrong = judge(number, value, earliest, board.begun(number))
        if not wrong and rng.random() < 0.02:
            wrong = _scan(shard, board)
        count += 1
        if wrong or count % 200 == 0:
            print(wrong or f"read {count}", flush=True)


def _scan(shard: SharedShard, board: Board) -> str:
    earliest = [board.acked(number) for number in range(KEYS)]
    rows = {row.key: row.size for row in shard.scan(Kind.BLOCK, b"", now=now(), limit=1_000)}
    for number, first in enumerate(earliest):
        versions = range(first, board.begun(number) + 1)
        sizes = {len(value_of(number, v)) if v % 2 else None for v in versions}
        if rows.get(key_of(number)) not in sizes:
            return f"a scan shows key {number} with {rows.get(key_of(number))}, not {sizes}"
    return ""


def main() -> None:
    """Run the command that the arguments name."""
    verb, path = sys.argv[1], Path(sys.argv[2])
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        match verb:
            case "keep":
                keep(path, rebuild=sys.argv[3] == "1")
            case "torture":
                torture(path, int(sys.argv[3]))
            case "begin":
                begin(path)
            case "hold":
                hold(path)
            case "scan":
                scan(path)
            case "read":
                read(path, int(sys.argv[3]))


if __name__ == "__main__":
    main()
