"""Cached blobs go in their minutes, or earlier when the quota is nearly used up, and they alone."""

import random
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest

from molia.base.cid import Cid
from molia.base.config import Config, LeaseConfig, StoreConfig
from molia.base.errors import NoSpace
from molia.base.limits import CACHE_LIFE_MAX_S, CACHE_LIFE_MIN_S
from molia.base.views import PutOptions
from molia.node import cache
from molia.node.app import open_node
from molia.node.home import init_home
from molia.node.local import LocalNode
from molia.node.migration import migrate_home
from molia.store.keys import WHOLE_SHARE, Kind, block_key
from tests.node.damage import places
from tests.node.process import Node, body_of
from tests.node.scan import assert_no_orphans
from tests.node.test_leases import MovableClock, cids

MIB = 1 << 20
QUOTA = 256 * MIB
CONFIG = Config(
    store=StoreConfig(shards=2, quota_bytes=QUOTA, reserve_bytes=0),
    leases=LeaseConfig(default_s=30 * 86_400, sweep_s=86_400),
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    init_home(tmp_path / "home", CONFIG, "")
    return tmp_path / "home"


async def put(
    node: LocalNode, seed: int, size: int = 2_000, *, pin: bool = True, cached: bool = False
) -> str:
    """Put a blob as the API does; return its CID."""

    async def chunks() -> AsyncIterator[bytes]:
        yield body_of(seed, size)

    options = PutOptions(pin=pin, cached=cached, size=size)
    node._space._looked_s = float("-inf")  # as if a quarter of a second had passed
    await node.admit_put(options)
    return str((await node.put_blob(chunks(), options)).cid)


async def put_until_it_is_full(node: LocalNode, seeds: Iterator[int]) -> None:
    for seed in seeds:
        await put(node, seed, 15 * MIB)


async def test_a_cached_blob_goes_within_half_an_hour_and_not_at_once(home: Path) -> None:
    clock = MovableClock()
    async with open_node(home, CONFIG, clock=clock) as node:
        for seed in range(12):
            await put(node, seed, cached=True)
        kept = await put(node, 100, pin=False)
        clock.forward(CACHE_LIFE_MIN_S - 60)
        assert await node._sweeper.sweep() == 0
        clock.forward((CACHE_LIFE_MAX_S - CACHE_LIFE_MIN_S) / 2)
        assert 0 < await node._sweeper.sweep() < 12, "they do not go all at once"
        clock.forward(CACHE_LIFE_MAX_S)
        await node._sweeper.sweep()
        assert await cids(node) == {kept}
    assert set(assert_no_orphans(home)) == {kept}


@pytest.mark.parametrize("how", ["put", "put and pin", "pin"])
async def test_what_is_put_or_pinned_is_cached_no_more(home: Path, how: str) -> None:
    clock = MovableClock()
    async with open_node(home, CONFIG, clock=clock) as node:
        cid = await put(node, 1, cached=True)
        if how == "pin":
            await node.pin_blob(Cid.parse(cid), pinned=True)
        else:
            await put(node, 1, pin=how == "put and pin")
        await put(node, 1, cached=True)  # that does not make it cached again
        clock.forward(86_400)
        assert await node._sweeper.sweep() == 0
        assert await cids(node) == {cid}
    assert len(assert_no_orphans(home)) == 1


@pytest.mark.parametrize("how", ["pin", "put"])
async def test_what_is_wanted_in_the_moment_of_its_going_stays(
    home: Path, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_node(home, CONFIG) as node:
        cid, gone = await put(node, 1, cached=True), await put(node, 2, cached=True)
        found = cache._cached(node.context)
        assert {str(bound.cid) for bound in found} == {cid, gone}
        if how == "pin":
            await node.pin_blob(Cid.parse(cid), pinned=True)
        else:
            await put(node, 1)
        monkeypatch.setattr(cache, "_cached", lambda _: found)
        assert await cache.evict(node.context, MIB) == 2_000
        assert await cids(node) == {cid}
        assert node.context.metrics.blob_count == 1
    assert set(assert_no_orphans(home)) == {cid}


@pytest.mark.parametrize("cached", [True, False])
async def test_a_put_that_mends_a_damaged_blob_wishes_for_no_less(home: Path, cached: bool) -> None:
    clock = MovableClock()
    async with open_node(home, CONFIG, clock=clock) as node:
        pinned = Cid.parse(await put(node, 1))
        loose = Cid.parse(await put(node, 2, pin=False))
        found = [node.context.catalog.bound(cid, node.context.now()) for cid in (pinned, loose)]
    for bound in found:
        assert bound is not None
        name = Kind.BLOCK, block_key(bound.row.object_id, WHOLE_SHARE, 0)
        places(Node(home))[name].flip_value(random.Random(1))
    async with open_node(home, CONFIG, clock=clock) as node:
        for seed in (1, 2):
            await put(node, seed, pin=False, cached=cached)
        assert (await node.blob_info(pinned)).pinned, "the pin went with the damage"
        clock.forward(86_400)
        assert await node._sweeper.sweep() == 0
        for seed, cid in ((1, pinned), (2, loose)):
            reader = await node.open_blob(cid)
            assert b"".join([it async for it in reader.read(0, 2_000)]) == body_of(seed, 2_000)
    assert set(assert_no_orphans(home)) == {str(pinned), str(loose)}


async def test_when_space_is_short_cached_blobs_go_and_nothing_else(home: Path) -> None:
    async with open_node(home, CONFIG) as node:
        kept = {await put(node, seed, 15 * MIB, pin=seed % 2 == 0) for seed in range(4)}
        cached = [await put(node, 10 + seed, 15 * MIB, cached=True) for seed in range(5)]
        kept.add(await put(node, 20, 40 * MIB))
        left = await cids(node)
        assert kept <= left
        assert len(left & set(cached)) < 5
        assert node.context.metrics.cache_evicted._value.get() > 0
        more = iter(range(30, 50))
        with pytest.raises(NoSpace):  # what is not cached makes no room
            await put_until_it_is_full(node, more)
        assert next(more) > 31
        assert kept <= await cids(node)
        assert not set(cached) & await cids(node)


async def test_a_removed_one_and_another_number_of_shards_leave_no_mark(home: Path) -> None:
    async with open_node(home, CONFIG) as node:
        gone, large = await put(node, 1, cached=True), await put(node, 2, 1_500_000, cached=True)
        await node.delete_blob(Cid.parse(gone))
    assert set(assert_no_orphans(home)) == {large}
    await anyio.to_thread.run_sync(
        lambda: migrate_home(home, CONFIG, shards=5, on_progress=lambda *_: None)
    )
    clock = MovableClock()
    async with open_node(home, CONFIG, clock=clock) as node:
        assert await cids(node) == {large}
        clock.forward(CACHE_LIFE_MAX_S)
        assert await node._sweeper.sweep() == 1
    assert assert_no_orphans(home) == {}
