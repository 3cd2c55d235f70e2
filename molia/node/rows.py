"""Reads every META row of a shard and writes damaged ones again from what else is known.

BIND and LISTING repeat each other. PIN, LEASE, ALIAS and UPLOAD follow from the blob's own row or
say little; a SHARE row is only what an earlier check found. What follows from nothing else, a BIND
row whose LISTING is damaged too, stays damaged and is told.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final

from molia.base.cid import Cid, Codec
from molia.base.errors import Damaged
from molia.node.catalog import Catalog
from molia.node.context import Context
from molia.node.shards import ReadShard
from molia.store import keys
from molia.store.keys import Kind, Space
from molia.store.rows import AliasRow, LeaseRow, PinRow, UploadRow
from molia.store.shard import Delete, Put, Row, Transaction

_SLICE: Final = 1000


@dataclass(frozen=True, slots=True)
class DamagedRow:
    """A row that could not be read."""

    cid: str
    detail: str
    healed: bool


@dataclass(slots=True)
class RowsChecked:
    """What a slice of rows was like."""

    checked: int = 0
    damaged: list[DamagedRow] = field(default_factory=list)


async def check_rows(context: Context, shard_index: int) -> AsyncIterator[RowsChecked]:
    """Yield what was found, a slice at a time, in the order of the keys."""
    writer = context.shards.writers[shard_index]
    after = b""
    while True:
        rows = await context.offload.run(
            writer.shard.scan, Kind.META, b"", now=context.now(), after=after, limit=_SLICE
        )
        bad = await context.offload.run(_unreadable, writer.shard, rows, context)
        found = RowsChecked(len(rows))
        for key in bad:
            op = await context.offload.run(_mend, context, key)
            if op is not None:
                await writer.write(Transaction((op,)))
            space = Space(key[0]).name if key[0] in list(Space) else "unknown"
            found.damaged.append(
                DamagedRow(_cid_of(key), f"a {space} row was unreadable", op is not None)
            )
        yield found
        if len(rows) < _SLICE:
            return
        after = rows[-1].key


def _unreadable(shard: ReadShard, rows: list[Row], context: Context) -> list[bytes]:
    bad = []
    for row in rows:
        try:
            shard.get(Kind.META, row.key, now=context.now())
        except Damaged:
            bad.append(row.key)
    return bad


def _mend(context: Context, key: bytes) -> Put | Delete | None:
    """Return what puts a damaged row right, or None when nothing can."""
    catalog, now = context.catalog, context.now()
    body = key[1:]
    match key[0]:
        case Space.BIND | Space.LISTING:
            return _repeat(catalog, key, context)
        case Space.PIN:
            return Put(Kind.META, key, PinRow(int(now.unix_s)).encode())
        case Space.LEASE:
            until = int(now.unix_s) + context.config.leases.default_s
            return Put(Kind.META, key, LeaseRow(until).encode())
        case Space.UPLOAD:  # epoch 0 is an earlier one: the next start looks at the object
            return Put(Kind.META, key, UploadRow(0).encode())
        case Space.ALIAS:
            cid = _cid_with_content(catalog, body, context)
            return Delete(Kind.META, key) if cid is None else _alias(key, cid)
        case (
            Space.SHARE | Space.JOB | Space.ANNOUNCE | Space.PLACED | Space.CACHED
            | Space.FETCHED | Space.WATCHED
        ):  # fmt: skip
            return Delete(Kind.META, key)
    return None


def _alias(key: bytes, cid: Cid) -> Put:
    return Put(Kind.META, key, AliasRow(cid).encode())


def _repeat(catalog: Catalog, key: bytes, context: Context) -> Put | Delete | None:
    cid = _key_cid(key)
    try:
        bound = None if cid is None else catalog.bound(cid, context.now())
    except Damaged:
        return None
    if bound is None:  # a listing of nothing
        return Delete(Kind.META, key)
    return Put(Kind.META, key, bound.encoded)


def _cid_with_content(catalog: Catalog, content: bytes, context: Context) -> Cid | None:
    for row in catalog.all_bound(context.now()):
        if row.row.content == content and row.cid.codec is Codec.MANIFEST:
            return row.cid
    return None


def _key_cid(key: bytes) -> Cid | None:
    try:
        if key[0] == Space.LISTING:
            return keys.split_listing_key(key)[1]
        return Cid(Codec(key[1]), key[2:])
    except (ValueError, AssertionError):
        return None


def _cid_of(key: bytes) -> str:
    cid = _key_cid(key) if key[0] in (Space.BIND, Space.LISTING, Space.PIN) else None
    return "" if cid is None else str(cid)
