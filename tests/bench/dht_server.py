"""A process whose DHT serves packets on loopback: routing table, store and transport as in a node.

Its arguments, its input and its output are those of `wire_server`; the mode is not looked at.
"""

import asyncio
import logging
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from molia.base.config import AdmissionConfig, Config, DhtConfig, StoreConfig
from molia.base.crypto import Identity
from molia.base.limits import RECORD_AHEAD_S
from molia.dht import held, records
from molia.dht.contact import Contact, Space
from molia.dht.effects import Store
from molia.dht.records import SignedRecord
from molia.node.app import open_node
from molia.node.dht import Dht
from molia.node.home import init_home
from molia.node.network import Network, NetworkSettings
from molia.node.offload import Offload
from molia.node.system import SystemClock, calm_collector
from molia.sim.entropy import SeededEntropy
from tests.bench.wire_server import NETWORK, SERVER_SEED, answer_lines, bound, pinned

CONTACTS = 1_000
"""Of which a table keeps some hundreds."""
RECORDS = 1_000
VALUE_SIZE = 800
"""Makes the answer as long as one with 20 contacts."""


def records_to_keep() -> Iterator[SignedRecord]:
    """Yield the records that the server keeps, where the asker knows them to lie."""
    publisher = Identity(b"p" * 32)
    for salt in range(RECORDS):
        yield records.publish(
            publisher, NETWORK, salt.to_bytes(2, "big"), bytes(VALUE_SIZE), seq=1, period=1,
            expires=int(time.time()) + RECORD_AHEAD_S // 2,
        )  # fmt: skip


async def keep_records(dht: Dht) -> None:
    """Store the records as if they had been put."""
    for record in records_to_keep():
        decision = held.decide(None, record, cas=None, unix_s=time.time())
        assert decision.row is not None
        wanted = Store(
            token=0, kind=held.RECORD, loc=records.loc_of(record, NETWORK), row=decision.row,
            expected=None, expires_unix_s=decision.expires,
        )  # fmt: skip
        assert await dht.rows.write(wanted)


def neighbours(space: Space) -> list[Contact]:
    """Return contacts on this machine, where nobody listens."""
    chance, made = SeededEntropy(1), []
    for number in range(CONTACTS):
        key = Identity(chance.token(32)).peer_key
        contact = space.contact(key.key, (f"127.9.{number >> 8}.{number & 255}", 7071))
        assert contact is not None
        made.append(contact)
    return made


async def serve(sock: socket.socket, home: Path) -> None:
    """Serve until the input ends."""
    config = Config(
        network="bench", workers=1, threads=2, dht=DhtConfig(lan=False, reachable="yes"),
        store=StoreConfig(shards=1, quota_bytes=1 << 30),
    )  # fmt: skip
    init_home(home, config, "")
    identity = Identity(SERVER_SEED)
    settings = NetworkSettings(identity=identity, name="bench", admission=AdmissionConfig())
    async with open_node(home, config) as node:
        context = replace(node.context, peer=identity.peer_key)
        network = Network(settings, Offload(1), clock=SystemClock())
        dht = Dht(context, network, home, bound=[sock.getsockname()])
        network.add(dht)
        await keep_records(dht)
        dht.engine.start([], context.now())
        dht.engine.resume(neighbours(dht.space), [], context.now())
        serving = asyncio.ensure_future(network.run([sock]))
        calm_collector()
        await asyncio.sleep(0)
        print(sock.getsockname()[1], flush=True)
        await answer_lines(lambda: dht.engine.counters.served)
        serving.cancel()
        await asyncio.wait((serving,))


def main(arguments: Sequence[str]) -> None:
    """Serve on a port that is printed once all is in place."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    mode, _, worker, *cores = arguments
    with (
        pinned([int(core) for core in cores], int(worker)),
        tempfile.TemporaryDirectory(prefix="bench-dht-") as folder,
    ):
        asyncio.run(serve(bound(mode), Path(folder) / "home"))


if __name__ == "__main__":
    main(sys.argv[1:])
