"""A blob's stored blocks and leaf lists, as the blob cores want to be given them. For threads."""

from functools import partial

from molia.base import limits
from molia.base.errors import Damaged
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


def lists_here(context: Context, bound: Bound) -> tuple[int, ...]:
    """Return the shares of a blob whose leaf list is here: of a share that is kept it is."""
    now, shards, object_id = context.now(), context.shards, bound.row.object_id
    found = []
    for share in range(limits.TOTAL_SHARES):
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
