"""Removed blobs that can be brought back for `store.trash_s` seconds: what a delete leaves of them.

A blob in the trash does not exist: its BIND row is gone. Its blocks and its lease stay, so nothing
else takes its object for one that nobody owns. All its rows lie on its home shard.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

import structlog

from molia.base import limits
from molia.base.cid import Cid, Codec
from molia.base.errors import BlobNotFound, Conflict, Damaged
from molia.base.now import Now
from molia.node.catalog import Bound, Catalog
from molia.node.context import Context
from molia.node.shards import ReadShard, keys_of
from molia.store import keys
from molia.store.keys import Kind, Space
from molia.store.rows import AliasRow, BindRow, LeaseRow, PinRow, TrashRow
from molia.store.shard import Delete, Guard, Put, Reply, Transaction

log = structlog.get_logger(__name__)

PURGES_MAX: Final = 1_000
"""Blobs that one pass ends; the next pass does the rest."""


@dataclass(frozen=True, slots=True)
class Trashed:
    """A blob in the trash."""

    cid: Cid
    key: bytes
    encoded: bytes
    """Its TRASH row as stored, for guards."""
    row: TrashRow
    bind: BindRow


# ---------------------------------------------------------------------------- transactions


def trash(catalog: Catalog, bound: Bound, until_unix_s: int) -> Transaction:
    """Return what moves a blob to the trash; refused when it has changed meanwhile."""
    row, cid = bound.row, bound.cid
    gone = [
        keys.bind_key(cid), keys.pin_key(cid), keys.cached_key(cid),
        keys.listing_key(row.created_unix_ms, cid),
    ]  # fmt: skip
    if cid.codec is Codec.MANIFEST:
        gone.append(keys.alias_key(row.content))
    ops: list[Put | Delete] = [Delete(Kind.META, key) for key in gone]
    kept = TrashRow(bound.encoded, bound.pinned, until_unix_s)
    ops.append(Put(Kind.META, keys.trash_key(cid, row.object_id), kept.encode()))
    lease = LeaseRow(until_unix_s).encode()
    ops.append(Put(Kind.META, catalog.lease_key(row.object_id), lease))
    return Transaction(tuple(ops), Guard(Kind.META, keys.bind_key(cid), bound.encoded))


def bring_back(catalog: Catalog, trashed: Trashed, *, lease_s: int, now: Now) -> Transaction:
    """Return what makes the blob exist again; refused when it does already."""
    row, cid = trashed.bind, trashed.cid
    lease = LeaseRow(row.expires_unix_s or int(now.unix_s) + lease_s).encode()
    ops: list[Put | Delete] = [
        Put(Kind.META, keys.bind_key(cid), trashed.row.bind),
        Put(Kind.META, keys.listing_key(row.created_unix_ms, cid), trashed.row.bind),
        Put(Kind.META, catalog.lease_key(row.object_id), lease),
        Delete(Kind.META, trashed.key),
    ]
    if cid.codec is Codec.MANIFEST:
        ops.append(Put(Kind.META, keys.alias_key(row.content), AliasRow(cid).encode()))
    if trashed.row.pinned:
        ops.append(Put(Kind.META, keys.pin_key(cid), PinRow(int(now.unix_s)).encode()))
    return Transaction(tuple(ops), Guard(Kind.META, keys.bind_key(cid), None))


def purge(catalog: Catalog, trashed: Trashed) -> Transaction:
    """Return what ends a blob in the trash for good; refused when it was brought back."""
    object_id = trashed.bind.object_id
    is_raw = trashed.cid.codec is Codec.RAW
    shares = (keys.WHOLE_SHARE,) if is_raw else range(limits.TOTAL_SHARES)
    gone = [
        trashed.key,
        catalog.lease_key(object_id),
        *(keys.share_key(object_id, share) for share in shares),
    ]
    ops: list[Put | Delete] = [Delete(Kind.META, key) for key in gone]
    if is_raw:
        ops.append(Delete(Kind.BLOCK, keys.block_key(object_id, keys.WHOLE_SHARE, 0)))
    return Transaction(tuple(ops), Guard(Kind.META, trashed.key, trashed.encoded))


# ---------------------------------------------------------------------------- reading


def find_trashed(catalog: Catalog, cid: Cid, now: Now) -> Trashed | None:
    """Return the blob of a CID that was removed last and can be brought back, or None."""
    prefix = bytes((Space.TRASH, cid.codec)) + cid.digest
    found = list(_read(catalog.home(cid), prefix, now, limit=limits.LIST_LIMIT_MAX))
    return max(found, key=lambda trashed: trashed.row.until_unix_s, default=None)


def list_trash(shards: list[ReadShard], now: Now) -> list[Trashed]:
    """Return the blobs that can be brought back, some thousand of each shard at most."""
    prefix = bytes((Space.TRASH,))
    return [
        trashed
        for shard in shards
        for trashed in _read(shard, prefix, now, limit=limits.LIST_LIMIT_MAX)
        if trashed.row.until_unix_s > now.unix_s
    ]


def overdue(shards: list[ReadShard], now: Now) -> list[Trashed]:
    """Return blobs whose time in the trash is over, some thousand at most."""
    found: list[Trashed] = []
    for shard in shards:
        for trashed in _read(shard, bytes((Space.TRASH,)), now, limit=None):
            if trashed.row.until_unix_s <= now.unix_s:
                found.append(trashed)
            if len(found) >= PURGES_MAX:
                return found
    return found


def _read(shard: ReadShard, prefix: bytes, now: Now, *, limit: int | None) -> Iterator[Trashed]:
    for key in islice(keys_of(shard, Kind.META, prefix, now), limit):
        try:
            encoded = shard.get(Kind.META, key, now=now)
            if encoded is None:
                continue
            cid, _ = keys.split_trash_key(key)
            kept = TrashRow.decode(encoded)
            yield Trashed(cid, key, encoded, kept, BindRow.decode(kept.bind))
        except (Damaged, ValueError):
            continue  # `verify` reports it


# ---------------------------------------------------------------------------- doing


async def trash_bound(context: Context, bound: Bound) -> bool:
    """Move a blob to the trash; False when it changed in the meantime."""
    until = int(context.now().unix_s) + context.config.store.trash_s
    async with context.objects.alone(bound.row.object_id):
        change = trash(context.catalog, bound, until)
        done = await context.home_writer(bound.cid).write(change) is Reply.APPLIED
    if done:
        context.count_blobs(bound.cid, -1)
        context.note_blob(bound.cid)
    return done


async def undelete(context: Context, cid: Cid) -> Bound:
    """Bring a removed blob back. Raises BlobNotFound, and Conflict when it exists again."""
    now, catalog = context.now(), context.catalog
    trashed = await context.offload.run(find_trashed, catalog, cid, now)
    if trashed is None:
        raise BlobNotFound(cid)
    async with context.objects.alone(trashed.bind.object_id):
        # it may have been ended while we waited
        still = await context.offload.run(find_trashed, catalog, cid, now)
        if still is None or still.key != trashed.key:
            raise BlobNotFound(cid)
        change = bring_back(catalog, still, lease_s=context.config.leases.default_s, now=now)
        if await context.home_writer(cid).write(change) is not Reply.APPLIED:
            raise Conflict(f"{cid} was put again since it was removed")
    context.count_blobs(cid, +1)
    context.note_blob(cid)
    log.info("blob_undeleted", blob=cid.short, size_bytes=trashed.bind.size)
    return Bound(cid, still.bind, still.row.bind, still.row.pinned)


async def empty_trash(context: Context, *, dry_run: bool = False) -> list[Trashed]:
    """End blobs of this worker's shards whose time in the trash is over; return them."""
    own: list[ReadShard] = [writer.shard for writer in context.shards.own]
    found = await context.offload.run(overdue, own, context.now())
    return [trashed for trashed in found if dry_run or await _end(context, trashed)]


async def _end(context: Context, trashed: Trashed) -> bool:
    objects, object_id = context.objects, trashed.bind.object_id
    writer, change = context.home_writer(trashed.cid), purge(context.catalog, trashed)
    async with objects.alone(object_id):
        if trashed.cid.codec is Codec.RAW:
            gone = await writer.write(change) is Reply.APPLIED
        else:
            await objects.begin(object_id)
            gone = await writer.write(change) is Reply.APPLIED
            await (objects.drop(object_id) if gone else objects.end(object_id))
    if gone:
        context.leaves.forget(object_id)
        await _forget_placed(context, trashed.cid)
    return gone


async def _forget_placed(context: Context, cid: Cid) -> None:
    """Forget where the shares of a blob lie that is here no more; their leases run out."""
    forget = Delete(Kind.META, keys.placed_key(cid))
    unless_bound = Guard(Kind.META, keys.bind_key(cid), None)
    await context.home_writer(cid).write(Transaction((forget,), unless_bound))
