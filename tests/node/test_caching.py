"""What was read from others is kept while there is room, given to the next reader, and let go."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from molia.base.cid import Cid
from molia.base.errors import BlobNotFound, Busy, ShardUnavailable
from molia.blobs.manifest import cid_of_bytes
from molia.node.app import open_node
from molia.node.caching import Cache
from molia.node.fetching import Fetcher
from molia.node.held import Held
from molia.store import keys
from molia.store.keys import Kind, Space
from molia.store.ops import Put, Transaction
from tests.blobs.remote import coded
from tests.node import inside
from tests.node.holders import CONFIG, Holder, World, world
from tests.node.process import body_of
from tests.node.test_fetching import PATIENT

BLOB = coded(2_621_440 + 300_000)
CID = BLOB.manifest.cid
SMALL = body_of(3, 60_000)
SMALL_CID = cid_of_bytes(SMALL)


@dataclass
class Member:
    """The part of a member that reading needs."""

    fetcher: Fetcher


@asynccontextmanager
async def caching(home: Path, percent: int = 10) -> AsyncIterator[World]:
    """Give a node that caches, and holders of both blobs."""
    config = replace(CONFIG, store=replace(CONFIG.store, cache_percent=percent))
    keepers = [Holder(n, BLOB, (n,) if n < 14 else (), whole=SMALL) for n in range(14)]
    async with world(home, keepers, config) as it:
        it.found[SMALL_CID] = it.found[CID]
        it.found[CID] = [each.provider for each in fourteen_of(it)]
        it.fetcher.cache, it.fetcher.patience = it.node.cache, PATIENT
        it.node.member = Member(it.fetcher)  # type: ignore[assignment]
        yield it


def fourteen_of(it: World) -> list[Holder]:
    """Return the same holders as they tell of their shares."""
    return [replace(holder, whole=None) for holder in it.holders.values()]


async def get(it: World, cid: Cid, **options: bool) -> bytes:
    """Read a blob as the API does."""
    reader = await it.node.open_blob(cid, **options)
    chunks, data = reader.read(0, reader.info.size), b""
    while len(data) < reader.info.size:
        data += await anext(chunks)
    await chunks.aclose()  # type: ignore[attr-defined]
    return data


until = partial(inside.until, otherwise="it did not come about", within_s=60.0)


def asked(it: World) -> int:
    """Return how many blocks were asked for."""
    return sum(len(holder.asked) for holder in it.holders.values())


def blocks(it: World) -> int:
    """Return how many blocks lie in the store."""
    now = it.node.context.now()
    shards = it.node.context.shards.shards
    return sum(len(shard.scan(Kind.BLOCK, b"", now=now, limit=1_000)) for shard in shards)


@pytest.mark.parametrize("cid", [CID, SMALL_CID])
async def test_what_was_read_once_is_here_and_in_no_listing(tmp_path: Path, cid: Cid) -> None:
    body = BLOB.data if cid == CID else SMALL
    async with caching(tmp_path / "home") as it:
        assert await get(it, cid) == body
        await until(lambda: it.node.cache.count == 1)
        before = asked(it)
        assert await get(it, cid) == body
        assert await get(it, cid, local_only=True) == body
        assert asked(it) == before
        page = await it.node.list_blobs(cursor=None, limit=10, state=None, pinned=None)
        assert page.blobs == ()
        with pytest.raises(BlobNotFound):
            await it.node.blob_info(cid)
        assert it.node.context.budget.used_bytes == 0
    async with open_node(tmp_path / "home", CONFIG) as node:  # it outlives the process
        reader = await node.open_blob(cid, local_only=True)
        assert b"".join([chunk async for chunk in reader.read(0, len(body))]) == body


async def test_a_part_is_not_kept_and_a_read_that_breaks_off_leaves_nothing(
    tmp_path: Path,
) -> None:
    async with caching(tmp_path / "home") as it:
        reader = await it.node.open_blob(CID)
        _ = [chunk async for chunk in reader.read(5, 70_000)]
        chunks = reader.read(0, reader.info.size)
        await anext(chunks)
        await chunks.aclose()  # type: ignore[attr-defined]
        await until(lambda: not it.node.cache._fillings and not it.node.cache._tasks)
        assert (it.node.cache.count, blocks(it)) == (0, 0)
        assert it.node.context.budget.used_bytes == 0


async def test_what_there_is_no_room_for_is_not_kept(tmp_path: Path) -> None:
    async with caching(tmp_path / "home", percent=0) as it:
        assert await get(it, CID) == BLOB.data
        assert await get(it, SMALL_CID) == SMALL
        assert (it.node.cache.count, it.node.cache._tasks, blocks(it)) == (0, set(), 0)


async def test_what_was_read_first_goes_first_when_room_is_wanted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with caching(tmp_path / "home") as it:
        cache = it.node.cache
        assert await get(it, CID) == BLOB.data
        await until(lambda: cache.count == 1)
        stamp = it.node.context.now().unix_s + 2
        monkeypatch.setattr(
            type(it.node.context.clock), "now",
            lambda _self, real=it.node.context.clock.now: real()._replace(unix_s=stamp),
        )  # fmt: skip
        assert await get(it, SMALL_CID) == SMALL
        await until(lambda: cache.count == 2)
        assert await cache.look() == 0
        monkeypatch.setattr(type(cache), "_limit_bytes", 100_000)
        assert await cache.look() == 1
        assert cache.bound(CID, it.node.context.now()) is None
        assert await get(it, SMALL_CID, local_only=True) == SMALL
        assert await cache.make_room(1) == len(SMALL)
        assert blocks(it) == 0
        for space in (Space.FETCHED, Space.LEASE, Space.UPLOAD):
            assert not rows(it, space)


def rows(it: World, space: Space) -> list[object]:
    """Return the rows of one kind."""
    now, shards = it.node.context.now(), it.node.context.shards.shards
    found = (shard.scan(Kind.META, bytes((space,)), now=now, limit=100) for shard in shards)
    return [row for some in found for row in some]


async def test_a_damaged_copy_is_let_go_and_the_read_goes_on_from_others(tmp_path: Path) -> None:
    async with caching(tmp_path / "home") as it:
        assert await get(it, CID) == BLOB.data
        await until(lambda: it.node.cache.count == 1)
        context = it.node.context
        bound = it.node.cache.bound(CID, context.now())
        assert bound is not None
        key = keys.block_key(bound.row.object_id, 2, 0)
        put = Put(Kind.BLOCK, key, bytes(262_144), overwrite=True)
        await context.shards.writer_of(Kind.BLOCK, key).write(Transaction((put,)))
        assert await get(it, CID) == BLOB.data
        assert it.node.cache.bound(CID, context.now()) is None or it.node.cache._fillings == {}
        assert await get(it, CID) == BLOB.data


async def test_two_readers_at_once_make_one_copy(tmp_path: Path) -> None:
    async with caching(tmp_path / "home") as it:
        got = await asyncio.gather(*(get(it, CID) for _ in range(3)))
        assert set(got) == {BLOB.data}
        await until(lambda: not it.node.cache._tasks)
        assert (it.node.cache.count, len(rows(it, Space.FETCHED))) == (1, 1)
        assert blocks(it) == 30, "two stripes without parity, and ten leaf lists"


async def test_a_copy_that_cannot_be_written_gives_its_memory_back_and_leaves_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with caching(tmp_path / "home") as it:
        context, cache = it.node.context, it.node.cache
        real, calls = context.objects.store, [0]

        async def store(*arguments: Any, **options: Any) -> None:
            calls[0] += 1
            if calls[0] == 2:
                raise Busy("shard 0 did not write in time")
            await real(*arguments, **options)

        monkeypatch.setattr(context.objects, "store", store)
        filling = cache.fill(BLOB.manifest)
        assert filling is not None
        for index in range(2):
            filling.take(index, [BLOB.blocks[share, index] for share in range(10)])
        await until(lambda: not cache._tasks)
        filling.take(2, [bytes(262_144)] * 10)  # the read goes on, whatever became of the copy
        filling.end(is_whole=True)
        assert calls[0] == 2
        assert context.budget.used_bytes == 0
        assert (cache.count, blocks(it), rows(it, Space.UPLOAD)) == (0, 0, [])


async def test_who_comes_too_late_to_let_go_of_a_copy_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two workers make room at once, and the first cannot remove all of the copy's blocks."""
    async with caching(tmp_path / "home") as it:
        context, cache = it.node.context, it.node.cache
        assert await get(it, CID) == BLOB.data
        assert await get(it, SMALL_CID) == SMALL
        await until(lambda: cache.count == 2)
        held = next(each for each in cache._all(False) if each.cid == CID)

        async def drop(_: object) -> None:
            raise Busy("shard 0 did not write in time")

        with monkeypatch.context() as patch:
            patch.setattr(context.objects, "drop", drop)
            with pytest.raises(Busy):
                await cache.evict(held)
        left = rows(it, Space.UPLOAD)
        assert len(left) == 1, "the next start finds what is left by it"
        assert await cache.evict(held) is False
        assert rows(it, Space.UPLOAD) == left
        await cache.look()
        assert (cache.count, cache.used_bytes) == (1, len(SMALL))
        assert await cache.make_room(len(SMALL)) == len(SMALL)
        assert (cache.count, cache.used_bytes) == (0, 0)


async def test_copies_that_are_being_written_count_as_well(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with caching(tmp_path / "home") as it:
        cache, other = it.node.cache, coded(2_700_000, seed=7).manifest
        monkeypatch.setattr(type(cache), "_limit_bytes", 5_000_000)
        first = cache.fill(BLOB.manifest)
        assert first is not None
        assert cache.fill(other) is None, "both together are more than the cache may take"
        first.end(is_whole=False)
        await until(lambda: not cache._tasks)
        second = cache.fill(other)
        assert second is not None
        second.end(is_whole=False)


async def test_what_cannot_be_let_go_keeps_nobody_from_reading_or_from_making_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The shard of one copy takes no writes: its disk fails, and damages what is there."""
    async with caching(tmp_path / "home") as it:
        context, cache = it.node.context, it.node.cache
        assert await get(it, CID) == BLOB.data
        assert await get(it, SMALL_CID) == SMALL
        await until(lambda: cache.count == 2)
        bound = cache.bound(CID, context.now())
        assert bound is not None
        await context.objects.store(bound.row.object_id, [(2, 0, bytes(9))], overwrite=True)
        real = type(cache).evict

        async def evict(self: Cache, held: Held) -> bool:
            if held.cid == CID:
                raise ShardUnavailable("shard 0 takes no writes")
            return await real(self, held)

        monkeypatch.setattr(Cache, "evict", evict)
        assert await get(it, CID) == BLOB.data
        assert await cache.make_room(len(SMALL)) == len(SMALL)
        monkeypatch.setattr(Cache, "_limit_bytes", 0)
        assert await cache.look() == 0
        assert cache.count == 1


async def test_a_disk_that_cannot_be_looked_at_has_no_room_and_ends_neither_read_nor_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def disk_usage(_: object) -> None:
        raise OSError(5, "Input/output error")

    async with caching(tmp_path / "home") as it:
        cache = it.node.cache
        with monkeypatch.context() as patch:
            patch.setattr(shutil, "disk_usage", disk_usage)
            cache._space._looked_s = float("-inf")
            assert await get(it, CID) == BLOB.data
            assert await cache.look() == 0  # as it does every half minute
        assert (cache.count, blocks(it)) == (0, 0)


async def test_when_its_part_is_full_what_was_read_first_makes_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with caching(tmp_path / "home") as it:
        cache, now = it.node.cache, it.node.context.now()
        assert await get(it, SMALL_CID) == SMALL
        await until(lambda: cache.count == 1)
        monkeypatch.setattr(type(cache), "_limit_bytes", len(BLOB.data) + len(SMALL) - 1)
        monkeypatch.setattr(
            type(it.node.context.clock), "now",
            lambda _self, real=it.node.context.clock.now: real()._replace(unix_s=now.unix_s + 2),
        )  # fmt: skip
        assert await get(it, CID) == BLOB.data
        await until(lambda: cache.count == 2)
        assert await cache.look() == 1
        assert cache.bound(CID, now) is not None
        assert cache.bound(SMALL_CID, now) is None
        assert (cache.count, cache.used_bytes) == (1, len(BLOB.data))
