"""Which shard each row of a shard belongs to when there is another number of them.

Most rows go where their key says. A blob's rows go to its home shard, which follows from its CID:
so for rows that are keyed by an object the blob is looked up first. A small blob must lie on its
home shard with its block: where it would not any more, it gets a new object id.
Source: docs/reference/store-format.md, "Shards".
"""

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from typing import Final, NamedTuple

from molia.base.cid import Cid, Codec
from molia.base.entropy import Entropy
from molia.base.errors import Damaged
from molia.base.hashing import DIGEST_SIZE
from molia.base.ids import OBJECT_ID_SIZE, ObjectId
from molia.base.now import Now
from molia.store import keys
from molia.store.keys import DATA_KINDS, WHOLE_SHARE, Kind, Space
from molia.store.ops import Put, Row
from molia.store.rows import AliasRow, BindRow, HeldRow, LeaseRow, PinRow, TrashRow, UploadRow
from molia.store.shard import Shard

_PAGE: Final = 1_000
_KEPT: Final = (Space.HELD, Space.FETCHED)
"""What others' leases or the cache keep: of the same blob there may be an object for each."""
_LEASE_S: Final = 30 * 86_400
"""How long a share is kept whose lease could not be read."""


class Moved(NamedTuple):
    """A row and the shard that it belongs to; no `put` when it could not be read."""

    shard: int
    kind: Kind
    key: bytes
    put: Put | None


class Source:
    """The rows of one old shard. count: the new number of shards."""

    def __init__(self, shard: Shard, count: int, entropy: Entropy, now: Now) -> None:
        self._shard, self._count, self._entropy, self.now = shard, count, entropy, now
        # what has expired goes along: the clock may be wrong
        self._reading = Now(now.mono_s, 0.0)
        self._homes: dict[bytes, int] = {}
        """The new home of each object that a blob owns."""
        self._renamed: dict[bytes, ObjectId] = {}
        self._lost_binds: set[bytes] = set()

    def rows(self) -> Iterator[Moved]:
        """Yield every row with its new shard, and its new key where it gets one."""
        for key, value in self._named(Space.BIND):
            self._learn(key, keys_cid(key[1], key[2:]), value)
        for key, value in self._named(Space.LISTING):
            self._learn_listing(key, value)
        for key, value in self._named(Space.TRASH):
            self._learn_trash(key, value)
        for space in _KEPT:
            for key, value in self._named(space):
                self._learn_kept(key, value)
        for kind in DATA_KINDS:
            for row in self._walk(kind, b""):
                yield from self._move(kind, row)

    def _move(self, kind: Kind, row: Row) -> Iterator[Moved]:
        value = self._get(kind, row.key)
        if value is None and kind == Kind.META:
            value = _rewritten(row.key, int(self.now.unix_s))
        if value is None:
            if not 0 < row.expiry <= self.now.unix_s:  # else it was removed and is a hole
                yield Moved(0, kind, row.key, None)
            return
        if kind != Kind.META:
            yield self._moved(kind, self._renamed_block(kind, row.key), value, row.expiry)
        else:
            yield from self._move_meta(row, value)

    # ------------------------------------------------------------------------ META rows

    def _move_meta(self, row: Row, value: bytes) -> Iterator[Moved]:
        key, space = row.key, row.key[0] if row.key else 0
        if space in (Space.LEASE, Space.SHARE):
            object_id = key[1 : 1 + OBJECT_ID_SIZE]
            home = self._homes.get(object_id)
            renamed = self._renamed.get(object_id, object_id)
            key = key[:1] + renamed + key[1 + OBJECT_ID_SIZE :]
            yield self._moved(Kind.META, key, value, row.expiry, home)
            return
        cid = _cid_of(space, key, value)
        if cid is None:
            yield self._moved(Kind.META, key, value, row.expiry)
            return
        home = keys.home_shard(cid, self._count)
        if space in (Space.BIND, Space.LISTING):
            value = self._renamed_row(value)
        elif space == Space.TRASH:
            key, value = self._renamed_trash(key, value)
        elif space in _KEPT:
            value = self._renamed_kept(value)
        yield self._moved(Kind.META, key, value, row.expiry, home)
        if space == Space.LISTING and keys.bind_key(cid) in self._lost_binds:
            yield self._moved(Kind.META, keys.bind_key(cid), value, row.expiry, home)

    def _learn(self, key: bytes, cid: Cid | None, value: bytes | None) -> None:
        """Remember where a blob's rows go, and whether its object gets a new id."""
        row = _bind_row(value)
        if row is None:
            self._lost_binds.add(key)
            return
        if cid is not None and row.object_id not in self._homes:
            self._learn_object(cid, row.object_id)

    def _learn_object(self, cid: Cid, object_id: ObjectId) -> None:
        home = keys.home_shard(cid, self._count)
        self._homes[bytes(object_id)] = home
        if cid.codec is Codec.RAW:
            block = keys.block_key(object_id, WHOLE_SHARE, 0)
            if keys.shard_of(Kind.BLOCK, block, self._count) != home:
                new = keys.small_object_id(cid, self._count, self._entropy)
                self._renamed[bytes(object_id)] = new

    def _learn_listing(self, key: bytes, value: bytes | None) -> None:
        cid = _listed_cid(key)
        if cid is not None and value is not None:
            self._learn(b"", cid, value)

    def _learn_trash(self, key: bytes, value: bytes | None) -> None:
        cid = _trashed_cid(key)
        with contextlib.suppress(Damaged):
            if cid is not None and value is not None:
                self._learn(b"", cid, TrashRow.decode(value).bind)

    def _learn_kept(self, key: bytes, value: bytes | None) -> None:
        cid, row = keys_cid(key[1], key[2:]), _held_row(value)
        if cid is not None and row is not None:
            self._learn_object(cid, row.object_id)

    def _renamed_kept(self, value: bytes) -> bytes:
        row = _held_row(value)
        if row is None or bytes(row.object_id) not in self._renamed:
            return value
        return replace(row, object_id=self._renamed[bytes(row.object_id)]).encode()

    def _renamed_trash(self, key: bytes, value: bytes) -> tuple[bytes, bytes]:
        renamed = self._renamed.get(key[-OBJECT_ID_SIZE:])
        try:
            row = TrashRow.decode(value)
        except Damaged:
            return key, value
        if renamed is None:
            return key, value
        row = replace(row, bind=self._renamed_row(row.bind))
        return key[:-OBJECT_ID_SIZE] + renamed, row.encode()

    # ------------------------------------------------------------------------ helpers

    def _moved(
        self, kind: Kind, key: bytes, value: bytes, expiry: int, shard: int | None = None
    ) -> Moved:
        if shard is None:
            shard = keys.shard_of(kind, key, self._count)
        return Moved(shard, kind, key, Put(kind, key, value, expiry, overwrite=True))

    def _renamed_block(self, kind: Kind, key: bytes) -> bytes:
        if kind != Kind.BLOCK or not self._renamed:
            return key
        renamed = self._renamed.get(key[:OBJECT_ID_SIZE])
        return key if renamed is None else renamed + key[OBJECT_ID_SIZE:]

    def _renamed_row(self, value: bytes) -> bytes:
        row = _bind_row(value)
        if row is None or bytes(row.object_id) not in self._renamed:
            return value
        return replace(row, object_id=self._renamed[bytes(row.object_id)]).encode()

    def _named(self, space: Space) -> Iterator[tuple[bytes, bytes | None]]:
        for row in self._walk(Kind.META, bytes((space,))):
            yield row.key, self._get(Kind.META, row.key)

    def _walk(self, kind: Kind, prefix: bytes) -> Iterator[Row]:
        after = b""
        while True:
            page = self._shard.scan(kind, prefix, now=self._reading, after=after, limit=_PAGE)
            yield from page
            if len(page) < _PAGE:
                return
            after = page[-1].key

    def _get(self, kind: Kind, key: bytes) -> bytes | None:
        try:
            return self._shard.get(kind, key, now=self._reading)
        except Damaged:
            return None


def _rewritten(key: bytes, unix_s: int) -> bytes | None:
    """Return what stands for a damaged row that says little beside that it is there."""
    match key[0] if key else 0:
        case Space.PIN:
            return PinRow(unix_s).encode()
        case Space.LEASE:
            return LeaseRow(unix_s + _LEASE_S).encode()
        case Space.UPLOAD:  # epoch 0 is an earlier one: the next start looks at the object
            return UploadRow(0).encode()
    return None


def _cid_of(space: int, key: bytes, value: bytes) -> Cid | None:
    """Return the CID of the blob that a row belongs to; None when it belongs to none."""
    match space:
        case (
            Space.BIND | Space.PIN | Space.HELD | Space.PLACED | Space.CACHED | Space.FETCHED
            | Space.WATCHED
        ):  # fmt: skip
            return keys_cid(key[1], key[2:]) if len(key) > 1 else None
        case Space.LISTING:
            return _listed_cid(key)
        case Space.TRASH:
            return _trashed_cid(key)
        case Space.ALIAS:
            try:
                return AliasRow.decode(value).cid
            except Damaged:
                return None
    return None


def keys_cid(codec: int, digest: bytes) -> Cid | None:
    """Return the CID in a BIND's or PIN's key, or None when there is none."""
    try:
        return Cid(Codec(codec), digest) if len(digest) == DIGEST_SIZE else None
    except ValueError:
        return None


def _listed_cid(key: bytes) -> Cid | None:
    try:
        return keys.split_listing_key(key)[1]
    except ValueError:
        return None


def _trashed_cid(key: bytes) -> Cid | None:
    try:
        return keys.split_trash_key(key)[0]
    except ValueError:
        return None


def _held_row(value: bytes | None) -> HeldRow | None:
    try:
        return HeldRow.decode(value) if value is not None else None
    except Damaged:
        return None


def _bind_row(value: bytes | None) -> BindRow | None:
    try:
        return BindRow.decode(value) if value is not None else None
    except Damaged:
        return None
