"""An object's life on the shards: begun by an UPLOAD row, owned by a blob once bound, or swept.

An UPLOAD row says "these blocks belong to nobody yet, or to nobody any more": it is written before
the first block of a large blob and again before a blob's rows go, and it goes last. Whatever a
crash leaves behind it is found by its row at the next start.

Who binds, mends or removes an object has it `alone` meanwhile: else one would take away the row
that another relies on, or store blocks that nobody deletes.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Final

import anyio
import structlog

from molia.base import limits
from molia.base.errors import Damaged
from molia.base.ids import ObjectId
from molia.base.now import Now
from molia.node.catalog import Catalog
from molia.node.offload import Offload
from molia.node.range_locks import RangeLocks
from molia.node.shards import AnyWriter, ShardSet, keys_of
from molia.node.system import SystemClock
from molia.node.team import Seat
from molia.store import keys
from molia.store.disk import Buffer
from molia.store.keys import Kind
from molia.store.rows import UploadRow
from molia.store.shard import Delete, Put, Transaction

log = structlog.get_logger(__name__)

DELETE_SLICE: Final = 512


class Objects:
    """Blocks by object."""

    def __init__(
        self,
        shards: ShardSet,
        catalog: Catalog,
        offload: Offload,
        clock: SystemClock,
        seat: Seat,
        locks: RangeLocks | None,
    ) -> None:
        """locks: held against other processes; None when there are none."""
        self._shards, self._catalog, self._offload = shards, catalog, offload
        self._clock, self._seat, self._locks = clock, seat, locks
        self._held: dict[ObjectId, tuple[anyio.Lock, int]] = {}

    @asynccontextmanager
    async def alone(self, object_id: ObjectId) -> AsyncIterator[None]:
        """Let nobody else bind, mend or remove the object until the block ends."""
        lock, users = self._held.get(object_id) or (anyio.Lock(), 0)
        self._held[object_id] = (lock, users + 1)
        try:
            async with lock:
                if self._locks is None:
                    yield
                else:
                    async with self._locks.hold(object_id):
                        yield
        finally:
            _, users = self._held[object_id]
            if users > 1:
                self._held[object_id] = (lock, users - 1)
            else:
                del self._held[object_id]

    async def is_bound(self, object_id: ObjectId) -> bool:
        """Tell whether some blob owns the object."""
        return await self._offload.run(self._catalog.is_bound, object_id, self._clock.now())

    async def begin(self, object_id: ObjectId) -> None:
        """Return once a crash from now on would not leave the object's blocks behind."""
        key = keys.upload_key(object_id)
        row = UploadRow(self._seat.epoch).encode()
        await self._shards.writer_of(Kind.META, key).write(Transaction((Put(Kind.META, key, row),)))

    async def end(self, object_id: ObjectId) -> None:
        """Forget the UPLOAD row: the object is owned, or gone."""
        key = keys.upload_key(object_id)
        await self._shards.writer_of(Kind.META, key).write(Transaction((Delete(Kind.META, key),)))

    async def store(
        self,
        object_id: ObjectId,
        blocks: Iterable[tuple[int, int, Buffer]],
        *,
        overwrite: bool = False,
    ) -> None:
        """Store (share, stripe, bytes) blocks; return when all are durable."""
        by_shard: dict[int, list[Put]] = {}
        for share, stripe, data in blocks:
            key = keys.block_key(object_id, share, stripe)
            index = keys.shard_of(Kind.BLOCK, key, self._shards.count)
            put = Put(Kind.BLOCK, key, data, overwrite=overwrite)
            by_shard.setdefault(index, []).append(put)
        await self._shards.write_all({index: _cut(puts) for index, puts in by_shard.items()})

    async def drop(self, object_id: ObjectId) -> None:
        """Delete all blocks of an object that nobody owns, then its UPLOAD row.

        While a shard takes no writes the row stays: some blocks may lie there, even some that were
        never acknowledged, and the next start looks for them.
        """
        await self._shards.settle()  # a cancelled write may still be under way
        for writer in self._shards.writers:
            if not writer.failure:
                await self._delete_blocks(writer, bytes(object_id))
        if any(writer.failure for writer in self._shards.writers):
            log.warning("object_left_behind", reason="a shard takes no writes")
        else:
            await self.end(object_id)

    async def begin_share(self, object_id: ObjectId, share: int) -> None:
        """As `begin`, of one share of an object that may have others."""
        key = keys.coming_key(object_id, share)
        row = UploadRow(self._seat.epoch).encode()
        await self._shards.writer_of(Kind.META, key).write(Transaction((Put(Kind.META, key, row),)))

    async def end_share(self, object_id: ObjectId, share: int) -> None:
        """As `end`, of one share."""
        key = keys.coming_key(object_id, share)
        await self._shards.writer_of(Kind.META, key).write(Transaction((Delete(Kind.META, key),)))

    async def drop_share(self, object_id: ObjectId, share: int) -> None:
        """As `drop`, of one share that is not kept: all its blocks lie on one shard."""
        writer = self._shards.writer_of(Kind.BLOCK, keys.block_key(object_id, share, 0))
        await writer.settle()
        if writer.failure:
            log.warning("share_left_behind", reason="a shard takes no writes")
            return
        await self._delete_blocks(writer, bytes(object_id) + share.to_bytes(2))
        await self.end_share(object_id, share)

    async def _delete_blocks(self, writer: AnyWriter, prefix: bytes) -> None:
        after = b""
        while True:
            rows = await self._offload.run(
                writer.shard.scan,
                Kind.BLOCK,
                prefix,
                now=self._clock.now(),
                after=after,
                limit=DELETE_SLICE,
            )
            if rows:
                await writer.write(Transaction(tuple(Delete(Kind.BLOCK, row.key) for row in rows)))
                after = rows[-1].key
            if len(rows) < DELETE_SLICE:
                return

    async def abandon(self, object_id: ObjectId) -> None:
        """Drop the object of an upload that failed, unless it was bound after all.

        A write whose caller was told that it took too long may still be done.
        """
        async with self.alone(object_id):
            await self._shards.settle()
            bound = await self.is_bound(object_id)
            await (self.end(object_id) if bound else self.drop(object_id))

    async def sweep_unfinished(self) -> int:
        """Delete what uploads and deletions of an earlier run left; return how many objects."""
        swept = 0
        for object_id, share in await self._offload.run(self._left_behind, self._clock.now()):
            async with self.alone(object_id):
                if not await self._offload.run(self._is_still_left, object_id, share):
                    continue  # another worker has begun it anew
                if share is not None:
                    is_kept = await self._offload.run(self._is_kept, object_id, share)
                    await (self.end_share if is_kept else self.drop_share)(object_id, share)
                    swept += not is_kept
                elif await self.is_bound(object_id):
                    await self.end(object_id)
                else:
                    await self.drop(object_id)
                    swept += 1
        return swept

    def _is_kept(self, object_id: ObjectId, share: int) -> bool:
        """Tell whether a share is complete: its SHARE row came with the row that says so."""
        key, now = keys.share_key(object_id, share), self._clock.now()
        shards = self._shards.shards
        return any(shard.size_of(Kind.META, key, now=now) is not None for shard in shards)

    def _is_still_left(self, object_id: ObjectId, share: int | None) -> bool:
        """Tell whether an UPLOAD row still is one that this worker is to sweep."""
        key = keys.upload_key(object_id)
        if share is not None:
            key = keys.coming_key(object_id, share)
        index = keys.shard_of(Kind.META, key, self._shards.count)
        value = self._shards.shards[index].get(Kind.META, key, now=self._clock.now())
        return value is not None and self._seat.left_behind(
            UploadRow.decode(value).epoch, on_own_shard=self._seat.owns(index)
        )

    def _left_behind(self, now: Now) -> Sequence[tuple[ObjectId, int | None]]:
        prefix = bytes((keys.Space.UPLOAD,))
        found = []
        for index, shard in enumerate(self._shards.shards):
            for key in keys_of(shard, Kind.META, prefix, now):
                try:
                    value = shard.get(Kind.META, key, now=now)
                    epoch = None if value is None else UploadRow.decode(value).epoch
                except Damaged:
                    log.warning("upload_row_unreadable", shard_index=index)
                    continue  # whose it is cannot be told; the others go
                if epoch is not None and self._seat.left_behind(
                    epoch, on_own_shard=self._seat.owns(index)
                ):
                    found.append(keys.split_upload_key(key))
        return found


def _cut(puts: Sequence[Put]) -> list[Transaction]:
    """Return transactions that another worker takes too: leaf lists of a large blob are long."""
    parts: list[list[Put]] = [[]]
    size_bytes = 0
    for put in puts:
        size_bytes += len(put.value)
        if parts[-1] and size_bytes > limits.BATCH_BYTES_MAX:
            parts.append([])
            size_bytes = len(put.value)
        parts[-1].append(put)
    return [Transaction(tuple(part)) for part in parts]
