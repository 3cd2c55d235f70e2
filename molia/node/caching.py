"""What was read from other nodes and is kept for the next reader, as long as there is room.

A cached blob has a FETCHED row on its home shard, and its blocks lie under an object as those of
any blob; of a large one the data shares, without parity. It is nobody's wish: no listing shows it,
no lease renews it, and what was read first goes first when the cache's part of the quota is full.
Only a blob that was read from its first byte to its last is kept.
Source: docs/reference/gathering.md, "Cache".
"""

import asyncio
from collections.abc import Coroutine, Iterator, Sequence
from typing import Any, Final

import anyio
import structlog

from molia.base import limits
from molia.base.cid import Cid
from molia.base.errors import Damaged, MoliaError
from molia.base.hashing import blake3_digest
from molia.base.ids import ObjectId, new_object_id
from molia.base.now import Now
from molia.blobs.manifest import Manifest
from molia.blobs.merkle import share_root
from molia.node.catalog import Bound
from molia.node.context import Context
from molia.node.held import Held
from molia.node.shards import ReadShard, keys_of
from molia.node.space import Space as DiskSpace
from molia.store import keys
from molia.store.keys import Kind, Space
from molia.store.ops import Delete, Guard, Put, Reply, Transaction
from molia.store.quota import QuotaMarks
from molia.store.rows import HeldRow, LeaseRow

log = structlog.get_logger(__name__)

LOOK_S: Final = 30.0
Stripe = tuple[int, Sequence[tuple[int, bytes]]]
"""A stripe's index, and its data blocks by share."""


class Cache:
    """The cache as one worker uses it; its rows are those of the whole node."""

    def __init__(self, context: Context, space: DiskSpace) -> None:
        self._context, self._space = context, space
        self._fillings: dict[Cid, Filling] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.used_bytes = self.count = 0
        """Of all workers, as they were at the last look, and what this one added since."""

    def bound(self, cid: Cid, now: Now) -> Bound | None:
        """Return a cached blob as `node.stored` takes it. Raises Damaged."""
        held = self._find(self._context.catalog.home(cid), cid, now)
        return None if held is None else held.bound

    # ------------------------------------------------------------------ filling

    def fill(self, manifest: Manifest) -> "Filling | None":
        """Return what takes the stripes of a blob as they are read; None: it is not to be kept."""
        cid = manifest.cid
        if cid in self._fillings or not self._has_room(manifest.size):
            return None
        filling = self._fillings[cid] = Filling(self._context, self, manifest)
        return filling

    def keep_whole(self, cid: Cid, data: bytes) -> None:
        """Keep a small blob, soon."""
        if self._has_room(len(data)) and len(self._tasks) < limits.CACHE_FILLS_MAX:
            self.spawn(self._keep_whole(cid, data))

    async def _keep_whole(self, cid: Cid, data: bytes) -> None:
        object_id = keys.small_object_id(cid, self._context.shards.count, self._context.entropy)
        block = Put(Kind.BLOCK, keys.block_key(object_id, keys.WHOLE_SHARE, 0), data)
        try:
            await self.bind(cid, object_id, len(data), b"", (keys.WHOLE_SHARE,), (block,))
        except MoliaError as error:
            log.debug("blob_not_cached", blob=cid.short, reason=str(error))

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        """Do something that no reader waits for."""
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def bind(
        self, cid: Cid, object_id: ObjectId, size: int, manifest: bytes, shares: tuple[int, ...],
        blocks: tuple[Put, ...] = (),
    ) -> bool:  # fmt: skip
        """Make a blob whose blocks are durable a cached one; False when it was cached meanwhile."""
        now = self._context.now()
        row = HeldRow(object_id, size, manifest, shares, int(now.unix_s))
        key = keys.fetched_key(cid)
        lease = Put(
            Kind.META, self._context.catalog.lease_key(object_id), LeaseRow(0).encode()
        )  # it says that the object is owned
        ops = (*blocks, Put(Kind.META, key, row.encode()), lease)
        change = Transaction(ops, Guard(Kind.META, key, None))
        if await self._context.home_writer(cid).write(change) is not Reply.APPLIED:
            return False
        self.used_bytes, self.count = self.used_bytes + size, self.count + 1
        self._context.metrics.fetches.labels("cached").inc()
        return True

    def forget_filling(self, cid: Cid) -> None:
        """Take that a blob is not being written any more."""
        self._fillings.pop(cid, None)

    def _has_room(self, size: int) -> bool:
        coming = size + sum(filling.size for filling in self._fillings.values())
        # what is there makes way at the next look: until then it is twice as much at most
        full = coming > self._limit_bytes or self.used_bytes + coming > 2 * self._limit_bytes
        full |= self.count >= 2 * limits.CACHED_MAX
        busy = len(self._fillings) >= limits.CACHE_FILLS_MAX
        return not full and not busy and not self._is_pressed(size)

    @property
    def _limit_bytes(self) -> int:
        return self._context.quota_bytes * self._context.config.store.cache_percent // 100

    def _is_pressed(self, size: int) -> bool:
        found = self._space.look(self._context)
        most = QuotaMarks(self._context.quota_bytes).press
        return found.used_bytes + size > most or found.free_bytes < size

    # ------------------------------------------------------------------ letting go

    async def run(self) -> None:
        """Let go what there is no room for, as long as the node lives."""
        try:
            while True:
                try:
                    await self.look()
                except MoliaError as error:
                    log.warning("cache_not_looked_at", reason=str(error))
                await anyio.sleep(LOOK_S)
        finally:
            for task in list(self._tasks):
                task.cancel()

    async def look(self) -> int:
        """Count what is cached, and let go what is too much; return how many blobs went."""
        run, gone = self._context.offload.run, 0
        rows = await run(self._all, False)  # noqa: FBT003 - `run` passes arguments by place
        self.used_bytes, self.count = sum(held.row.size for held in rows), len(rows)
        while self._too_much():
            own, before = await run(self._all, True), gone  # noqa: FBT003
            for held in sorted(own, key=lambda held: held.row.created_unix_s):
                if not self._too_much():
                    break
                gone += await self._let_go(held)
            if gone == before:
                break
        return gone

    def _too_much(self) -> bool:
        if self.used_bytes > self._limit_bytes or self.count > limits.CACHED_MAX:
            return True
        return self.count > 0 and self._is_pressed(0)

    async def make_room(self, size: int) -> int:
        """Let go of what was read first until so many bytes come back; return how many do."""
        freed = 0
        rows = await self._context.offload.run(self._all, False)  # noqa: FBT003
        for held in sorted(rows, key=lambda held: held.row.created_unix_s):
            if freed >= size:
                break
            if await self._let_go(held):
                freed += held.row.size
        return freed

    async def drop(self, cid: Cid) -> None:
        """Let go of a blob that turned out to be damaged."""
        home, now = self._context.catalog.home(cid), self._context.now()
        held = await self._context.offload.run(self._find, home, cid, now)
        if held is not None:
            await self._let_go(held)

    async def _let_go(self, held: Held) -> bool:
        """Do what `evict` does; False also when it cannot be done now."""
        if self._context.home_writer(held.cid).failure:
            return False
        try:
            return await self.evict(held)
        except MoliaError as error:  # of each that is tried: why is told where it happened
            log.debug("cached_blob_not_let_go", blob=held.cid.short, reason=str(error))
            return False

    async def evict(self, held: Held) -> bool:
        """Let go of a cached blob; False when that was done meanwhile."""
        objects, object_id = self._context.objects, held.row.object_id
        key = keys.fetched_key(held.cid)
        ops = [
            Delete(Kind.META, key),
            Delete(Kind.META, self._context.catalog.lease_key(object_id)),
        ]
        async with objects.alone(object_id):
            if not await self._context.offload.run(self._is_there, held):
                return False  # what is left of it has the UPLOAD row of who was first
            await objects.begin(object_id)
            change = Transaction(tuple(ops), Guard(Kind.META, key, held.encoded))
            removed = await self._context.home_writer(held.cid).write(change) is Reply.APPLIED
            await (objects.drop(object_id) if removed else objects.end(object_id))
        if removed:
            self._context.leaves.forget(object_id)
            self.used_bytes, self.count = self.used_bytes - held.row.size, self.count - 1
            self._context.metrics.fetches.labels("evicted").inc()
        return removed

    # ------------------------------------------------------------------ rows, in threads

    def _find(self, home: ReadShard, cid: Cid, now: Now) -> Held | None:
        encoded = home.get(Kind.META, keys.fetched_key(cid), now=now)
        return None if encoded is None else Held(cid, HeldRow.decode(encoded), encoded)

    def _is_there(self, held: Held) -> bool:
        found = self._find(self._context.catalog.home(held.cid), held.cid, self._context.now())
        return found is not None and found.encoded == held.encoded

    def _all(self, own_only: bool) -> list[Held]:  # noqa: FBT001 - see `look`
        own: list[ReadShard] = [writer.shard for writer in self._context.shards.own]
        shards = own if own_only else self._context.shards.shards
        return [held for shard in shards for held in self._rows_of(shard)]

    def _rows_of(self, shard: ReadShard) -> Iterator[Held]:
        now = self._context.now()
        for key in keys_of(shard, Kind.META, bytes((Space.FETCHED,)), now):
            try:
                held = self._find(shard, keys.split_blob_key(key), now)
            except (Damaged, ValueError):
                continue
            if held is not None:
                yield held


class Filling:
    """A blob that is written to the cache while it is read; the reader never waits for it."""

    def __init__(self, context: Context, cache: Cache, manifest: Manifest) -> None:
        self._context, self._cache, self._manifest = context, cache, manifest
        self._object_id = new_object_id(context.entropy)
        self._leaves = [bytearray() for _ in range(limits.DATA_SHARES)]
        self._queue: asyncio.Queue[Stripe | None] = asyncio.Queue()
        self._drawn = 0
        """Bytes of stripes in memory, drawn from what all requests share."""
        self._is_lost = False
        cache.spawn(self._run())

    @property
    def size(self) -> int:
        """Bytes of the blob."""
        return self._manifest.size

    def take(self, stripe_index: int, chunks: Sequence[bytes]) -> None:
        """Take the next stripe: its data blocks, without the empty ones. All, and in order."""
        size = sum(map(len, chunks))
        if (
            self._is_lost
            or self._queue.qsize() >= limits.CACHE_FILL_STRIPES_MAX
            or not self._context.budget.draw_nowait(size)
        ):
            self._is_lost = True  # the disk is slower than the network: it is not worth it
            return
        self._drawn += size
        self._queue.put_nowait((stripe_index, tuple(enumerate(chunks))))

    def end(self, *, is_whole: bool) -> None:
        """Take that the read is over."""
        self._is_lost |= not is_whole
        self._queue.put_nowait(None)

    async def _run(self) -> None:
        cid = self._manifest.cid
        try:
            if not await self._keep():
                await self._context.objects.abandon(self._object_id)
        except MoliaError as error:  # the UPLOAD row stays: the next start sweeps
            log.warning("cached_blob_left_behind", blob=cid.short, reason=str(error))
        finally:
            self._is_lost = True  # nothing is drawn any more that nobody would give back
            self._cache.forget_filling(cid)
            self._release(self._drawn)

    async def _keep(self) -> bool:
        """Store what comes and make it a cached blob; False when it does not become one."""
        try:
            await self._context.objects.begin(self._object_id)
            while (item := await self._queue.get()) is not None:
                if not self._is_lost:
                    await self._store(*item)
                self._release(sum(len(block) for _, block in item[1]))
            return not self._is_lost and await self._bind()
        except MoliaError as error:
            self._is_lost = True
            log.debug("blob_not_cached", blob=self._manifest.cid.short, reason=str(error))
            return False

    def _release(self, size: int) -> None:
        self._drawn -= size
        self._context.budget.release(size)

    async def _store(self, stripe_index: int, blocks: Sequence[tuple[int, bytes]]) -> None:
        digests = await self._context.offload.run(_digests, [block for _, block in blocks])
        for share, digest in enumerate(digests):
            self._leaves[share] += digest
        await self._context.objects.store(
            self._object_id, [(share, stripe_index, block) for share, block in blocks]
        )

    async def _bind(self) -> bool:
        """Store the leaf lists and make the blob a cached one; False when it cannot be one."""
        roots = self._manifest.roots[: limits.DATA_SHARES]
        if [share_root(leaves) for leaves in self._leaves] != list(roots):
            return False
        lists = [
            (share, keys.LEAVES_STRIPE, bytes(leaves)) for share, leaves in enumerate(self._leaves)
        ]
        objects, object_id, manifest = self._context.objects, self._object_id, self._manifest
        await objects.store(object_id, lists)
        async with objects.alone(object_id):
            is_bound = await self._cache.bind(
                manifest.cid, object_id, manifest.size, manifest.encode(),
                tuple(range(limits.DATA_SHARES)),
            )  # fmt: skip
            if is_bound:
                await objects.end(object_id)
        return is_bound


def _digests(blocks: Sequence[bytes]) -> list[bytes]:
    """Return the leaves of all data blocks of a stripe, those that are empty included."""
    found = [blake3_digest(block) for block in blocks]
    return found + [blake3_digest(b"")] * (limits.DATA_SHARES - len(found))
