"""Verified leaf lists, read once and kept in a bounded cache.

A list that does not match its share's root is worth nothing, and neither is that whole share to a
reader: its blocks cannot be told from wrong ones.
"""

from collections import OrderedDict
from threading import Lock

from molia.base import limits
from molia.base.errors import Damaged
from molia.base.ids import ObjectId
from molia.base.now import Now
from molia.blobs.download import verified_leaves
from molia.blobs.manifest import Manifest
from molia.node.shards import ShardSet
from molia.store import keys
from molia.store.keys import Kind

_Key = tuple[ObjectId, int]


class LeafCache:
    """Leaf lists by (object, share); for any thread."""

    def __init__(self, shards: ShardSet, size_max_bytes: int = limits.LEAF_CACHE_BYTES) -> None:
        self._shards, self._size_max = shards, size_max_bytes
        self._lists: OrderedDict[_Key, bytes] = OrderedDict()
        self._size = 0
        self._lock = Lock()

    def get(self, object_id: ObjectId, share: int, manifest: Manifest, now: Now) -> bytes | None:
        """Return the share's leaf list, 32 bytes a stripe; None when it is missing or damaged."""
        key = (object_id, share)
        with self._lock:
            found = self._lists.get(key)
            if found is not None:
                self._lists.move_to_end(key)
                return found
        leaves = verified_leaves(manifest, share, self.read(object_id, share, now))
        if leaves is not None:
            self._keep(key, leaves)
        return leaves

    def read(self, object_id: ObjectId, share: int, now: Now) -> bytes | None:
        """Return the stored list as it is, unverified; None when it is missing or damaged."""
        block = keys.block_key(object_id, share, keys.LEAVES_STRIPE)
        try:
            return self._shards.shard_of(Kind.BLOCK, block).get(
                Kind.BLOCK, block, now=now, check=share >= limits.TOTAL_SHARES
            )
        except Damaged:
            return None

    def forget(self, object_id: ObjectId) -> None:
        """Drop an object's lists: it went, or its lists were mended."""
        with self._lock:
            for key in [key for key in self._lists if key[0] == object_id]:
                self._size -= len(self._lists.pop(key))

    def _keep(self, key: _Key, leaves: bytes) -> None:
        with self._lock:
            if key in self._lists or len(leaves) > self._size_max:
                return
            self._lists[key] = leaves
            self._size += len(leaves)
            while self._size > self._size_max:
                _, dropped = self._lists.popitem(last=False)
                self._size -= len(dropped)
