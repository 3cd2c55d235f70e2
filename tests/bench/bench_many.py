"""A shard with five million blocks: as fast as a small one, ready as soon, mended in little memory.

And what goes with its size: checkpoints, recovery, and taking out what has expired.
"""

import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from molia.base.limits import GIB, KIB
from molia.node.system import calm_collector, collector_paused
from molia.store.keys import Kind
from molia.store.shard import Shard, ShardOptions
from molia.store.upkeep import KEYS_FACTOR
from tests.bench.report import Figure, against_limit, against_number, percentile
from tests.bench.shard_of import (
    CLOCK,
    OPTIONS,
    answer,
    fill,
    of_blob,
    open_at,
    puts,
    scattered,
    start,
    work,
)

Namer = Callable[[int], bytes]
MANY: Final = 5_000_000
FEW: Final = 100_000
VALUE: Final = b"v" * 200
CHECKPOINT_KEYS: Final = 100_000
GETS: Final = 20_000
TAILS: Final = (
    ("1 GiB in values of 256 KiB", 256 * KIB, GIB),
    ("0.25 GiB in values of 200 B", 200, GIB // 4),
    ("as many values of 200 B as may wait", 200, KEYS_FACTOR * CHECKPOINT_KEYS * 200),
)
"""Of the log behind the last checkpoint: what it is, the size of a value, bytes of all values."""
LAZY: Final = replace(
    OPTIONS, checkpoint_keys=10**9, checkpoint_log_bytes=64 * GIB, punch_bytes=64 * GIB
)
"""Nothing reaches the index before it is asked for."""


def bench_many(folder: Path, scale: float) -> Iterator[Figure]:
    """Puts and gets among 5,000,000 blocks beside those among 100,000; what a restart takes."""
    few, many = max(2_000, int(FEW * scale)), max(10_000, int(MANY * scale))
    yield from _speed(folder / "blobs", "blocks of blobs", of_blob, few, many)
    place = folder / "store"
    yield from _speed(place, "keys anywhere", scattered, few, many)
    yield against_number(
        "5,000,000 blocks: ready after a stop", _open_s(place), "s", None, at_most=3.0
    )
    yield from _checkpoint(place, many, scale)
    found = answer(start("rebuild", place))
    assert found["keys"] >= many, "nothing is lost"
    yield against_number("5,000,000 blocks: index made anew", found["s"], "s", None, at_most=300.0)
    yield against_number(
        "5,000,000 blocks: memory while the index is made anew", max(0.1, found["mb"]), "MB", None,
        at_most=500.0,
    )  # fmt: skip


def _speed(folder: Path, what: str, name: Namer, few: int, many: int) -> Iterator[Figure]:
    """Puts and gets among the first few, and again once there are many."""
    shard = open_at(folder)
    put_few_s = fill(shard, 0, 2 * few, VALUE, name=name) / (2 * few)
    get_few_s = _get_s(shard, few, name)
    fill(shard, 2 * few, many - 2 * few, VALUE, name=name)
    put_many_s = fill(shard, many - 2 * few, many, VALUE, name=name) / (2 * few)
    get_many_s = _get_s(shard, many, name)
    shard.close(CLOCK.now())
    yield against_limit(
        f"put of 200 B among 5,000,000, {what}", put_many_s * 1e6, "us", put_few_s * 1e6,
        at_most=2.0,
    )  # fmt: skip
    yield against_limit(
        f"get among 5,000,000, {what}, p50", get_many_s * 1e6, "us", get_few_s * 1e6, at_most=2.0
    )


def _get_s(shard: Shard, count: int, name_of: Namer) -> float:
    rng, now, times = random.Random(1), CLOCK.now(), []
    for number in (rng.randrange(count) for _ in range(min(count, GETS))):
        name = name_of(number)
        started_s = time.perf_counter()
        found = shard.get(Kind.BLOCK, name, now=now)
        times.append(time.perf_counter() - started_s)
        assert found == VALUE, "what was put is there"
    return percentile(times, 0.5)


def _open_s(place: Path, options: ShardOptions = OPTIONS) -> float:
    started_s = time.perf_counter()
    with collector_paused():  # as a node does
        shard = open_at(place, options)
    took_s = time.perf_counter() - started_s
    shard.close(CLOCK.now())
    return took_s


def _checkpoint(place: Path, many: int, scale: float) -> Iterator[Figure]:
    """100,000 keys into the 5,000,000, at one go, then with puts between the slices."""
    keys = max(1_000, int(CHECKPOINT_KEYS * min(1.0, scale)))
    shard = open_at(place, LAZY)
    try:
        fill(shard, many, many + keys, VALUE)
        started_s = time.perf_counter()
        shard.checkpoint(CLOCK.now())
        took_s = time.perf_counter() - started_s
        fill(shard, many + keys, many + 2 * keys, VALUE)
    finally:
        shard._release()
    yield against_number("checkpoint of 100,000 keys into 5,000,000", took_s, "s", None, at_most=1)
    shard = open_at(place)  # 100,000 keys wait: it begins at once
    times, number = [], many + 2 * keys
    try:
        fill(shard, number, number + keys, VALUE, batch=keys // 4)
        number += keys
        for _ in range(200):
            batch = puts([scattered(number + n) for n in range(16)], VALUE)
            number += 16
            started_s = time.perf_counter()
            shard.work(CLOCK.now(), idle=False)
            shard.apply(batch, CLOCK.now())
            times.append(time.perf_counter() - started_s)
    finally:
        shard.close(CLOCK.now())
    yield against_number(
        "put of 16 x 200 B while a checkpoint runs, p99", percentile(times, 0.99) * 1e3, "ms",
        None, at_most=10.0,
    )  # fmt: skip


# ---------------------------------------------------------------------------- recovery, expiry


def bench_recovery(folder: Path, scale: float) -> Iterator[Figure]:
    """How long a shard that was killed takes until it is ready, for a tail of large and small."""
    calm_collector()  # as `molia run` does
    for number, (name, size, total) in enumerate(TAILS):
        place, count = folder / str(number), max(64, int(total * scale) // size)
        shard = open_at(place, LAZY)
        value = os.urandom(size)
        fill(shard, 0, count, value, batch=max(1, min(1_000, (16 << 20) // size)))
        shard._release()  # as a killed process leaves it
        gib = sum(path.stat().st_size for path in place.glob("shard-00/seg/*")) / GIB
        bound_s, started_s = max(0.05, 2.0 * gib + 4e-6 * count), time.process_time()
        took_s = _open_s(place)
        cpu_s = time.process_time() - started_s
        yield against_number(f"recovery of a tail of {name}", took_s, "s", None, at_most=bound_s)
        yield against_number("the same, the process alone", cpu_s, "s CPU", None, at_most=bound_s)


def bench_expiry(folder: Path, scale: float) -> Iterator[Figure]:
    """Finding what has expired among a million keys, and taking 100,000 out of the index."""
    count = max(10_000, int(1_000_000 * min(1.0, scale)))
    gone, when = count // 10, CLOCK.now()
    shard = open_at(folder / "store", replace(OPTIONS, sweep_s=60.0))
    fill(shard, gone, count, b"x" * 20)
    fill(shard, 0, gone, b"x" * 20, expiry=int(when.unix_s) + 600)
    shard.checkpoint(CLOCK.now())
    work(shard)
    yield against_number(
        "expiry: entries looked at a second", count / _scan_s(shard), "/s", None,
        at_least=1_500_000,
    )  # fmt: skip
    later, spent_s = CLOCK.now().after(700), 0.0
    for _ in range(100_000):
        started_s = time.perf_counter()
        due_s = shard.work(later, idle=True)
        spent_s += time.perf_counter() - started_s
        if shard.stats().counters.expired_keys >= gone:
            break
        later = later.after(max(0.0, (due_s or later.mono_s + 1) - later.mono_s))
    assert shard.stats().counters.expired_keys == gone, "all that expired is out"
    shard.close(CLOCK.now())
    yield against_number("expiry: 100,000 keys taken out", spent_s, "s", None, at_most=2.0)


def _scan_s(shard: Shard) -> float:
    """Return the seconds that one look at every entry takes when nothing has expired yet."""
    now, after, took_s = int(CLOCK.now().unix_s), b"", 0.0
    while True:
        with shard._index.read() as snapshot:
            started_s = time.perf_counter()
            expired, seen, last = snapshot.expired(Kind.BLOCK, after, 5_000, now)
            took_s += time.perf_counter() - started_s
        assert seen or last is None, "it goes on"
        assert not expired, "nothing has expired yet"
        if last is None:
            return took_s
        after = last
