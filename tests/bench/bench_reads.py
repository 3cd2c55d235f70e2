"""Reads of a shard that is in memory, beside a bare pread, and what another reader costs."""

import os
import random
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Final

from molia.base.limits import KIB, MIB
from molia.store.keys import Kind
from molia.store.shard import Shard
from tests.bench.report import Figure, against_limit, against_number, alternate_many, percentile
from tests.bench.shard_of import CLOCK, OPTIONS, answer, fill, key, open_at, scattered, start

VALUES: Final = 64
PIECE: Final = 64 * KIB
READS: Final = 2_000
KEYS: Final = 1_000_000
READER_ROUNDS: Final = 5


def bench_reads(folder: Path, scale: float) -> Iterator[Figure]:
    """Medians of reads from values of 1 MiB; the limit is a pread of as many bytes."""
    shard, raw = open_at(folder / "store"), folder / "raw.bin"
    value = os.urandom(MIB)
    raw.write_bytes(value * VALUES)
    fill(shard, 0, VALUES, value, batch=8, name=key)
    shard.checkpoint(CLOCK.now())
    handle, now, count = os.open(raw, os.O_RDONLY), CLOCK.now(), max(100, int(READS * scale))
    rng = random.Random(1)
    places = [(rng.randrange(VALUES), rng.randrange(MIB // PIECE) * PIECE) for _ in range(count)]

    def piece(check: bool) -> Callable[[int, int], object]:
        return lambda number, at: shard.get(
            Kind.BLOCK, key(number), now=now, start=at, stop=at + PIECE, check=check
        )

    try:
        for name, size, most, read in (
            ("64 KiB of 1 MiB", PIECE, 1.4, piece(check=False)),
            ("64 KiB of 1 MiB, CRC checked", PIECE, 2.2, piece(check=True)),
            ("1 MiB, CRC checked", MIB, 2.2, lambda n, _: shard.get(Kind.BLOCK, key(n), now=now)),
        ):
            bare = _bare(handle, size)
            ours, limit = alternate_many(
                3, lambda read=read: [_median(read, places)],  # type: ignore[misc]
                lambda bare=bare: [_median(bare, places)],  # type: ignore[misc]
            )  # fmt: skip
            yield against_limit(f"get of {name}, warm, p50", ours[0], "us", limit[0], at_most=most)
    finally:
        os.close(handle)
        shard.close(now)
    yield _missing(folder / "many", scale)
    yield from _readers(folder / "shared", scale)


def _bare(handle: int, size: int) -> Callable[[int, int], object]:
    return lambda number, at: os.pread(handle, size, number * MIB + (at if size < MIB else 0))


def _median(read: Callable[[int, int], object], places: list[tuple[int, int]]) -> float:
    """Return the median time of a read in us."""
    times = []
    for number, at in places:
        started_s = time.perf_counter()
        read(number, at)
        times.append(time.perf_counter() - started_s)
    return percentile(times, 0.5) * 1e6


def _missing(folder: Path, scale: float) -> Figure:
    shard, count = open_at(folder), max(1_000, int(KEYS * min(1.0, scale)))
    try:
        fill(shard, 0, count, b"x" * 20)
        shard.checkpoint(CLOCK.now())
        times = _misses(shard, count)
    finally:
        shard.close(CLOCK.now())
    return against_number(
        "get of a key that is not there, among 1,000,000, p50",
        percentile(times, 0.5) * 1e6, "us", None, at_most=3.0,
    )  # fmt: skip


def _misses(shard: Shard, count: int) -> list[float]:
    now, times = CLOCK.now(), []
    for number in range(count, count + 20_000):
        name = scattered(number)
        started_s = time.perf_counter()
        found = shard.get(Kind.BLOCK, name, now=now)
        times.append(time.perf_counter() - started_s)
        assert found is None, "it was never put"
    return times


def _readers(folder: Path, scale: float) -> Iterator[Figure]:
    """One other process that reads, and two at once."""
    shard = open_at(folder, replace(OPTIONS, shared=True))
    fill(shard, 0, VALUES, os.urandom(256 * KIB), batch=8, name=key)
    shard.checkpoint(CLOCK.now())
    rounds = max(200, int(20_000 * min(1.0, scale)))

    def together(count: int) -> list[float]:
        readers = [start("read", folder, VALUES, 256 * KIB, rounds) for _ in range(count)]
        for reader in readers:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "ready\n"
        for reader in readers:
            assert reader.stdin is not None
            reader.stdin.write("go\n")
            reader.stdin.flush()
        return [max(answer(reader)["p50_us"] for reader in readers)]

    turns = READER_ROUNDS if scale >= 0.1 else 1
    try:
        alone, both = alternate_many(turns, lambda: together(1), lambda: together(2))
    finally:
        shard.close(CLOCK.now())
    yield against_limit(
        "get of 256 KiB in another process, two of them, p50", both[0], "us", alone[0],
        at_most=1.15,
    )  # fmt: skip
