"""A blob's stored blocks and leaf lists, as the blob cores want to be given them. For threads."""

from functools import partial

from molia.base import limits
from molia.base.cid import Cid
from molia.base.errors import Damaged, ShardUnavailable
from molia.base.ids import ObjectId
from molia.blobs.download import FetchBlock, LeafLists
from molia.blobs.manifest import Manifest
from molia.blobs.verify import whole_is_sound
from molia.node.catalog import Bound
from molia.node.context import Context
from molia.store import keys
from molia.store.keys import Kind


def fetcher(context: Context, bound: Bound) -> FetchBlock:
    """Return what gives a blob's stored blocks by stripe and share, unverified."""
    return partial(_fetch_block, context, bound.row.object_id)


def leaf_lists(context: Context, bound: Bound, manifest: Manifest) -> LeafLists:
    """Return what gives a blob's verified leaf lists by share."""
    object_id = bound.row.object_id

    def leaves(share: int) -> bytes | None:
        return context.leaves.get(object_id, share, manifest, context.now())

    return leaves


def parts_here(context: Context, cid: Cid) -> tuple[Bound, ...]:
    """Return all that is here of a blob, our own first; what cannot be read is left out."""
    now, found = context.now(), []
    for find in (context.catalog.bound, *context.also_here):
        try:
            bound = find(cid, now)
        except (Damaged, ShardUnavailable):
            continue
        if bound is not None and not bound.expired(now):
            found.append(bound)
    return tuple(found)


def shares_here(context: Context, bound: Bound) -> tuple[int, ...]:
    """Return the shares that are here of a blob: those whose leaf list is."""
    if bound.is_raw:
        return (keys.WHOLE_SHARE,)
    now, shards, object_id = context.now(), context.shards, bound.row.object_id
    found = []
    added = limits.ADDED_SHARES_MAX if bound.supplement else 0
    for share in range(limits.TOTAL_SHARES + added):
        key = keys.block_key(object_id, share, keys.LEAVES_STRIPE)
        if shards.shard_of(Kind.BLOCK, key).size_of(Kind.BLOCK, key, now=now) is not None:
            found.append(share)
    return tuple(found)


def read_whole(context: Context, bound: Bound) -> bytes | None:
    """Return the bytes of a small blob, verified; None when its one copy is damaged or gone."""
    key = keys.block_key(bound.row.object_id, keys.WHOLE_SHARE, 0)
    try:
        data = context.catalog.home(bound.cid).get(Kind.BLOCK, key, now=context.now(), check=False)
    except Damaged:
        return None
    return data if whole_is_sound(bound.cid, data) else None


def _fetch_block(context: Context, object_id: ObjectId, stripe: int, share: int) -> bytes | None:
    key = keys.block_key(object_id, share, stripe)
    shard = context.shards.shard_of(Kind.BLOCK, key)
    try:
        # the caller compares BLAKE3 digests, so the CRCs would tell it nothing new
        return shard.get(Kind.BLOCK, key, now=context.now(), check=False)
    except Damaged:
        return None
