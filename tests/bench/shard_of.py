"""A shard for benches: opened on a folder of its own, filled, and read from processes beside it."""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from molia.base.ids import ObjectId
from molia.base.limits import GIB
from molia.node.system import SystemClock, SystemEntropy
from molia.store.keys import Kind, block_key
from molia.store.os_disk import OsDisk
from molia.store.shard import Put, Shard, ShardOptions, Transaction
from molia.store.shared import SharedShard
from molia.store.superblock import STORE_NAME, create_store, load_superblock
from tests.bench.report import percentile

ROOT = Path(__file__).parents[2]
OPTIONS = ShardOptions(reserve_bytes=0, ballast_bytes=0, map_bytes=64 * GIB)
CLOCK = SystemClock()
_OBJECT = ObjectId(bytes(16))


def key(number: int) -> bytes:
    """Return the key of a value: in order where the numbers are."""
    return block_key(_OBJECT, 0, number)


def scattered(number: int) -> bytes:
    """Return a key that lies somewhere: neighbouring numbers are far apart in the index."""
    return block_key(ObjectId(_mixed(number).to_bytes(8) + bytes(8)), 0, number % 2**31)


def of_blob(number: int) -> bytes:
    """Return the key of a block as blobs of some 10 MB have them: 14 shares of 4 stripes each."""
    blob, block = divmod(number, 56)
    return block_key(ObjectId(_mixed(blob).to_bytes(8) + bytes(8)), block // 4, block % 4)


def _mixed(number: int) -> int:
    return (number + 1) * 0x9E3779B97F4A7C15 % 2**64


def open_at(folder: Path, options: ShardOptions = OPTIONS, *, rebuild: bool = False) -> Shard:
    """Return the only shard of the store in a folder; made when there is none."""
    folder.mkdir(exist_ok=True)
    disk = OsDisk(str(folder))
    if not disk.exists(STORE_NAME):
        create_store(disk, 1, SystemEntropy(), CLOCK.now())
    uuid = load_superblock(disk).uuid
    shard, _ = Shard.open(
        disk, 0, store_uuid=uuid, options=options, now=CLOCK.now(), rebuild_index=rebuild
    )
    return shard


def puts(keys: list[bytes], value: bytes, expiry: int = 0) -> list[Transaction]:
    """Return a batch that stores a value under each key."""
    return [Transaction((Put(Kind.BLOCK, name, value, expiry),)) for name in keys]


def fill(
    shard: Shard, first: int, stop: int, value: bytes, *, batch: int = 1_000,
    name: Callable[[int], bytes] = scattered, expiry: int = 0,
) -> float:  # fmt: skip
    """Put a value under the keys of [first, stop), with the upkeep due; return the seconds."""
    started_s = time.perf_counter()
    for low in range(first, stop, batch):
        keys = [name(number) for number in range(low, min(stop, low + batch))]
        shard.apply(puts(keys, value, expiry), CLOCK.now())
        work(shard)
    return time.perf_counter() - started_s


def work(shard: Shard) -> None:
    """Do what is due at once."""
    for _ in range(10_000):
        now = CLOCK.now()
        due_s = shard.work(now, idle=False)
        if due_s is None or due_s > now.mono_s:
            return


# ---------------------------------------------------------------------------- other processes


def start(verb: str, folder: Path, *arguments: object) -> "subprocess.Popen[str]":
    """Run one of this module's commands in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.shard_of", verb, str(folder)]
    return subprocess.Popen(
        [*command, *map(str, arguments)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        text=True,
    )  # fmt: skip


def answer(process: "subprocess.Popen[str]", go: str = "") -> dict[str, float]:
    """Return what a command found, once it was told to go."""
    output, _ = process.communicate(go)
    assert process.returncode == 0, "a process beside it failed"
    return dict(json.loads(output.splitlines()[-1]))


def _read(folder: Path, count: int, size: int, rounds: int) -> dict[str, float]:
    """Read values in turn, as a process that does not write them; return the median time in us."""
    disk = OsDisk(str(folder))
    uuid = load_superblock(disk).uuid
    shard = SharedShard(disk, 0, store_uuid=uuid, options=replace(OPTIONS, shared=True))
    shard.open()
    now, times = CLOCK.now(), []
    print("ready", flush=True)
    sys.stdin.readline()
    for number in range(rounds):
        at_s = time.perf_counter()
        value = shard.get(Kind.BLOCK, key(number * 7 % count), now=now)
        times.append(time.perf_counter() - at_s)
        assert value is not None, "it is there"
        assert len(value) == size, "it is whole"
    shard.close()
    return {"p50_us": percentile(times, 0.5) * 1e6}


def _rebuild(folder: Path) -> dict[str, float]:
    """Make the index anew; return the seconds and by how many MB the process grew."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    started_s = time.perf_counter()
    shard = open_at(folder, rebuild=True)
    took_s = time.perf_counter() - started_s
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    keys = shard.stats().keys
    mapped = _mapped_mb()
    shard.close(CLOCK.now())
    return {"s": took_s, "mb": (after - before) / 1024 - mapped, "keys": keys}


def _mapped_mb() -> float:
    """Return the MB of resident pages that are a file's: the index, which is no memory taken."""
    try:
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
    except OSError:
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("RssFile")) / 1024


def main() -> None:
    """Run the command that the arguments name."""
    verb, folder, rest = sys.argv[1], Path(sys.argv[2]), [int(text) for text in sys.argv[3:]]
    found = _rebuild(folder) if verb == "rebuild" else _read(folder, *rest)
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
