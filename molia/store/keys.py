"""The keys of the store, and the shard that each belongs to.

Keys are at most `limits.KEY_SIZE_MAX` bytes and sort as bytes; numbers inside them are big-endian
so that they sort as numbers. Source: docs/reference/store-format.md, "Keys".
"""

import struct
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple

from molia.base.cid import Cid, Codec
from molia.base.entropy import Entropy
from molia.base.errors import BadCid, Damaged
from molia.base.hashing import DIGEST_SIZE, purpose_digest
from molia.base.ids import OBJECT_ID_SIZE, JobId, ObjectId, new_object_id
from molia.base.limits import SHARD_PLACES_MAX


class Kind(IntEnum):
    """The type of a frame; the first four and META are also kinds of keys."""

    BLOCK = 1
    RECORD = 2
    PROVIDER = 3
    DELETE = 4
    SEAL = 5
    MARK = 6
    META = 7


DATA_KINDS: Final = (Kind.BLOCK, Kind.RECORD, Kind.PROVIDER, Kind.META)
"""The kinds that name a value."""


class Space(IntEnum):
    """The namespaces of META keys: their first byte."""

    BIND = 1
    SHARE = 2
    LEASE = 3
    PIN = 4
    LISTING = 5
    ALIAS = 6
    JOB = 7
    UPLOAD = 8
    CONTACTS = 9
    OWN_RECORD = 10
    ANNOUNCE = 11
    TRASH = 12
    HELD = 13
    PLACED = 14
    CACHED = 15
    FETCHED = 16
    WATCHED = 17


WHOLE_SHARE: Final = 0xFFFF
"""The share number of a small blob that is kept whole."""
LEAVES_STRIPE: Final = 0xFFFFFFFF
"""The stripe number under which a share keeps its leaf list."""
MANIFEST_STRIPE: Final = 0xFFFFFFFE
STRIPE_STOP: Final = 0xFFFFFF00
"""Real stripe numbers stay below this one."""
OWNER_HASH_SIZE: Final = 16
NETWORK_LABEL_SIZE: Final = 8
_BLOCK: Final = struct.Struct(">16sHI")
_BLOCK_PLACE_SIZE: Final = 18
_PLACE_SIZE: Final = 32
_TIME_TOP: Final = 2**64 - 1
_LISTING_HEAD_SIZE: Final = 9
_DRAWS_MAX: Final = 100_000
_UPLOAD_SIZE: Final = 1 + OBJECT_ID_SIZE


class BlockKey(NamedTuple):
    """A block's key, taken apart."""

    object_id: ObjectId
    share: int
    stripe: int


def block_key(object_id: ObjectId, share: int, stripe: int) -> bytes:
    """Return the 22-byte key of one block of an object."""
    return _BLOCK.pack(object_id, share, stripe)


def split_block_key(key: bytes) -> BlockKey:
    """Return the parts of a block's key. Raises Damaged when it is none."""
    if len(key) != _BLOCK.size:
        raise Damaged(f"a block's key has {_BLOCK.size} bytes, not {len(key)}")
    object_id, share, stripe = _BLOCK.unpack(key)
    return BlockKey(ObjectId(object_id), share, stripe)


def bind_key(cid: Cid) -> bytes:
    """Return the key of the row that makes a blob exist."""
    return bytes((Space.BIND, cid.codec)) + cid.digest


def pin_key(cid: Cid) -> bytes:
    """Return the key of a blob's pin."""
    return bytes((Space.PIN, cid.codec)) + cid.digest


def held_key(cid: Cid) -> bytes:
    """Return the key of what is kept of a blob for others."""
    return bytes((Space.HELD, cid.codec)) + cid.digest


def fetched_key(cid: Cid) -> bytes:
    """Return the key of what is kept of a blob because it was read from other nodes."""
    return bytes((Space.FETCHED, cid.codec)) + cid.digest


def placed_key(cid: Cid) -> bytes:
    """Return the key of where a blob's shares lie on other nodes."""
    return bytes((Space.PLACED, cid.codec)) + cid.digest


def watched_key(cid: Cid) -> bytes:
    """Return the key of what is known of a blob's other holders."""
    return bytes((Space.WATCHED, cid.codec)) + cid.digest


def split_blob_key(key: bytes) -> Cid:
    """Return the CID in a BIND, PIN, HELD, FETCHED, PLACED or WATCHED key. Raises ValueError."""
    if len(key) != 2 + DIGEST_SIZE:
        raise ValueError("not the key of a blob")
    return Cid(Codec(key[1]), key[2:])


def alias_key(content: bytes) -> bytes:
    """Return the key that leads from a content hash to a CID."""
    assert len(content) == DIGEST_SIZE, "a content hash has 32 bytes"
    return bytes((Space.ALIAS,)) + content


def listing_key(created_unix_ms: int, cid: Cid) -> bytes:
    """Return the key of a blob's line in the listing; newer ones sort first."""
    return bytes((Space.LISTING,)) + (_TIME_TOP - created_unix_ms).to_bytes(8) + bytes(cid)


def split_listing_key(key: bytes) -> tuple[int, Cid]:
    """Return the creation time in ms and the CID of a listing's key. Raises ValueError."""
    if len(key) < _LISTING_HEAD_SIZE or key[0] != Space.LISTING:
        raise ValueError("not the key of a listing")
    created_unix_ms = _TIME_TOP - int.from_bytes(key[1:_LISTING_HEAD_SIZE])
    try:
        return created_unix_ms, Cid.from_bytes(key[_LISTING_HEAD_SIZE:])
    except BadCid:
        raise ValueError("not the key of a listing") from None


def lease_key(object_id: ObjectId, share: int, owner_hash: bytes) -> bytes:
    """Return the key of one owner's lease on a share; owner_hash: 16 bytes."""
    assert len(owner_hash) == OWNER_HASH_SIZE, "an owner's hash has 16 bytes"
    return bytes((Space.LEASE,)) + object_id + share.to_bytes(2) + owner_hash


def share_key(object_id: ObjectId, share: int) -> bytes:
    """Return the key of what is known about a share."""
    return bytes((Space.SHARE,)) + object_id + share.to_bytes(2)


def cached_key(cid: Cid) -> bytes:
    """Return the key that marks a blob as cached: it may go at any time."""
    return bytes((Space.CACHED, cid.codec)) + cid.digest


def split_cached_key(key: bytes) -> Cid:
    """Return the CID in the key of a cached blob's mark. Raises ValueError."""
    if len(key) != 2 + DIGEST_SIZE or key[0] != Space.CACHED:
        raise ValueError("not the key of a cached blob's mark")
    return Cid(Codec(key[1]), key[2:])


def trash_key(cid: Cid, object_id: ObjectId) -> bytes:
    """Return the key of a blob that was removed and can still be brought back."""
    return bytes((Space.TRASH, cid.codec)) + cid.digest + object_id


def split_trash_key(key: bytes) -> tuple[Cid, ObjectId]:
    """Return the CID and the object in a trash row's key. Raises ValueError."""
    if len(key) != 2 + DIGEST_SIZE + OBJECT_ID_SIZE or key[0] != Space.TRASH:
        raise ValueError("not the key of a trash row")
    cid = Cid(Codec(key[1]), key[2 : 2 + DIGEST_SIZE])
    return cid, ObjectId(key[2 + DIGEST_SIZE :])


def job_key(job_id: JobId) -> bytes:
    """Return the key of a job."""
    return bytes((Space.JOB,)) + job_id.encode("ascii")


def upload_key(object_id: ObjectId) -> bytes:
    """Return the key that marks an object as not yet bound."""
    return bytes((Space.UPLOAD,)) + object_id


def coming_key(object_id: ObjectId, share: int) -> bytes:
    """Return the key that marks a share of an object as not yet complete."""
    return upload_key(object_id) + share.to_bytes(2)


def split_upload_key(key: bytes) -> tuple[ObjectId, int | None]:
    """Return the object, and the share of a `coming_key`. Raises ValueError."""
    if key[:1] != bytes((Space.UPLOAD,)) or len(key) not in (_UPLOAD_SIZE, _UPLOAD_SIZE + 2):
        raise ValueError("not the key of an upload")
    share = key[_UPLOAD_SIZE:]
    return ObjectId(key[1:_UPLOAD_SIZE]), int.from_bytes(share) if share else None


def own_record_key(label: bytes, salt: bytes) -> bytes:
    """Return the key of a record that this node signed; label: its network's 8 bytes."""
    assert len(label) == NETWORK_LABEL_SIZE, "a network's label has 8 bytes"
    return bytes((Space.OWN_RECORD,)) + label + salt


def announce_key(label: bytes, worker: int, part: int) -> bytes:
    """Return the key of one part of a worker's schedule of announcements in a network."""
    assert len(label) == NETWORK_LABEL_SIZE, "a network's label has 8 bytes"
    return bytes((Space.ANNOUNCE,)) + label + bytes((worker,)) + part.to_bytes(2)


def shard_of(kind: Kind, key: bytes, count: int) -> int:
    """Return the shard, of `count`, that keeps `key`.

    All blocks of one share fall on one shard, the shares of an object spread over all.
    """
    size = _BLOCK_PLACE_SIZE if kind == Kind.BLOCK else _PLACE_SIZE
    return _shard_at(int(kind), key[:size], count)


@lru_cache(maxsize=SHARD_PLACES_MAX)
def _shard_at(kind: int, place: bytes, count: int) -> int:
    """Remembered: the blocks of a share have one place, and some records are asked for often."""
    digest = purpose_digest("shard", bytes((kind,)) + place)
    return int.from_bytes(digest[:4], "little") % count


def home_shard(cid: Cid, count: int) -> int:
    """Return the shard of a blob's BIND row; its PIN, LEASE, LISTING, ALIAS rows are there too."""
    return shard_of(Kind.META, bind_key(cid), count)


def small_object_id(cid: Cid, count: int, entropy: Entropy) -> ObjectId:
    """Return a fresh object id whose whole-blob key falls on the blob's home shard.

    So a small blob and its rows are one transaction on one shard.
    """
    home = home_shard(cid, count)
    for _ in range(_DRAWS_MAX):
        object_id = new_object_id(entropy)
        if shard_of(Kind.BLOCK, block_key(object_id, WHOLE_SHARE, 0), count) == home:
            return object_id
    raise AssertionError("the entropy given is not random")


assert _BLOCK.size == OBJECT_ID_SIZE + 6
