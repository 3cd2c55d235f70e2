"""Writing to a shard beside a bare log: the same bytes, as many in each sync, in the same minute.

And how many bytes reach the disk for each that is stored, by what the kernel counts.
"""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from molia.base.limits import KIB, MIB
from molia.store.shard import Shard
from tests.bench.report import Figure, against_limit, against_number, alternate
from tests.bench.shard_of import CLOCK, fill, key, open_at, puts, work

ROUNDS: Final = 7
DEMANDS: Final = {
    (1 * MIB, 1): 0.85, (1 * MIB, 16): 0.6, (256 * KIB, 1): 0.7, (256 * KIB, 120): 0.7,
    (4 * KIB, 1): 0.7, (4 * KIB, 16): 0.5, (4 * KIB, 256): 0.4, (200, 1): 0.7, (200, 16): 0.55,
}  # fmt: skip
"""Of a value's size and how many are durable at once: the part of the bare log's speed."""
ROUND_BYTES: Final = 64 * MIB
ROUND_BATCHES: Final = 200
SPACE: Final = {(256 * KIB, 1): 1.05, (4 * KIB, 16): 1.25, (200, 256): 2.6}
"""Of the same: bytes written to the disk by bytes stored."""
SPACE_BYTES: Final = 64 * MIB
SECTOR: Final = 512


def bench_log(folder: Path, scale: float) -> Iterator[Figure]:
    """Puts a second through a shard's writer, its upkeep included; the limit is a bare log."""
    for (size, batch), share in DEMANDS.items():
        place = folder / f"{size}-{batch}"
        shard, ours = open_at(place), _Ours(size, batch)
        batches = max(2, int(min(ROUND_BATCHES, ROUND_BYTES // (size * batch)) * min(1.0, scale)))
        try:
            own_s, raw_s = alternate(
                ROUNDS if scale >= 0.1 else 1,
                lambda: ours.seconds(shard, batches),  # noqa: B023 - called in this turn
                lambda: _raw(place / "raw", [ours.value] * batch, batches),  # noqa: B023
            )
        finally:
            shard.close(CLOCK.now())
        amount = size * batch * batches / 1e6
        yield against_limit(
            f"put of {_name(size)}, {batch} a sync", amount / own_s, "MB/s", amount / raw_s,
            at_least=share,
        )  # fmt: skip
    yield _cpu(folder / "cpu", scale)


class _Ours:
    """Batches of new keys, one after the other."""

    def __init__(self, size: int, batch: int) -> None:
        self.value, self._batch, self._next = os.urandom(size), batch, 0

    def seconds(self, shard: Shard, batches: int) -> float:
        ready = []
        for _ in range(batches):
            first, self._next = self._next, self._next + self._batch
            ready.append(puts([key(number) for number in range(first, self._next)], self.value))
        started_s = time.perf_counter()
        for batch in ready:
            shard.apply(batch, CLOCK.now())
            work(shard)
        return time.perf_counter() - started_s


def _raw(path: Path, values: list[bytes], batches: int) -> float:
    """Return the seconds of as many bare writes and syncs of the same bytes."""
    handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        started_s = time.perf_counter()
        for _ in range(batches):
            os.writev(handle, values)
            os.fdatasync(handle)
        return time.perf_counter() - started_s
    finally:
        os.close(handle)
        path.unlink()


def _cpu(folder: Path, scale: float) -> Figure:
    count, batch, value = max(1_024, int(100_000 * scale)), 256, os.urandom(200)
    shard = open_at(folder)
    batches = [puts([key(n) for n in range(low, low + batch)], value)
               for low in range(0, count, batch)]  # fmt: skip
    started_s = time.process_time()
    for one in batches:
        shard.apply(one, CLOCK.now())
    took_s = time.process_time() - started_s
    shard.close(CLOCK.now())
    return against_number(
        "put of 200 B, 256 a sync, the store alone", took_s / (len(batches) * batch) * 1e6,
        "us CPU", None, at_most=4.0,
    )  # fmt: skip


def bench_amplification(folder: Path, scale: float) -> Iterator[Figure]:
    """Bytes written to the disk by bytes stored, index and file system included."""
    for (size, batch), bound in SPACE.items():
        count = max(2 * batch, int(SPACE_BYTES * scale) // size)
        shard, value = open_at(folder / f"{size}-{batch}"), os.urandom(size)
        os.sync()  # what others wrote before must not be counted
        own, device = _own_bytes(), _device_bytes(folder)
        fill(shard, 0, count, value, batch=batch, name=key)
        shard.checkpoint(CLOCK.now())
        work(shard)
        os.sync()
        stored = count * size
        own, device = _own_bytes() - own, _device_bytes(folder) - device
        shard.close(CLOCK.now())
        for teller, written in (("process", own), ("device", device)):
            if written > 0:
                yield against_number(
                    f"bytes written by bytes put, {_name(size)}, {batch} a sync, by the {teller}",
                    written / stored, "x", None, at_most=bound,
                )  # fmt: skip


def _own_bytes() -> int:
    """Return the bytes that this process has caused to be written; 0 where nobody counts."""
    try:
        lines = Path("/proc/self/io").read_text("utf-8").splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def _device_bytes(folder: Path) -> int:
    """Return the bytes that the device has written, for whomever; 0 where nobody counts."""
    number = os.stat(folder).st_dev
    stat = Path(f"/sys/dev/block/{os.major(number)}:{os.minor(number)}/stat")
    try:
        return int(stat.read_text("utf-8").split()[6]) * SECTOR
    except (OSError, IndexError, ValueError):
        return 0


def _name(size: int) -> str:
    if size >= MIB:
        return f"{size // MIB} MiB"
    return f"{size // KIB} KiB" if size >= KIB else f"{size} B"
