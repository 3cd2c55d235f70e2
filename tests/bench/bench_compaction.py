"""What compaction costs and gives, on one shard of a disk that makes no holes, and what holes give.

How much slower puts are beside it, how soon deleted space is back, and how much more than what is
alive the segments take when values come and go in no order.
"""

import os
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from molia.base.ids import ObjectId
from molia.base.limits import KIB, MIB
from molia.node.copier import Copier
from molia.node.system import SystemClock, SystemEntropy
from molia.store.compactor import REST_AFTER_S
from molia.store.keys import Kind, block_key
from molia.store.os_disk import OsDisk
from molia.store.shard import Delete, Put, Shard, ShardOptions, Transaction
from molia.store.superblock import create_store
from tests.bench.report import Figure, against_limit, against_number, percentile

OPTIONS = ShardOptions(
    segment_bytes=64 * MIB, reserve_bytes=0, ballast_bytes=0, compact=True, checkpoint_keys=5_000
)
VALUE_SIZE = 64 * KIB
BLOCK_SIZE = 256 * KIB
OBJECT = ObjectId(bytes(16))
TICK_S, PUTS, PUT_SIZE = 0.008, 4, 16 * KIB
ROUND_S = 3.0
DELETED = 1_000_000_000
SHARE = 0.95
DELETE_BOUND_S = 600.0 * DELETED / 10e9
PUNCH_BOUND_S = 60.0
SEGMENTS = 100
"""So many segments hold what is stored, at any scale: less than one would never be compacted."""


class Driven:
    """A shard with its copier, driven by this thread."""

    def __init__(
        self, folder: Path, options: ShardOptions = OPTIONS, *, plain: bool = True
    ) -> None:
        folder.mkdir()
        self.clock, disk = SystemClock(), OsDisk(str(folder), plain=plain)
        store = create_store(disk, 1, SystemEntropy(), self.clock.now())
        self.shard, _ = Shard.open(
            disk, 0, store_uuid=store.uuid, options=options, now=self.clock.now()
        )
        self._copier = Copier(self.shard, 0, self.clock)

    def apply(self, ops: list[Put | Delete]) -> None:
        """Make some operations durable, each by itself."""
        self.shard.apply([Transaction((op,)) for op in ops], self.clock.now())

    def work(self) -> float | None:
        """Do a piece of upkeep."""
        due_s = self.shard.work(self.clock.now(), idle=True)
        if self.shard.is_copying:
            self._copier.wake()
        return due_s

    def rest(self, until_s: float = 120.0, wait_s: float = 0.5) -> None:
        """Work until no compaction is under way and none begins within `wait_s`."""
        stop_s = time.monotonic() + until_s
        while time.monotonic() < stop_s:
            due_s = self.work()
            if due_s is None or due_s > self.clock.now().mono_s + wait_s:
                return
            time.sleep(min(0.02, max(0.0, due_s - self.clock.now().mono_s)))

    def close(self) -> None:
        """Stop copying, close the shard."""
        self._copier.stop()
        self.shard.close(self.clock.now())


def key(number: int) -> bytes:
    """Return the key of a value."""
    return block_key(OBJECT, 1, number)


def options_for(size: int, *, segment_bytes: int) -> ShardOptions:
    """Return options whose segments are many, and at most this large."""
    some = max(4 * VALUE_SIZE, min(segment_bytes, size // SEGMENTS))
    return replace(OPTIONS, segment_bytes=some, checkpoint_keys=max(16, some // MIB * 128))


def fill(driven: Driven, size: int, *, batch: int = 32, value_size: int = VALUE_SIZE) -> int:
    """Put values of this size altogether, `batch` at a time; return how many."""
    count = max(32, size // value_size)
    value = os.urandom(value_size)
    for first in range(0, count, batch):
        driven.apply([Put(Kind.BLOCK, key(n), value) for n in range(first, first + batch)])
        driven.work()
    return count


def thin(driven: Driven, numbers: list[int]) -> None:
    """Delete values and let a checkpoint know it."""
    for first in range(0, len(numbers), 256):
        driven.apply([Delete(Kind.BLOCK, key(n)) for n in numbers[first : first + 256]])
    driven.shard.checkpoint(driven.clock.now())


def bench_compaction_puts(folder: Path, scale: float) -> Iterator[Figure]:
    """64 puts of 16 KiB every 128 ms, each 4 durable at once, beside a compaction and without."""
    size = int(1_000_000_000 * min(1.0, scale))
    driven = Driven(folder / "store")
    try:
        count = fill(driven, size)
        driven.rest()
        seconds = ROUND_S * max(0.2, min(1.0, scale))
        alone = _ticks(driven, seconds, compacting=False)
        thin(driven, list(range(0, count, 2)) + list(range(1, count, 8)))
        beside = _ticks(driven, 2 * seconds, compacting=True)
        copied = driven.shard.stats().counters.compacted_bytes
    finally:
        driven.close()
    assert copied or scale < 1, "nothing was compacted"
    yield against_limit(
        "put of 64 KiB beside compaction, p99", percentile(beside, 0.99) * 1e3, "ms",
        percentile(alone, 0.99) * 1e3, at_most=2.0,
    )  # fmt: skip


def _ticks(driven: Driven, seconds: float, *, compacting: bool) -> list[float]:
    value, found, number = os.urandom(PUT_SIZE), [], 0
    stop_s = time.monotonic() + seconds
    while (begun_s := time.monotonic()) < stop_s:
        number += PUTS
        base = 10_000_000 + number + compacting * 5_000_000
        driven.apply([Put(Kind.BLOCK, key(base + n), value) for n in range(PUTS)])
        found.append(time.monotonic() - begun_s)
        if compacting:
            driven.work()
        time.sleep(max(0.0, TICK_S - (time.monotonic() - begun_s)))
    return found


def bench_compaction_delete(folder: Path, scale: float) -> Iterator[Figure]:
    """Delete half of what is stored, in no order; wait until 95% of it is free again."""
    size = int(2 * DELETED * scale)
    bound_s = max(DELETE_BOUND_S, DELETE_BOUND_S * scale)
    driven = Driven(folder / "store", options_for(size, segment_bytes=16 * MIB))
    wait_s = REST_AFTER_S + 1.0 if scale >= 0.1 else 0.5  # the last few percent come after a rest
    try:
        count = fill(driven, size, batch=32 if scale >= 0.1 else 2)
        driven.rest()
        before, started_s = driven.shard.stats().disk_bytes, time.monotonic()
        gone = random.Random(1).sample(range(count), count // 2)
        thin(driven, gone)
        driven.rest(2 * bound_s, wait_s=wait_s)
        took_s = time.monotonic() - started_s
        freed = before - driven.shard.stats().disk_bytes
    finally:
        driven.close()
    share = max(1.0, scale)
    yield against_number(
        f"{share:g} GB of {2 * share:g} GB deleted, no holes: until compaction rests", took_s, "s",
        None, at_most=bound_s,
    )  # fmt: skip
    yield against_number(
        f"{share:g} GB of {2 * share:g} GB deleted, no holes: part that is back",
        freed / (len(gone) * VALUE_SIZE), "x", None, at_least=SHARE,
    )  # fmt: skip


def bench_punched_delete(folder: Path, scale: float) -> Iterator[Figure]:
    """Delete half of the blocks, in no order, where holes can be made; wait for 95% of them."""
    size = int(2 * DELETED * scale)
    driven = Driven(folder / "store", options_for(size, segment_bytes=256 * MIB), plain=False)
    try:
        count = fill(driven, size, batch=32, value_size=BLOCK_SIZE)
        driven.rest()
        before, started_s = driven.shard.stats().disk_bytes, time.monotonic()
        started_cpu_s = time.process_time()
        gone = random.Random(1).sample(range(count), count // 2)
        thin(driven, gone)
        wanted = before - SHARE * (len(gone) * BLOCK_SIZE)
        while driven.shard.stats().disk_bytes > wanted:
            if time.monotonic() > started_s + 10 * PUNCH_BOUND_S:
                break
            due_s = driven.work()
            if due_s is None or due_s > driven.clock.now().mono_s:
                time.sleep(0.01)
        took_s, cpu_s = time.monotonic() - started_s, time.process_time() - started_cpu_s
        freed = before - driven.shard.stats().disk_bytes
    finally:
        driven.close()
    share = max(1.0, scale)
    yield against_number(
        f"{share:g} GB of {2 * share:g} GB deleted, holes: until 95% is back", took_s, "s", None,
        at_most=PUNCH_BOUND_S,
    )  # fmt: skip
    yield against_number("the same, the process alone", cpu_s, "s CPU", None, at_most=PUNCH_BOUND_S)
    yield against_number(
        "the same, part that is back", freed / (len(gone) * BLOCK_SIZE), "x", None,
        at_least=SHARE,
    )  # fmt: skip


def bench_compaction_space(folder: Path, scale: float) -> Iterator[Figure]:
    """Values come and go in no order, three times over: what the segments take at the most."""
    size = int(400_000_000 * min(1.0, scale))
    options = options_for(size, segment_bytes=4 * MIB)
    driven, rng = Driven(folder / "store", options), random.Random(1)
    peak = 0.0
    try:
        count = fill(driven, size)
        alive, number = list(range(count)), count
        value = os.urandom(VALUE_SIZE)
        written = driven.shard.stats().counters.bytes
        for turn in range(3 * count // 32):
            chosen = [rng.randrange(len(alive)) for _ in range(32)]
            gone = {alive[at] for at in chosen}
            driven.apply([Delete(Kind.BLOCK, key(n)) for n in sorted(gone)])
            alive = [n for n in alive if n not in gone]
            fresh = list(range(number, number + len(gone)))
            driven.apply([Put(Kind.BLOCK, key(n), value) for n in fresh])
            alive, number = alive + fresh, number + len(gone)
            driven.rest(10.0)
            if turn > count // 32:
                peak = max(peak, driven.shard.stats().log_bytes / (len(alive) * VALUE_SIZE))
        counters = driven.shard.stats().counters
        amplification = 1 + counters.compacted_bytes / max(1, counters.bytes - written)
    finally:
        driven.close()
    yield against_number(
        "log at steady state, by what is alive, no holes", peak, "x", None, at_most=1.6
    )
    yield against_number(
        "bytes written by bytes put, at that state", amplification, "x", None, at_most=3.0
    )
