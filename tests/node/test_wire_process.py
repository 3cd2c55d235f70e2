"""Real node processes talk: every worker of one port answers, survives, and is counted."""

import asyncio
import contextlib
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from molia.base.config import AdmissionConfig
from molia.base.crypto import Identity
from molia.base.errors import MoliaError
from molia.base.ids import PeerKey
from molia.node.network import Network, NetworkSettings
from molia.node.offload import Offload
from molia.node.system import SystemClock
from molia.wire.addresses import PeerAddress
from molia.wire.messages import Ping, Pong
from tests.node.process import Node, until

ASKERS = 12


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """A node of two workers."""
    made = Node(tmp_path / "home", settings={"MOLIA_WORKERS": "2"})
    yield made
    made.close()


def place_of(node: Node) -> tuple[PeerKey, tuple[str, int]]:
    """Return the node's key and its UDP address."""
    (text,) = node.client()("GET", "/node").json()["addresses"]
    address = PeerAddress.parse(text)
    return address.peer_key, (address.host, address.port)


@asynccontextmanager
async def askers(count: int, *, name: str = "molia") -> AsyncIterator[list[Network]]:
    """Give networks of their own key and socket."""
    offload = Offload(1)
    made: list[Network] = []
    with contextlib.ExitStack() as held:
        held.callback(offload.close)
        tasks = []
        for number in range(count):
            sock = held.enter_context(socket.socket(socket.AF_INET, socket.SOCK_DGRAM))
            sock.bind(("127.0.0.1", 0))
            settings = NetworkSettings(
                identity=Identity(bytes((number + 1,)) * 32), name=name,
                admission=AdmissionConfig(),
            )  # fmt: skip
            made.append(Network(settings, offload, clock=SystemClock()))
            tasks.append(asyncio.ensure_future(made[-1].run([sock])))
        await asyncio.sleep(0)
        try:
            yield made
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def ping_all(made: list[Network], key: PeerKey, address: tuple[str, int]) -> None:
    """Ping from every network until it is answered; a node that starts anew may lose some."""
    for network in made:
        for _ in range(20):
            with contextlib.suppress(MoliaError):
                answer = await network.ask(key, address, Ping(), timeout_s=10.0)
                assert isinstance(answer, Pong)
                break
        else:
            pytest.fail("no answer")


async def all_known(node: Node) -> None:
    """Return when the node shows a session with every asker: their first packets have come."""

    def known() -> bool:
        return bool(node.client()("GET", "/node").json()["sessions"] == ASKERS)

    await asyncio.to_thread(until, known, "a session is missing")


def workers(node: Node) -> list[dict[str, Any]]:
    """Return what the node says of its workers."""
    found: list[dict[str, Any]] = node.client()("GET", "/node").json()["processes"]
    return found


def counted(node: Node, series: str) -> float:
    """Return a series of the node's metrics."""
    text = node.client()("GET", "/metrics").body.decode()
    match = re.search(rf"^{re.escape(series)} ([0-9.e+]+)$", text, re.MULTILINE)
    assert match, series
    return float(match[1])


def test_peers_are_answered_by_whichever_worker_they_reach_through_crash_and_restart(
    node: Node,
) -> None:
    node.start()
    key, address = place_of(node)
    assert str(key) == node.client()("GET", "/node").json()["peer"]

    async def go() -> None:
        async with askers(ASKERS) as made:
            await ping_all(made, key, address)
            await all_known(node)
            assert node.client()("GET", "/node").json()["proof_epoch"] is None
            # the kernel spreads strangers by their port: with 12 a lone worker is luck of 1 in 2048
            os.kill(workers(node)[0]["pid"], signal.SIGKILL)
            await asyncio.to_thread(
                until, lambda: workers(node)[0]["restarts"] == 1, "it does not come back"
            )
            await ping_all(made, key, address)
            assert node.process is not None
            node.process.send_signal(signal.SIGHUP)
            await asyncio.to_thread(
                until, lambda: [w["restarts"] for w in workers(node)] == [2, 1], "no new workers"
            )
            await ping_all(made, key, address)
            await all_known(node)
            answered = [
                counted(node, f'molia_wire_requests_total{{outcome="{how}"}}')
                for how in ("early", "served")
            ]
            assert sum(answered) >= ASKERS
            assert counted(node, "molia_wire_sessions") == ASKERS

    asyncio.run(go())
    node.stop()


def test_strangers_to_the_network_get_nothing_and_are_counted(node: Node) -> None:
    node.start()
    key, address = place_of(node)

    async def go() -> None:
        async with askers(1, name="another") as (stranger,):
            with pytest.raises(MoliaError):
                await stranger.ask(key, address, Ping(), timeout_s=0.5)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as noise:
            noise.settimeout(0.2)
            for size in (0, 1, 31, 32, 148, 1200, 9000):
                noise.sendto(os.urandom(size), address)
            with pytest.raises(TimeoutError):
                noise.recv(2048)

    asyncio.run(go())

    def is_counted() -> bool:
        text = node.client()("GET", "/metrics").body.decode()
        if not all(f'{{reason="{reason}"}}' in text for reason in ("bad_initiation", "bad_type")):
            return False
        return counted(node, 'molia_wire_dropped_total{reason="bad_type"}') >= 6

    until(is_counted, "what strangers sent is not counted")
    assert counted(node, 'molia_wire_dropped_total{reason="bad_initiation"}') == 1
    assert counted(node, "molia_wire_sessions") == 0
    node.stop()
