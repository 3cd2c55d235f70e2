"""FIND_NODE and GET as a node serves them: transport, routing table, DHT and store behind them.

Beside them, in turns, the transport with nothing behind it (`bench_wire`).
"""

import random
from collections.abc import Iterator
from pathlib import Path

from molia.dht import records
from molia.wire.dht_messages import Get, Record
from molia.wire.messages import Message
from tests.bench.bench_wire import CORES, serving_cost
from tests.bench.dht_server import VALUE_SIZE, records_to_keep
from tests.bench.report import Figure, against_number, alternate_many
from tests.bench.wire_server import NETWORK, pinned


def has_record(message: Message | None) -> bool:
    """Tell whether an answer is a record of the size that was stored."""
    return isinstance(message, Record) and len(message.record) > VALUE_SIZE


def bench_served(folder: Path, scale: float) -> Iterator[Figure]:
    """FIND_NODE for random targets and GET of records held, sealed, over real UDP."""
    count = max(20_000, int(100_000 * scale))
    locs = [records.loc_of(record, NETWORK) for record in records_to_keep()]

    with pinned(CORES, 1):
        bare, find, get = alternate_many(
            3 if scale >= 0.1 else 1,
            lambda: serving_cost(count),
            lambda: serving_cost(count, module="dht_server"),
            lambda: serving_cost(
                count,
                module="dht_server",
                make=lambda: Get(random.choice(locs)),
                is_good=has_record,
            ),
        )
    for name, ours in (("FIND_NODE by the DHT", find), ("GET of a record", get)):
        yield against_number(f"served {name}, CPU", ours[0], "us", bare[0], at_most=12.0)
        yield against_number(
            f"served {name} per core", 1e6 / ours[0], "/s", 1e6 / bare[0], at_least=80_000.0
        )
        yield against_number(f"{name}, on the clock", ours[3], "/s", bare[3], at_least=80_000.0)
