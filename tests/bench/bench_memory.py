"""Memory of the node under load, over what it takes idle."""

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.bench import load
from tests.bench.nodes import MIB, Server, running_node
from tests.bench.report import Figure, against_number

BOUND_MB = 300.0
BIG = 4 << 30
UPLOADS = 64
UPLOAD_SIZE = 64 * MIB


def peak_over_idle(node: Server, work: Callable[[], object]) -> float:
    """Return by how many MB the resident memory rose above its idle size during `work`."""
    time.sleep(1.0)
    idle = node.memory_bytes()
    node.reset_peak()
    work()
    return (node.peak_memory_bytes() - idle) / 1e6


def bench_memory(folder: Path, scale: float) -> Iterator[Figure]:
    """A put and a get of 4 GiB, and 64 uploads at once."""
    size = max(4_000_000, int(BIG * scale))
    each = max(1_200_000, int(UPLOAD_SIZE * scale))
    with running_node(folder) as node:
        load.delete(node.port, load.put(node.port, 2_000_000, 0)[0])
        cids: list[str] = []
        rise = peak_over_idle(node, lambda: cids.append(load.put(node.port, size, 1)[0]))
        yield _figure("peak memory, put of 4 GiB", rise)
        reader = load.Reader(node.port)
        rise = peak_over_idle(node, lambda: reader.get(f"/blob/{cids[0]}"))
        yield _figure("peak memory, get of 4 GiB", rise)
        reader.close()
        load.delete(node.port, cids[0])
    with running_node(folder) as node:
        load.delete(node.port, load.put(node.port, 2_000_000, 0)[0])
        rise = peak_over_idle(node, lambda: many_puts(node.port, each))
        yield _figure("peak memory, 64 uploads at once", rise)


def many_puts(port: int, size: int) -> None:
    """Store 64 different bodies at once. Raises when one of them was refused."""
    failures: list[Exception] = []

    def one(seed: int) -> None:
        try:
            load.put(port, size, seed)
        except Exception as error:  # noqa: BLE001 - reported by the caller's thread
            failures.append(error)

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(UPLOADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise failures[0]


def _figure(name: str, rise_mb: float) -> Figure:
    return against_number(name, rise_mb, "MB over idle", None, at_most=BOUND_MB)
