"""How soon a deleted blob's space is back while the rest is being read."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench import load
from tests.bench.nodes import running_node
from tests.bench.report import Figure, against_number

DELETED = 1_000_000_000
BLOBS = 4
STORED_PER_BYTE = 1.4
SHARE = 0.95
BOUND_S = 60.0
GIVE_UP_S = 120.0


def bench_space(folder: Path, scale: float) -> Iterator[Figure]:
    """Delete half of what is stored; wait until 95% of its disk bytes are free again."""
    size = max(1_200_000, int(DELETED * scale) // BLOBS)
    with running_node(folder) as node:
        cids = [load.put(node.port, size, seed)[0] for seed in range(2 * BLOBS)]
        stop = threading.Event()
        reader = threading.Thread(target=_read, args=(node.port, cids[BLOBS:], stop))
        reader.start()
        try:
            before, started_s = _disk_bytes(folder), time.perf_counter()
            for cid in cids[:BLOBS]:
                load.delete(node.port, cid)
            wanted = before - SHARE * STORED_PER_BYTE * size * BLOBS
            while _disk_bytes(folder) > wanted and time.perf_counter() - started_s < GIVE_UP_S:
                time.sleep(0.1)
            took_s = time.perf_counter() - started_s
        finally:
            stop.set()
            reader.join()
    yield against_number(
        "95% of 1 GB back after a delete, under reads", took_s, "s", None, at_most=BOUND_S
    )


def _read(port: int, cids: list[str], stop: threading.Event) -> None:
    reader = load.Reader(port)
    try:
        while not stop.is_set():
            for cid in cids:
                reader.get(f"/blob/{cid}")
    finally:
        reader.close()


def _disk_bytes(folder: Path) -> int:
    """Return the blocks that the logs take on the disk."""
    return sum(path.stat().st_blocks * 512 for path in folder.glob("home/data/shard-*/seg/*"))
