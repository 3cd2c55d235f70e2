"""A removed blob can be brought back while its time in the trash lasts, and then goes for good."""

from dataclasses import replace
from pathlib import Path

import pytest

from molia.base.cid import Cid
from molia.base.config import Config, LeaseConfig, StoreConfig
from molia.base.errors import BadConfig, BlobNotFound, Conflict
from molia.node import shards
from molia.node.app import open_node
from molia.node.home import init_home
from molia.node.local import LocalNode
from molia.node.migration import migrate_home
from molia.node.trash import undelete
from molia.store.keys import Kind, Space
from tests.node.process import body_of
from tests.node.scan import assert_no_orphans
from tests.node.test_leases import DAY_S, MovableClock, cids, put

CONFIG = Config(
    store=StoreConfig(shards=2, quota_bytes=1 << 30, trash_s=7 * 86_400),
    leases=LeaseConfig(default_s=30 * 86_400, sweep_s=86_400, min_age_s=3_600),
)
SMALL, LARGE = 2_000, 1_500_000


@pytest.fixture
def home(tmp_path: Path) -> Path:
    init_home(tmp_path / "home", CONFIG, "")
    return tmp_path / "home"


async def body(node: LocalNode, cid: Cid) -> bytes:
    """Return all of a blob."""
    reader = await node.open_blob(cid)
    return b"".join([bytes(piece) async for piece in reader.read(0, reader.info.size)])


def trash_rows(node: LocalNode) -> int:
    """Return how many blobs are in the trash."""
    prefix, now = bytes((Space.TRASH,)), node.context.now()
    shards = node.context.shards.shards
    return sum(len(shard.scan(Kind.META, prefix, now=now, limit=100)) for shard in shards)


@pytest.mark.parametrize("size", [SMALL, LARGE])
@pytest.mark.parametrize("pin", [False, True])
async def test_a_removed_blob_comes_back_as_it_was(home: Path, size: int, pin: bool) -> None:
    clock = MovableClock()
    async with open_node(home, CONFIG, clock=clock) as node:
        cid = Cid.parse(await put(node, 1, size, pin=pin))
        before = await node.blob_info(cid)
        await node.delete_blob(cid)
        assert await cids(node) == set()
        assert node.context.metrics.blob_count == 0
        with pytest.raises(BlobNotFound):
            await node.blob_info(cid)
        clock.forward(6 * DAY_S)
        assert await node._sweeper.sweep() == 0
    async with open_node(home, CONFIG, clock=clock) as node:  # a restart changes nothing
        await undelete(node.context, cid)
        assert await node.blob_info(cid) == before
        assert await body(node, cid) == body_of(1, size)
        assert node.context.metrics.blob_count == 1
        with pytest.raises(BlobNotFound):
            await undelete(node.context, cid)
        clock.forward(2 * DAY_S)
        await node._sweeper.sweep()
        assert await body(node, cid) == body_of(1, size)
        assert trash_rows(node) == 0
    assert_no_orphans(home)


@pytest.mark.parametrize("size", [SMALL, LARGE])
async def test_its_time_over_a_blob_is_gone_with_all_its_blocks(home: Path, size: int) -> None:
    clock = MovableClock()
    async with open_node(home, CONFIG, clock=clock) as node:
        cid = Cid.parse(await put(node, 1, size))
        await node.delete_blob(cid)
        assert trash_rows(node) == 1
        clock.forward(8 * DAY_S)
        await node._sweeper.sweep()
        assert trash_rows(node) == 0
        with pytest.raises(BlobNotFound):
            await undelete(node.context, cid)
    assert assert_no_orphans(home) == {}


async def test_what_is_overdue_goes_however_much_lies_before_it(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shards, "KEYS_PAGE", 2)
    clock = MovableClock()
    async with open_node(home, CONFIG, clock=clock) as node:
        in_order = sorted([Cid.parse(await put(node, seed)) for seed in range(12)],
                          key=lambda cid: cid.digest)  # fmt: skip
        for cid in in_order[6:]:
            await node.delete_blob(cid)
        clock.forward(5 * DAY_S)
        for cid in in_order[:6]:
            await node.delete_blob(cid)
        clock.forward(3 * DAY_S)
        assert (await node.collect_garbage(dry_run=True)).trashed == 6
        await node._sweeper.sweep()
        assert trash_rows(node) == 6
        assert {blob.cid for blob in await node.trash()} == set(in_order[:6])


async def test_a_clock_that_jumps_empties_no_trash(home: Path) -> None:
    clock = MovableClock()
    async with open_node(home, CONFIG, clock=clock) as node:
        cid = Cid.parse(await put(node, 1))
        await node.delete_blob(cid)
        clock.unix_s += 300 * DAY_S
        await node._sweeper.sweep()
        assert trash_rows(node) == 1
        await undelete(node.context, cid)


async def test_what_was_put_again_is_not_overwritten_and_both_go_in_their_time(
    home: Path,
) -> None:
    clock = MovableClock()
    async with open_node(home, CONFIG, clock=clock) as node:
        cid = Cid.parse(await put(node, 9))
        for size in (SMALL, LARGE):
            cid = Cid.parse(await put(node, 1, size))
            await node.delete_blob(cid)
            await put(node, 1, size)
            with pytest.raises(Conflict):
                await undelete(node.context, cid)
            assert await body(node, cid) == body_of(1, size)
            clock.forward(1.0)
            await node.delete_blob(cid)
        assert trash_rows(node) == 4
        await undelete(node.context, cid)
        clock.forward(8 * DAY_S)
        await node._sweeper.sweep()
        assert trash_rows(node) == 0
        assert await body(node, cid) == body_of(1, LARGE)
        await node.delete_blob(cid)
        clock.forward(8 * DAY_S)
        await node._sweeper.sweep()
    assert len(assert_no_orphans(home)) == 1


async def test_without_a_window_nothing_comes_back(home: Path) -> None:
    config = replace(CONFIG, store=replace(CONFIG.store, trash_s=0))
    async with open_node(home, config) as node:
        cid = Cid.parse(await put(node, 1))
        await node.delete_blob(cid)
        with pytest.raises(BlobNotFound):
            await undelete(node.context, cid)
    assert assert_no_orphans(home) == {}
    with pytest.raises(BadConfig):
        StoreConfig(trash_s=-1)


def test_the_trash_goes_along_to_another_number_of_shards(home: Path) -> None:
    import anyio

    async def fill() -> list[Cid]:
        async with open_node(home, CONFIG) as node:
            found = []
            for seed in range(8):
                found.append(Cid.parse(await put(node, seed, SMALL if seed % 2 else LARGE)))
                await node.delete_blob(found[-1])
            return found

    async def check(found: list[Cid]) -> None:
        async with open_node(home, CONFIG) as node:
            for seed, cid in enumerate(found):
                await undelete(node.context, cid)
                assert await body(node, cid) == body_of(seed, SMALL if seed % 2 else LARGE)
                await node.delete_blob(cid)

    found = anyio.run(fill)
    migrate_home(home, CONFIG, shards=5, on_progress=lambda *_: None)
    anyio.run(check, found)


async def test_the_node_lists_what_can_be_brought_back_and_tells_who_listens(home: Path) -> None:
    clock = MovableClock()
    told: list[Cid] = []
    async with open_node(home, CONFIG, clock=clock) as node:
        node.context.on_blob.append(told.append)
        cids_put = [Cid.parse(await put(node, seed)) for seed in range(3)]
        for cid in cids_put[:2]:
            await node.delete_blob(cid)
            clock.forward(60.0)
        assert [blob.cid for blob in await node.trash()] == [cids_put[1], cids_put[0]]
        assert (await node.undelete_blob(cids_put[0])).cid == cids_put[0]
        assert told[-1] == cids_put[0]
        assert len(told) == 6
        clock.forward(7 * DAY_S)
        assert await node.trash() == (), "its time is over, swept or not"
        with pytest.raises(BlobNotFound):
            await node.undelete_blob(cids_put[2])
