"""Cached blobs: kept for some minutes because they may be asked for again, first to go for space.

A blob is cached when its put said so. It goes when its minutes are over, or earlier when the quota
is nearly used up, those with the least time left first; a put or a pin makes it a blob as others.
"""

from typing import Final

import structlog

from molia.base import limits
from molia.base.errors import Damaged
from molia.node.catalog import Bound
from molia.node.context import Context
from molia.node.puts import remove_bound
from molia.store import keys
from molia.store.keys import Kind, Space
from molia.store.quota import QuotaMarks

log = structlog.get_logger(__name__)

STORED_PERCENT: Final = 100 * limits.TOTAL_SHARES // limits.DATA_SHARES


async def relieve(context: Context) -> int:
    """Let cached blobs go while the quota is nearly used up; return the bytes that come back."""
    used = sum(writer.settled_bytes for writer in context.shards.writers)
    over = used - QuotaMarks(context.quota_bytes).press
    return await evict(context, over) if over > 0 else 0


async def evict(context: Context, size_bytes: int) -> int:
    """Let cached blobs go until so many bytes come back; return how many do, fewer or none.

    The space is there within a minute; what has gone is not served any more.
    """
    freed, count, catalog = 0, 0, context.catalog
    for bound in await context.offload.run(_cached, context):
        if freed >= size_bytes:
            break
        if await remove_bound(context, bound, catalog.unwanted(bound, None, context.now())):
            context.leaves.forget(bound.row.object_id)
            freed, count = freed + stored_bytes(bound), count + 1
    if count:
        context.metrics.cache_evicted.inc(count)
        log.info("cache_evicted", count=count, size_bytes=freed)
    return freed


def stored_bytes(bound: Bound) -> int:
    """Return about what a blob takes on the disk."""
    return bound.row.size if bound.is_raw else bound.row.size * STORED_PERCENT // 100


def _cached(context: Context) -> list[Bound]:
    """Return cached blobs, those with the least time left first; some thousand a shard at most."""
    now, found = context.now(), []
    for shard in context.shards.shards:
        prefix = bytes((Space.CACHED,))
        for row in shard.scan(Kind.META, prefix, now=now, limit=limits.SCAN_ROWS_MAX):
            try:
                cid = keys.split_cached_key(row.key)
                bound = context.catalog.bound(cid, now)
            except (Damaged, ValueError):
                continue
            if bound is not None and bound.cached_until is not None:
                found.append(bound)
    return sorted(found, key=lambda bound: bound.cached_until or 0)
