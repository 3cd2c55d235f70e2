"""Leases end with time, pins hold, and a clock that jumps ends nothing."""

import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from molia.base.cid import Cid
from molia.base.config import Config, LeaseConfig, StoreConfig
from molia.base.errors import BlobNotFound, Busy
from molia.base.now import Now
from molia.base.views import Garbage, PutOptions
from molia.node.app import open_node
from molia.node.catalog import Bound, Catalog, blob_change
from molia.node.home import init_home
from molia.node.local import LocalNode
from molia.node.puts import remove_bound
from molia.node.rows import check_rows
from molia.node.shards import ShardWriter
from molia.node.system import SystemClock
from molia.store.keys import Kind, Space, home_shard
from molia.store.ops import Delete, Reply, Transaction
from tests.node.damage import places, rows
from tests.node.process import Node, body_of
from tests.node.scan import assert_no_orphans

DAY_S = 86_400.0
CONFIG = Config(
    store=StoreConfig(shards=2, quota_bytes=1 << 30),
    leases=LeaseConfig(default_s=30 * 86_400, sweep_s=86_400, min_age_s=3_600),
)


class MovableClock(SystemClock):
    """The machine's clocks, moved by what a test says."""

    def __init__(self) -> None:
        self.mono_s = self.unix_s = 0.0

    def now(self) -> Now:
        now = super().now()
        return Now(now.mono_s + self.mono_s, now.unix_s + self.unix_s)

    def forward(self, seconds: float) -> None:
        """Let time pass."""
        self.mono_s += seconds
        self.unix_s += seconds


async def put(node: LocalNode, seed: int, size: int = 2_000, *, pin: bool = False,
              expires_s: float | None = None) -> str:  # fmt: skip
    """Put a blob and return its CID."""

    async def chunks() -> AsyncIterator[bytes]:
        yield body_of(seed, size)

    now_s = node.context.now().unix_s
    expires = None if expires_s is None else int(now_s + expires_s)
    result = await node.put_blob(chunks(), PutOptions(pin=pin, expires_unix_s=expires))
    return str(result.cid)


async def cids(node: LocalNode) -> set[str]:
    page = await node.list_blobs(cursor=None, limit=100, state=None, pinned=None)
    return {str(blob.cid) for blob in page.blobs}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    init_home(tmp_path / "home", CONFIG, "")
    return tmp_path / "home"


async def test_a_lease_ends_and_a_pin_holds(home: Path) -> None:
    clock = MovableClock()
    async with open_node(home, CONFIG, clock=clock) as node:
        sweep = node._sweeper.sweep
        pinned, leased = await put(node, 1, pin=True), await put(node, 2, 1_500_000)
        assert await sweep() == 0
        clock.forward(29 * DAY_S)
        assert await sweep() == 0
        assert await cids(node) == {pinned, leased}
        clock.forward(2 * DAY_S)
        assert await sweep() == 1
        assert await cids(node) == {pinned}
        clock.forward(300 * DAY_S)
        assert await sweep() == 0
        (info,) = (await node.list_blobs(cursor=None, limit=9, state=None, pinned=True)).blobs
        await node.pin_blob(info.cid, pinned=False)
        clock.forward(29 * DAY_S)
        assert await sweep() == 0
        clock.forward(2 * DAY_S)
        assert await sweep() == 1
        assert await cids(node) == set()
        assert node.context.metrics.blob_count == 0
        assert (await node.readiness()).reasons == ()
    assert assert_no_orphans(home) == {}


@pytest.mark.parametrize("size", [2_000, 1_500_000])
@pytest.mark.parametrize("how", ["pin", "put", "put and pin"])
async def test_what_is_wanted_again_while_a_pass_is_under_way_stays(
    home: Path, how: str, size: int
) -> None:
    clock = MovableClock()
    async with open_node(home, CONFIG, clock=clock) as node:
        cid, gone = await put(node, 1, size), await put(node, 2, size)
        clock.forward(31 * DAY_S)
        now = node.context.now()
        decided = node._sweeper._decide(now)
        assert len(decided) == 2
        if how == "pin":
            await node.pin_blob(Cid.parse(cid), pinned=True)
        else:
            assert await put(node, 1, size, pin=how == "put and pin") == cid
        went = [await node._sweeper._act(*each, now) for each in decided]
        assert sorted(went) == [False, True], "what was acknowledged went"
        assert await cids(node) == {cid} != {gone}
        assert node.context.metrics.blob_count == 1
        assert await node._sweeper.sweep() == 0
    assert set(assert_no_orphans(home)) == {cid}


async def test_a_second_put_has_a_lease_of_its_own(home: Path) -> None:
    clock = MovableClock()
    async with open_node(home, CONFIG, clock=clock) as node:
        loose, dated = await put(node, 1), await put(node, 2)
        clock.forward(29 * DAY_S)
        assert await put(node, 1) == loose
        assert await put(node, 2, expires_s=60 * DAY_S) == dated
        clock.forward(29 * DAY_S)
        assert await node._sweeper.sweep() == 0
        assert await cids(node) == {loose, dated}
        clock.forward(2 * DAY_S)
        assert await node._sweeper.sweep() == 1
        assert await cids(node) == {dated}, "it was to stay until its date"


@pytest.mark.parametrize("size", [2_000, 1_500_000])
@pytest.mark.parametrize("how", ["left", "told that it took too long"])
async def test_a_blob_whose_put_was_not_answered_is_counted_and_told_of(
    home: Path, how: str, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_node(home, CONFIG) as node:
        told: list[Cid] = []
        node.context.on_blob.append(told.append)
        bound, write = anyio.Event(), ShardWriter.write

        async def write_late(writer: ShardWriter, transaction: Transaction) -> Reply:
            reply = await write(writer, transaction)
            if blob_change(transaction) == 1:
                bound.set()
                if how != "left":
                    raise Busy("the shard did not write in time")
                await anyio.sleep(30.0)
            return reply

        monkeypatch.setattr(ShardWriter, "write", write_late)

        async def put_it() -> None:
            with contextlib.suppress(Busy):
                await put(node, 1, size, pin=True)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(put_it)
            await bound.wait()
            if how == "left":
                tasks.cancel_scope.cancel()
        (cid,) = await cids(node)
        assert node.context.metrics.blob_count == 1
        assert told == [Cid.parse(cid)], "it is not announced"
        await node.delete_blob(Cid.parse(cid))
        assert node.context.metrics.blob_count == 0
    assert assert_no_orphans(home) == {}


async def test_a_lease_that_cannot_be_read_ends_nothing(home: Path) -> None:
    clock = MovableClock()
    async with open_node(home, CONFIG, clock=clock) as node:
        cid = await put(node, 1)
        bound = node.context.catalog.bound(Cid.parse(cid), node.context.now())
        assert bound is not None
    (place,) = rows(places(Node(home)), Space.LEASE, bound.row.object_id)
    place.flip_value(random.Random(1))
    async with open_node(home, CONFIG, clock=clock) as node:
        clock.forward(2 * DAY_S)
        assert await node._sweeper.sweep() == 0
        assert await cids(node) == {cid}
        async for _ in check_rows(node.context, home_shard(Cid.parse(cid), 2)):
            pass  # it is written again
        clock.forward(31 * DAY_S)
        assert await node._sweeper.sweep() == 1


@pytest.mark.parametrize("expires_s", [None, 40 * DAY_S])
async def test_a_damaged_row_keeps_no_other_blob_from_going(
    home: Path, expires_s: float | None
) -> None:
    clock = MovableClock()
    async with open_node(home, CONFIG, clock=clock) as node:
        gone = await put(node, 1)
        damaged = Cid.parse(
            await put(node, 2, pin=True, expires_s=expires_s)
        )  # the first looked at
    (place,) = rows(places(Node(home)), Space.BIND, damaged.digest)
    place.flip_value(random.Random(1))
    async with open_node(home, CONFIG, clock=clock) as node:
        clock.forward(41 * DAY_S)
        assert await node._sweeper.sweep() == (1 if expires_s is None else 2)
        assert await cids(node) == ({str(damaged)} if expires_s is None else set())
    assert gone not in assert_no_orphans(home)


async def test_a_pin_beside_another_change_of_the_blob_is_made(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_node(home, CONFIG) as node:
        cid = Cid.parse(await put(node, 1, expires_s=100))
        pin, calls = node.context.catalog.pin, 0

        def pin_late(bound: Bound, **how: Any) -> Transaction:
            nonlocal calls
            calls += 1
            if calls == 1:  # somebody else was first
                bound = replace(bound, encoded=b"what it was before")
            return pin(bound, **how)

        monkeypatch.setattr(Catalog, "pin", lambda _, bound, **how: pin_late(bound, **how))
        assert (await node.pin_blob(cid, pinned=True)).info.pinned
        assert (await node.blob_info(cid)).pinned


async def test_garbage_is_told_before_it_goes(home: Path) -> None:
    clock = MovableClock()
    async with open_node(home, CONFIG, clock=clock) as node:
        await put(node, 1, expires_s=100)
        kept = await put(node, 2, pin=True)
        assert await node.collect_garbage(dry_run=False) == Garbage()
        clock.forward(101)
        told = await node.collect_garbage(dry_run=True)
        assert (told.blobs, told.blob_bytes) == (1, 2_000)
        assert await node.collect_garbage(dry_run=True) == told, "a look removes nothing"
        assert await node.collect_garbage(dry_run=False) == told
        assert await node.collect_garbage(dry_run=False) == Garbage()
        clock.unix_s += 400 * DAY_S  # the wall clock alone
        assert "clock" in (await node.collect_garbage(dry_run=False)).doubt
    assert set(assert_no_orphans(home)) == {kept}


async def test_an_expiry_counts_at_once_and_a_put_without_one_ends_it(home: Path) -> None:
    clock = MovableClock()
    async with open_node(home, CONFIG, clock=clock) as node:
        short = await put(node, 1, pin=True, expires_s=100)
        await put(node, 2, pin=True, expires_s=100)
        kept = await put(node, 2, pin=True)
        longer = await put(node, 3, pin=True, expires_s=50)
        assert longer == await put(node, 3, pin=True, expires_s=500)
        clock.forward(101)
        assert await cids(node) == {kept, longer}
        with pytest.raises(BlobNotFound):
            await node.blob_info(Cid.parse(short))
        assert await node._sweeper.sweep() == 1
        clock.forward(400)
        assert await cids(node) == {kept}
        assert await put(node, 3) == longer  # expired, not yet swept: it is stored anew
        assert await node._sweeper.sweep() == 0
        assert await cids(node) == {kept, longer}
    assert set(assert_no_orphans(home)) == {kept, longer}


async def test_a_clock_that_jumps_ends_nothing_and_readyz_says_so(home: Path) -> None:
    clock = MovableClock()
    async with open_node(home, CONFIG, clock=clock) as node:
        await put(node, 1, 1_500_000)
        clock.unix_s += 400 * DAY_S  # the wall clock alone
        assert await node._sweeper.sweep() == 0
        readiness = await node.readiness()
        assert readiness.ready
        assert "clock" in readiness.reasons[0]
        clock.unix_s -= 400 * DAY_S
        assert (await node.readiness()).reasons == ()
    assert len(assert_no_orphans(home)) == 1


async def test_a_blob_whose_lease_is_lost_can_be_removed(home: Path) -> None:
    """`DELETE` goes on until the blob is gone: it would never end."""
    async with open_node(home, CONFIG) as node:
        context, cid = node.context, Cid.parse(await put(node, 3, 1_500_000))
        bound = context.catalog.find(cid, context.now())
        lost = Delete(Kind.META, context.catalog.lease_key(bound.row.object_id))
        await context.home_writer(cid).write(Transaction((lost,)))
        assert await remove_bound(context, bound)
        assert not await remove_bound(context, bound)
        with pytest.raises(BlobNotFound):
            await node.delete_blob(cid)
    assert assert_no_orphans(home) == {}
