"""What workers share beside the store: locks by name, sums of metrics, and when one gives up."""

import asyncio
import errno
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from molia.base import limits
from molia.base.config import Config, StoreConfig
from molia.base.errors import Busy, ShardUnavailable
from molia.base.hashing import DIGEST_SIZE
from molia.base.ids import new_object_id
from molia.node import app, workers
from molia.node.app import open_node
from molia.node.bus import bus_paths
from molia.node.home import init_home
from molia.node.metrics import Metrics
from molia.node.objects import Objects
from molia.node.range_locks import RangeLocks
from molia.node.shards import ShardSet
from molia.node.steering import UdpGroup
from molia.node.team import Seat
from molia.node.workers import Handed, Supervisor, listen_on_bus
from molia.store.delta import Delta
from molia.store.keys import LEAVES_STRIPE, Kind
from molia.store.lmdb_env import IndexFull
from molia.store.shard import Put, Transaction

ROOT = Path(__file__).parents[2]
HOLDER = """
import anyio, sys
from pathlib import Path
from molia.node.range_locks import RangeLocks

async def main():
    locks = RangeLocks(Path(sys.argv[1]))
    async with locks.hold(b"one-----object"):
        print("held", flush=True)
        await anyio.sleep(3600)

anyio.run(main)
"""


async def test_a_lock_is_held_against_other_processes_until_they_end(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLDER, str(tmp_path / "locks")]
    other = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE)
    try:
        assert other.stdout is not None
        assert other.stdout.readline() == b"held\n"
        locks = RangeLocks(tmp_path / "locks")
        async with locks.hold(b"two-----object"):
            pass
        with anyio.move_on_after(0.2) as waited:
            async with locks.hold(b"one-----object"):
                pass
        assert waited.cancelled_caught
        other.kill()
        async with locks.hold(b"one-----object"):
            pass
        locks.close()
    finally:
        other.kill()
        other.communicate()


def values(text: bytes) -> dict[str, float]:
    lines = [line.rpartition(" ") for line in text.decode().splitlines() if line[0] != "#"]
    return {name: float(value) for name, _, value in lines}


def test_metrics_of_several_workers_are_summed_series_by_series() -> None:
    workers = [Metrics() for _ in range(3)]
    for number, metrics in enumerate(workers):
        metrics.note_worker(number, restarts=number)
        metrics.puts.labels("created").inc(10 + number)
        metrics.put_seconds.observe(0.002)
        metrics.blob_count = 5
    workers[2].puts.labels("failed").inc()
    own = [values(metrics.render()) for metrics in workers]
    got = values(workers[0].render([metrics.export() for metrics in workers[1:]]))
    assert got['molia_puts_total{outcome="created"}'] == 33
    assert got['molia_puts_total{outcome="failed"}'] == 1
    assert got["molia_put_seconds_count"] == got['molia_put_seconds_bucket{le="0.003"}'] == 3
    assert got["molia_blobs"] == 15
    assert [got[f'molia_worker_restarts{{worker="{n}"}}'] for n in range(3)] == [0, 1, 2]
    created = 'molia_puts_created{outcome="created"}'
    assert got[created] == min(one[created] for one in own), "times are not summed"
    assert set(got) == set().union(*own)


def test_one_worker_alone_shows_what_it_always_showed() -> None:
    metrics = Metrics()
    metrics.puts.labels("created").inc()
    text = metrics.render().decode()
    assert (
        "# HELP molia_puts_total Puts that ended, by how\n# TYPE molia_puts_total counter" in text
    )
    assert "# TYPE molia_put_seconds histogram" in text


async def test_a_worker_gives_up_when_others_cannot_be_shown_what_it_wrote(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Worker 0 of two, without the other; nothing else of the node runs."""
    home = tmp_path / "home"
    config = Config(store=StoreConfig(shards=2, quota_bytes=1 << 30))
    init_home(home, config, "")
    monkeypatch.setattr(app, "OTHERS_WAIT_S", 0.1)
    paths = bus_paths(tmp_path, 2)
    buses = listen_on_bus(paths)
    seat = Seat(count=2, node_unix_ms=1_700_000_000_000, bus_paths=tuple(paths))
    async with open_node(home, config, seat=seat, bus=buses[0]) as node:
        (writer,) = node.context.shards.own
        put = Transaction((Put(Kind.META, b"\x7fkey", b"value"),))
        await writer.write(put)
        assert not node.gave_up.is_set()

        def full(*_: object) -> None:
            raise IndexFull("no space left")

        monkeypatch.setattr(Delta, "add", full)
        with pytest.raises(ShardUnavailable, match="cannot be shown"):
            await writer.write(put)
        with anyio.fail_after(60):
            await node.gave_up.wait()
    for sock in buses:
        sock.close()


async def test_leaf_lists_of_the_largest_blob_fit_what_workers_send_each_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = Config(store=StoreConfig(shards=2, quota_bytes=1 << 30))
    init_home(tmp_path / "home", config, "")
    sent: list[Transaction] = []

    async def write_all(_: ShardSet, by_shard: dict[int, list[Transaction]]) -> None:
        sent.extend(each for some in by_shard.values() for each in some)

    async with open_node(tmp_path / "home", config) as node:
        monkeypatch.setattr(ShardSet, "write_all", write_all)
        leaves = bytes(limits.STRIPES_MAX * DIGEST_SIZE)
        lists = [(share, LEAVES_STRIPE, leaves) for share in range(limits.TOTAL_SHARES)]
        await node.context.objects.store(new_object_id(node.context.entropy), lists)
        monkeypatch.undo()
    values = [[op.value for op in each.ops if isinstance(op, Put)] for each in sent]
    assert sum(map(len, values)) == limits.TOTAL_SHARES
    assert max(sum(map(len, some)) for some in values) <= limits.BUS_BLOB_MAX


WORKER = """
import os, socket, sys, time
control = socket.socket(fileno=int(sys.argv[2]))
for word in (b"loaded", b"ready"):
    control.recv(1 << 20)
    control.sendall(word + b"\\n")
while not os.path.exists(sys.argv[1]):
    time.sleep(0.01)
"""


async def test_a_worker_is_started_again_also_when_the_system_had_no_process_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker ends once the node is ready; the next start of it is refused."""
    monkeypatch.setattr(workers, "FIRST_PAUSE_S", 0.01)
    real, starts = asyncio.create_subprocess_exec, [0]
    again, stop, end = asyncio.Event(), asyncio.Event(), tmp_path / "end"

    async def start(*arguments: Any, **options: Any) -> Any:
        starts[0] += 1
        if starts[0] == 4:
            again.set()
        if starts[0] in (2, 4):
            raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")
        return await real(*arguments, **options)

    monkeypatch.setattr(asyncio, "create_subprocess_exec", start)
    (bus,) = listen_on_bus(bus_paths(tmp_path, 1))
    handed = Handed(
        command=(sys.executable, "-c", WORKER, str(end)), plan={}, api=(), udp=UdpGroup(((),), ()),
        bus=[bus], lock=bus.fileno(),
    )  # fmt: skip
    with closing(bus):
        running = asyncio.ensure_future(Supervisor(handed, 1).run(stop=stop, ready=end.touch))
        try:
            async with asyncio.timeout(120):
                await again.wait()
        finally:
            stop.set()
            await running


async def test_a_node_starts_also_while_a_shard_is_too_slow_to_be_swept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def drop(*_: object) -> None:
        raise Busy("shard 0 did not write in time")

    config = Config(store=StoreConfig(shards=2, quota_bytes=1 << 30))
    init_home(tmp_path / "home", config, "")
    async with open_node(tmp_path / "home", config) as node:
        await node.context.objects.begin(new_object_id(node.context.entropy))
    with monkeypatch.context() as patch:
        patch.setattr(Objects, "drop", drop)
        async with open_node(tmp_path / "home", config) as node:
            assert (await node.readiness()).ready
    async with open_node(tmp_path / "home", config) as node:
        assert await node.context.objects.sweep_unfinished() == 0, "the next start has swept it"
