"""Figures of one shard without HTTP: many small values from many writers, and block reads."""

import asyncio
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

from molia.api.server import new_event_loop
from molia.base.ids import ObjectId
from molia.base.limits import BLOCK_SIZE_MAX
from molia.node.shards import ShardWriter
from molia.node.system import SystemClock, SystemEntropy, calm_collector
from molia.store.keys import WHOLE_SHARE, Kind, block_key
from molia.store.os_disk import OsDisk
from molia.store.shard import Put, Shard, ShardOptions, Transaction
from molia.store.superblock import create_store
from tests.bench import limits
from tests.bench.report import Figure, against_limit, against_number, alternate, percentile

WRITERS = 256
VALUE_SIZE = 1000


def open_shard(folder: Path) -> Shard:
    """Return the only shard of a new store."""
    folder.mkdir()
    clock, disk = SystemClock(), OsDisk(str(folder))
    store = create_store(disk, 1, SystemEntropy(), clock.now())
    shard, _ = Shard.open(disk, 0, store_uuid=store.uuid, options=ShardOptions(), now=clock.now())
    return shard


def bench_small_values(folder: Path, scale: float) -> Iterator[Figure]:
    """100,000 values of 1 kB by 256 writers; CPU of the whole process, the front end included."""
    count = max(WRITERS, int(100_000 * scale))
    values = [os.urandom(VALUE_SIZE) for _ in range(count)]
    rounds = iter(range(100))
    calm_collector()  # as `molia run` does

    def store() -> float:
        shard = open_shard(folder / f"store-{next(rounds)}")
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            return runner.run(_write_all(shard, values))

    own_s, raw_s = alternate(
        3, store, lambda: limits.raw_appends(folder / "raw.log", values, WRITERS)
    )
    value, limit = own_s / count * 1e6, raw_s / count * 1e6
    yield against_number(
        "value of 1 kB through a shard, 256 writers", value, "us CPU", limit, at_most=9.0
    )


async def _write_all(shard: Shard, values: list[bytes]) -> float:
    """Return the CPU seconds until all values are durable."""
    writer = ShardWriter(shard, 0, SystemClock())
    left = iter(values)

    async def write_some() -> None:
        for value in left:
            key = block_key(ObjectId(value[:16]), WHOLE_SHARE, 0)
            await writer.write(Transaction((Put(Kind.BLOCK, key, value),)))

    started_s = time.process_time()
    await asyncio.gather(*(write_some() for _ in range(WRITERS)))
    took_s = time.process_time() - started_s
    await writer.stop()
    return took_s


def bench_block_get(folder: Path, scale: float) -> Iterator[Figure]:
    """A block of 256 KiB through the store, CRC checked, warm; the limit is a bare pread of it."""
    count = max(16, int(400 * min(1.0, scale)))
    clock, shard = SystemClock(), open_shard(folder / "store")
    object_id = ObjectId(os.urandom(16))
    raw = folder / "raw.bin"
    with raw.open("wb") as file:
        for stripe in range(count):
            block = os.urandom(BLOCK_SIZE_MAX)
            file.write(block)
            put = Put(Kind.BLOCK, block_key(object_id, 0, stripe), block)
            shard.apply([Transaction((put,))], clock.now())
    shard.checkpoint(clock.now())
    handle = os.open(raw, os.O_RDONLY)
    order = list(range(count))
    random.Random(1).shuffle(order)
    now = clock.now()
    ours: list[float] = []
    bare: list[float] = []
    for stripe in order * max(2, int(5 * min(1.0, scale))):
        key = block_key(object_id, 0, stripe)
        ours.append(limits.seconds(lambda key=key: shard.get(Kind.BLOCK, key, now=now)))  # type: ignore[misc]
        at = stripe * BLOCK_SIZE_MAX
        bare.append(limits.seconds(lambda at=at: os.pread(handle, BLOCK_SIZE_MAX, at)))  # type: ignore[misc]
    os.close(handle)
    shard.close(clock.now())
    yield against_limit(
        "block get through the store, warm, p50", percentile(ours, 0.5) * 1e6, "us",
        percentile(bare, 0.5) * 1e6, at_most=2.2,
    )  # fmt: skip
