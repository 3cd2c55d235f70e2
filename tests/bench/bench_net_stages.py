"""Which stage of a put and a get takes the CPU time, over all nodes of a network.

The nodes run with the clocks of `tests/bench/stages.py`, which make them some percent slower: what
a MiB costs is `bench_net`'s to say. A stage above 40% of the whole is explained below the table.
"""

import json
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from tests.bench import load
from tests.bench.net_nodes import OFFER, Net, NetNode, network, wait_until
from tests.bench.nodes import MIB
from tests.bench.report import Figure, against_number, seen
from tests.bench.stages import NAMES

SIZE: Final = 256 * MIB
SIZE_MIN: Final = 3 * MIB
COMMAND: Final = ("-m", "tests.bench.stages", "run")
PART_MAX: Final = 40
EXPLAINED: Final = {
    "other": "the event loop, tasks and threads changing places, the interpreter between stages",
    "wire": "packets: heads, numbers, acknowledgements, windows; each byte passes it twice",
    "UDP calls": "the kernel moves each byte twice, and on loopback delivery is the sender's time",
}


def bench_net_stages(folder: Path, scale: float) -> Iterator[Figure]:
    """The parts of a put of 256 MiB and of a get."""
    size = max(SIZE_MIN, int(SIZE * scale))
    holders = 14 if scale >= 0.05 else 4
    with network(folder / "net", COMMAND) as net:
        (publisher,) = net.add(1, {})
        net.add(holders, OFFER)
        (reader,) = net.add(1, {})
        net.wait_joined()
        load.put(publisher.port, SIZE_MIN, 1_000)
        before = _sums(net)
        cid, _ = load.put(publisher.port, size, 1)
        yield from _parts("put", before, _sums(net), size)
        client = load.Reader(reader.port)
        client.get(f"/blob/{cid}", start=0, stop=1)
        before = _sums(net)
        client.get(f"/blob/{cid}")
        client.close()
        yield from _parts("get", before, _sums(net), size)


def _sums(net: Net) -> dict[str, float]:
    """Return the CPU seconds of each stage so far, over all nodes."""
    total: dict[str, float] = {}
    for node in net.alive:
        for name, spent_s in _of_node(node).items():
            total[name] = total.get(name, 0.0) + spent_s
    return total


def _of_node(node: NetNode) -> dict[str, float]:
    told = node.home / "stages.json"
    told.unlink(missing_ok=True)
    node.process.send_signal(signal.SIGUSR1)
    wait_until(told.exists, "a node does not tell its stages")
    return dict(json.loads(told.read_text("ascii")))


def _parts(
    what: str, before: dict[str, float], after: dict[str, float], size: int
) -> Iterator[Figure]:
    spent_s = {name: after[name] - before[name] for name in after}
    all_s = spent_s.pop("all")
    spent_s["other"] = max(0.0, all_s - sum(spent_s.values()))
    yield seen(f"net {what}: CPU, with the clocks", all_s / (size / MIB) * 1e3, "ms/MiB")
    for name in (*NAMES, "other"):
        part = 100 * spent_s[name] / all_s
        yield against_number(
            f"  {what}: of it {name}", part, "% of the CPU", None, at_most=PART_MAX
        )
        if part > PART_MAX:
            why = EXPLAINED.get(name, "not explained")
            print(f"{what}: {name} takes {part:.0f}% of the CPU: {why}", file=sys.stderr)
