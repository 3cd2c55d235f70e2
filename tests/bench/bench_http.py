"""Figures of one large blob over HTTP: put, bytes written, get, ranges; and of many small puts."""

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench import limits, load
from tests.bench.nodes import memory_server, running_node
from tests.bench.report import (
    Figure,
    against_limit,
    against_number,
    alternate,
    percentile,
)

GIB = 1 << 30
RANGE_SIZE = 64 * 1024
STORED_SHARE = 1.4


def bench_put(folder: Path, scale: float) -> Iterator[Figure]:
    """A durable put of 1 GiB over HTTP, and the bytes that the node wrote to the disk for it."""
    size = max(2_000_000, int(GIB * scale))
    written: list[float] = []
    with running_node(folder) as node:
        load.delete(node.port, load.put(node.port, 2_000_000, 0)[0])  # imports and caches are warm

        def put() -> float:
            before = node.written_bytes()
            cid, took_s = load.put(node.port, size, time.monotonic_ns())
            written.append(node.written_bytes() - before)
            load.delete(node.port, cid)
            settle(folder)
            return took_s

        put_s, disk_s, code_s = alternate(
            3,
            put,
            lambda: limits.write_and_sync(folder / "raw.bin", int(size * STORED_SHARE)),
            lambda: limits.encode_and_hash(size),
        )
    rate, limit = size / put_s / 1e6, size / max(disk_s, code_s) / 1e6
    yield against_limit("durable put of 1 GiB over HTTP", rate, "MB/s", limit, at_least=0.5)
    least = size * STORED_SHARE / 1e6
    yield against_limit(
        "disk bytes written during it", max(written) / 1e6, "MB", least, at_most=1.05
    )


def settle(folder: Path) -> None:
    """Return when the space of a deleted blob is free again, or after a while: disk is scarce."""
    deadline_s = time.monotonic() + 30
    last = -1
    while time.monotonic() < deadline_s:
        used = sum(p.stat().st_blocks for p in (folder / "home").rglob("*.log"))
        if used == last and used < 2 * 1024 * 40:
            return
        last = used
        time.sleep(0.5)


def bench_get(folder: Path, scale: float) -> Iterator[Figure]:
    """A get of 1 GiB with the page cache warm, and random ranges of the same blob."""
    size = max(2_000_000, int(GIB * scale))
    with running_node(folder) as node, memory_server(folder) as bare:
        cid, _ = load.put(node.port, size, 1)
        ours, theirs = load.Reader(node.port), load.Reader(bare.port)
        ours.get(f"/blob/{cid}")  # the page cache is warm from here on
        get_s, bare_s = alternate(
            5, lambda: ours.get(f"/blob/{cid}"), lambda: theirs.get(f"/stream/{size}")
        )
        rate, limit = size / get_s / 1e6, size / bare_s / 1e6
        yield against_limit("get of 1 GiB over HTTP, warm", rate, "MB/s", limit, at_least=0.25)
        yield from ranges(ours, theirs, cid, size, max(50, int(2000 * min(1.0, scale))))
        ours.close()
        theirs.close()


def ranges(
    ours: load.Reader, theirs: load.Reader, cid: str, size: int, count: int
) -> Iterator[Figure]:
    """Random 64 KiB ranges; the limit is a whole answer of that size from memory."""
    rng = random.Random(1)
    took_ms: list[float] = []
    bare_ms: list[float] = []
    for _ in range(count):
        start = rng.randrange(size - RANGE_SIZE)
        took_ms.append(1e3 * ours.get(f"/blob/{cid}", start=start, stop=start + RANGE_SIZE))
        bare_ms.append(1e3 * theirs.get(f"/stream/{RANGE_SIZE}"))
    for share, name, bound in ((0.5, "p50", 3.0), (0.99, "p99", 15.0)):
        value, limit = percentile(took_ms, share), percentile(bare_ms, share)
        yield against_number(f"random 64 KiB range, {name}", value, "ms", limit, at_most=bound)


def bench_small_puts(folder: Path, scale: float) -> Iterator[Figure]:
    """Distinct values of 1 kB, durable, over 64 connections; the limit stores nothing."""
    count = max(200, int(20_000 * min(1.0, scale)))
    with running_node(folder) as node, memory_server(folder) as bare:
        load.small_puts(node.port, [os.urandom(1000) for _ in range(200)], 64)

        def bodies() -> list[bytes]:
            return [os.urandom(1000) for _ in range(count)]

        rate, limit = alternate(
            3,
            lambda: load.small_puts(node.port, bodies(), 64),
            lambda: load.small_puts(bare.port, bodies(), 64),
        )
    yield against_number("puts of 1 kB, 64 connections", rate, "puts/s", limit, at_least=1500)
