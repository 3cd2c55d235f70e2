"""What a scrub finds on the disk is healed without anybody reading it."""

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from molia.base.cid import Cid
from molia.base.config import Config, StoreConfig
from molia.base.errors import NoSpace, ShuttingDown
from molia.base.ids import ObjectId, new_job_id
from molia.base.views import JobState
from molia.blobs.geometry import StripeShape
from molia.blobs.verify import VerifyReport
from molia.node.app import open_node
from molia.node.check import check_blob
from molia.node.home import init_home
from molia.node.jobs import Job, JobRun
from molia.node.local import LocalNode
from molia.node.verify import run_verify
from molia.store import keys
from molia.store.index import ENTRY, TAGS, Slice
from molia.store.keys import LEAVES_STRIPE, Kind
from molia.store.rows import UploadRow
from molia.store.shard import Put, Reply, Shard, Transaction
from tests.node.damage import places
from tests.node.inside import ended
from tests.node.process import Node, body_of
from tests.node.test_leases import DAY_S, MovableClock, put

CONFIG = Config(store=StoreConfig(shards=2, quota_bytes=1 << 30, reserve_bytes=0))
SIZE = 3_000_000


async def scrub(node: LocalNode) -> int:
    """Scrub all shards to the end, a month later, and heal what was found."""

    def run(shard: Shard) -> int:
        now, before = node.context.now().after(31 * 86_400.0), shard.stats().counters.scrubs
        for _ in range(100_000):
            if shard.stats().counters.scrubs > before:
                return 0
            now = now.after(1.0)
            shard.work(now, idle=True)
        raise AssertionError("the scrub never ends")

    for writer in node.context.shards.own:
        await writer.call(run)
    return await node._scrub_watch.look()


async def body(node: LocalNode, cid: Cid) -> bytes:
    """Return all of a blob."""
    reader = await node.open_blob(cid)
    return b"".join([bytes(piece) async for piece in reader.read(0, reader.info.size)])


async def object_of(home: Path) -> tuple[Cid, ObjectId]:
    """Make a home with one large blob, stopped."""
    init_home(home, CONFIG, "")
    async with open_node(home, CONFIG) as node:
        cid = Cid.parse(await put(node, 1, SIZE, pin=True))
        bound = node.context.catalog.bound(cid, node.context.now())
        assert bound is not None
        return cid, bound.row.object_id


async def test_rot_of_blocks_lists_and_rows_is_healed_by_a_scrub(tmp_path: Path) -> None:
    home = tmp_path / "home"
    cid, object_id = await object_of(home)
    where, rng = places(Node(home)), random.Random(4)
    struck = [
        (Kind.BLOCK, keys.block_key(object_id, 3, 0)),
        (Kind.BLOCK, keys.block_key(object_id, 5, LEAVES_STRIPE)),
        (Kind.META, keys.pin_key(cid)),
    ]
    for name in struck:
        where[name].flip_value(rng)
    async with open_node(home, CONFIG) as node:
        assert await scrub(node) == len(struck)
        for _ in range(200):
            if not node._healer._waiting:
                break
            await node._healer._run_queue()
        assert node.context.metrics.blocks_healed._value.get() > 0
        assert await body(node, cid) == body_of(1, SIZE)
        assert await node._scrub_watch.look() == 0
    async with open_node(home, CONFIG) as node:
        for kind, key in struck:
            shards = node.context.shards.shards
            values = [shard.get(kind, key, now=node.context.now()) for shard in shards]
            assert len([value for value in values if value is not None]) == 1


async def test_what_a_scrub_found_and_a_full_disk_keeps_from_being_healed_is_healed_later(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    cid, object_id = await object_of(home)
    block, where = keys.block_key(object_id, 3, 0), places(Node(home))
    for name in ((Kind.BLOCK, block), (Kind.META, keys.pin_key(cid))):
        where[name].flip_value(random.Random(4))
    async with open_node(home, CONFIG) as node:

        async def is_full(transaction: Transaction) -> Reply:
            raise NoSpace("the disk is full")

        writers = node.context.shards.own
        writes = [writer.write for writer in writers]
        for writer in writers:
            writer.write = is_full  # type: ignore[method-assign]
        assert await scrub(node) == 2
        for writer, write in zip(writers, writes, strict=True):
            writer.write = write  # type: ignore[method-assign]
        await node._scrub_watch.look()
        async with asyncio.timeout(60):
            while not node.context.metrics.blocks_healed._value.get():
                await asyncio.sleep(0.02)
        assert await node._scrub_watch.look() == 0


async def test_a_wrong_entry_of_the_index_is_mended_by_a_scrub(tmp_path: Path) -> None:
    home = tmp_path / "home"
    cid, object_id = await object_of(home)
    key = keys.block_key(object_id, 3, 0)
    index = keys.shard_of(Kind.BLOCK, key, 2)
    async with open_node(home, CONFIG) as node:
        shard = node.context.shards.own[index].shard
        packed = shard._index.get(TAGS[Kind.BLOCK] + key)
        assert packed is not None
        segment, offset, *rest = ENTRY.unpack(packed)
        wrong = ENTRY.pack(segment, offset + 64, *rest)
        shard._index.write_slice(Slice([(TAGS[Kind.BLOCK] + key, wrong)], shard._rows, force=True))
        assert await scrub(node) >= 1
        assert shard._index.get(TAGS[Kind.BLOCK] + key) == packed
        assert await body(node, cid) == body_of(1, SIZE)


async def test_a_month_after_the_last_look_each_blob_is_read_against_its_cid(
    tmp_path: Path,
) -> None:
    """Also where no checksum is wrong: the store was given wrong bytes, say."""
    home, clock = tmp_path / "home", MovableClock()
    init_home(home, CONFIG, "")
    async with open_node(home, CONFIG, clock=clock) as node:
        scrub = node._content_scrub
        large = Cid.parse(await put(node, 1, SIZE, pin=True))
        small = Cid.parse(await put(node, 2, 2_000, pin=True))
        clock.forward(26 * DAY_S)
        young = Cid.parse(await put(node, 3, 2_000, pin=True))
        assert await scrub.look() == 0
        await replace_block(node, large, share=3, stripe=0)
        await replace_block(node, small, share=keys.WHOLE_SHARE, stripe=0)
        clock.forward(4 * DAY_S)
        assert await scrub.look() == 2
        assert await body(node, large) == body_of(1, SIZE)
        health = [await node.blob_health(cid) for cid in (large, small, young)]
        assert [one.state for one in health] == ["healthy", "lost", "healthy"]
        assert [bool(one.shares[0].last_verified_unix_s) for one in health] == [True, True, False]
        assert node.context.metrics.blocks_healed._value.get() == 1
        assert await scrub.look() == 0, "what was looked at waits for another month"
        clock.forward(31 * DAY_S)
        assert await scrub.look() == 3


async def test_a_damaged_row_of_what_an_earlier_look_found_is_as_good_as_none(
    tmp_path: Path,
) -> None:
    home, clock = tmp_path / "home", MovableClock()
    init_home(home, CONFIG, "")
    async with open_node(home, CONFIG, clock=clock) as node:
        struck, other = [Cid.parse(await put(node, seed, 2_000, pin=True)) for seed in (1, 2)]
        clock.forward(31 * DAY_S)
        assert await node._content_scrub.look() == 2
        bound = node.context.catalog.bound(struck, node.context.now())
        assert bound is not None
    key = keys.share_key(bound.row.object_id, keys.WHOLE_SHARE)
    places(Node(home))[Kind.META, key].flip_value(random.Random(4))
    clock.forward(31 * DAY_S)
    async with open_node(home, CONFIG, clock=clock) as node:
        assert (await node.blob_health(struck)).state == "healthy"
        assert await node._content_scrub.look() == 2
        for cid in (struck, other):
            assert (await node.blob_health(cid)).shares[0].last_verified_unix_s


async def test_a_blob_that_is_deleted_while_it_is_read_is_not_damaged(tmp_path: Path) -> None:
    home = tmp_path / "home"
    init_home(home, CONFIG, "")
    async with open_node(home, CONFIG) as node:
        context = node.context
        cid = Cid.parse(await put(node, 1, SIZE))
        bound = context.catalog.bound(cid, context.now())
        assert bound is not None

        async def delete(shape: StripeShape, _: VerifyReport) -> None:
            if shape.index == 0:
                await node.delete_blob(cid)

        with capture_logs() as told:
            await check_blob(context, bound, VerifyReport(), delete)
            await node._healer._heal(bound, 1)
        assert context.metrics.blocks_damaged._value.get() == 0
        assert "stripe_lost" not in [line["event"] for line in told]


async def test_a_verify_job_that_goes_on_within_a_blob_counts_once_and_forgets_nothing(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"
    init_home(home, CONFIG, "")
    async with open_node(home, CONFIG) as node:
        await put(node, 1, SIZE)
        await asyncio.sleep(0.01)  # the newest is looked at first
        small = Cid.parse(await put(node, 2, 2_000))
        await replace_block(node, small, share=keys.WHOLE_SHARE, stripe=0)
        job = Job(
            id=new_job_id(node.context.entropy), kind="verify", arguments={},
            state=JobState.RUNNING, created_unix_ms=1, updated_unix_ms=1,
        )  # fmt: skip

        class CutOff(JobRun):
            async def checkpoint(self, cursor: dict[str, Any]) -> None:
                await super().checkpoint(cursor)
                if "cid" in cursor:
                    raise ShuttingDown("a stripe was read")

        with pytest.raises(ShuttingDown):
            await run_verify(CutOff(node._jobs, job))
        await run_verify(JobRun(node._jobs, job))
        counts = [job.progress[name] for name in ("blobs", "bytes", "damaged")]
        assert counts == [2, SIZE + 2_000, 1]
        assert (await node.blob_health(small)).state == "lost"


async def test_a_blob_that_is_verified_by_name_gets_its_damaged_row_back(tmp_path: Path) -> None:
    home, sizes = tmp_path / "home", (2_000, SIZE)
    init_home(home, CONFIG, "")
    async with open_node(home, CONFIG) as node:
        cids = [Cid.parse(await put(node, seed, size)) for seed, size in enumerate(sizes)]
    where = places(Node(home))
    for cid in cids:
        where[Kind.META, keys.bind_key(cid)].flip_value(random.Random(4))
    async with open_node(home, CONFIG) as node:
        for rows in (len(cids), 0):
            view = await ended(node, (await node.start_verify(cids)).id)
            counts = [view.progress[name] for name in ("blobs", "damaged", "healed")]
            assert (view.state, counts) == ("done", [len(cids), rows, rows])


async def replace_block(node: LocalNode, cid: Cid, *, share: int, stripe: int) -> None:
    """Store other bytes in place of a block, with checksums that are right."""
    bound = node.context.catalog.bound(cid, node.context.now())
    assert bound is not None
    key = keys.block_key(bound.row.object_id, share, stripe)
    size = node.context.shards.shard_of(Kind.BLOCK, key).size_of(
        Kind.BLOCK, key, now=node.context.now()
    )
    change = Transaction((Put(Kind.BLOCK, key, bytes(size or 0), overwrite=True),))
    await node.context.shards.writer_of(Kind.BLOCK, key).write(change)


async def test_what_cannot_be_healed_for_want_of_space_is_healed_later(tmp_path: Path) -> None:
    init_home(tmp_path / "home", CONFIG, "")
    async with open_node(tmp_path / "home", CONFIG) as node:
        cid = Cid.parse(await put(node, 5, SIZE, pin=True))
        bound = node.context.catalog.bound(cid, node.context.now())
        assert bound is not None
        healer, healed = node._healer, list[int]()

        async def heal(_: object, stripe_index: int) -> None:
            if not healed:
                healed.append(-1)
                raise NoSpace("the disk is full")
            healed.append(stripe_index)

        healer._heal = heal  # type: ignore[method-assign,assignment]
        for stripe in (0, 1):
            healer._waiting[cid, stripe] = bound
        with pytest.raises(NoSpace):
            await healer._run_queue()
        await healer._run_queue()
        assert healed == [-1, 1, 0]
        assert not healer._waiting


async def test_a_damaged_row_of_an_upload_leaves_the_others_to_be_swept(tmp_path: Path) -> None:
    init_home(tmp_path / "home", CONFIG, "")
    async with open_node(tmp_path / "home", CONFIG) as node:
        objects, shards = node.context.objects, node.context.shards
        for number, row in ((1, b"rot"), (2, UploadRow(1).encode())):
            object_id = ObjectId(bytes((number,)) * 16)
            await objects.store(object_id, [(0, 0, b"left by an earlier run")])
            key = keys.upload_key(object_id)
            change = Transaction((Put(Kind.META, key, row),))
            await shards.writer_of(Kind.META, key).write(change)
        assert await objects.sweep_unfinished() == 1
