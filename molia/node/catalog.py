"""Which blobs are here: the BIND, LISTING, ALIAS, PIN, LEASE and SHARE rows, read and written.

All rows of one blob live on its home shard, so that one transaction makes it exist and one makes
it go (docs/decisions/0004). Everything here is synchronous and may run in any thread; what changes
something returns the transaction, which the caller hands to the home shard's writer.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from molia.base import limits
from molia.base.cid import Cid, Codec, Ref
from molia.base.errors import BadInput, BlobNotFound, Damaged
from molia.base.hashing import purpose_digest
from molia.base.ids import ObjectId, PeerKey
from molia.base.now import Now
from molia.base.views import BlobInfo
from molia.node.shards import ReadShard, ShardSet, keys_of
from molia.store import keys
from molia.store.keys import Kind
from molia.store.rows import AliasRow, BindRow, LeaseRow, PinRow, PlacedRow, ShareRow
from molia.store.shard import Delete, Guard, Put, Transaction

OWNER_SIZE: Final = 16
_LISTING: Final = bytes((keys.Space.LISTING,))


@dataclass(frozen=True, slots=True)
class Bound:
    """A blob that exists here."""

    cid: Cid
    row: BindRow
    encoded: bytes
    """The BIND row as stored, for guards."""
    pinned: bool
    cached_until: int | None = None
    """When a cached blob goes at the latest, unix seconds; None for one that is none."""
    is_second_copy: bool = False
    """The BIND row is damaged; this is what the LISTING row repeats of it."""
    supplement: bytes = b""
    """What lists the roots of added shares that are here, of what is kept for others."""

    @property
    def is_raw(self) -> bool:
        """A small blob kept whole."""
        return self.cid.codec is Codec.RAW

    @property
    def info(self) -> BlobInfo:
        """The line of the local index."""
        return BlobInfo(
            cid=self.cid,
            size=self.row.size,
            content=self.row.content,
            name=self.row.name,
            created_unix_ms=self.row.created_unix_ms,
            pinned=self.pinned,
            expires_unix_s=self.row.expires_unix_s,
            k=1 if self.is_raw else limits.DATA_SHARES,
            n=1 if self.is_raw else limits.TOTAL_SHARES,
        )

    def expired(self, now: Now) -> bool:
        """Tell whether the user's own expiry has passed."""
        return self.row.expires_unix_s is not None and self.row.expires_unix_s <= now.unix_s


class Catalog:
    """The blobs of this node."""

    def __init__(self, shards: ShardSet, owner: PeerKey) -> None:
        self._shards = shards
        self._owner = purpose_digest("lease-owner", owner.key)[:OWNER_SIZE]

    def home(self, cid: Cid) -> ReadShard:
        """Return the shard with the blob's rows."""
        return self._shards.shards[keys.home_shard(cid, self._shards.count)]

    # ------------------------------------------------------------------ reading

    def find(self, ref: Ref, now: Now) -> Bound:
        """Return the blob that `ref` names. Raises BlobNotFound, Damaged."""
        for cid in self._candidates(ref, now):
            bound = self.bound(cid, now)
            if bound is not None and not bound.expired(now):
                return bound
        raise BlobNotFound(ref)

    def bound(self, cid: Cid, now: Now) -> Bound | None:
        """Return the blob's rows, expired or not; None when there is none."""
        home, is_second_copy = self.home(cid), False
        try:
            encoded = home.get(Kind.META, keys.bind_key(cid), now=now)
        except Damaged:
            encoded, is_second_copy = self._second_copy(cid, now), True
            if encoded is None:
                raise
        if encoded is None:
            return None
        pinned = home.size_of(Kind.META, keys.pin_key(cid), now=now) is not None
        cached = None if pinned else _cached_until(home, cid, now)
        return Bound(cid, BindRow.decode(encoded), encoded, pinned, cached, is_second_copy)

    def _second_copy(self, cid: Cid, now: Now) -> bytes | None:
        """Return the blob's BIND row as its LISTING row repeats it, or None."""
        home = self.home(cid)
        for key in keys_of(home, Kind.META, _LISTING, now):
            if keys.split_listing_key(key)[1] == cid:
                return home.get(Kind.META, key, now=now)
        return None

    def _candidates(self, ref: Ref, now: Now) -> list[Cid]:
        """A CID names itself; a content hash, or a raw CID of a large blob, goes through ALIAS."""
        first = ref if isinstance(ref, Cid) else Cid(Codec.RAW, ref.digest)
        if first.codec is not Codec.RAW:
            return [first]
        found = [first]
        for shard in self._shards.shards:
            value = shard.get(Kind.META, keys.alias_key(first.digest), now=now)
            if value is not None:
                found.append(AliasRow.decode(value).cid)
        return found

    def listing(self, after: bytes, limit: int, now: Now) -> list[tuple[bytes, Bound]]:
        """Return up to `limit` blobs behind the listing key `after`, newest first."""
        rows = [
            row.key
            for shard in self._shards.shards
            for row in shard.scan(Kind.META, _LISTING, now=now, after=after, limit=limit)
        ]
        page = []
        for key in sorted(rows)[:limit]:
            try:
                bound = self.bound(keys.split_listing_key(key)[1], now)
            except Damaged:
                continue  # `verify` reports it; the others are listed
            if bound is not None:
                page.append((key, bound))
        return page

    def all_bound(self, now: Now, *, own_only: bool = False) -> Iterator[Bound]:
        """Yield every readable blob, newest first on each shard.

        own_only: those whose rows this process writes.
        """
        own: list[ReadShard] = [writer.shard for writer in self._shards.own]
        for shard in own if own_only else self._shards.shards:
            yield from self.bound_on(shard, now)

    def bound_on(self, shard: ReadShard, now: Now) -> Iterator[Bound]:
        """Yield every readable blob of one shard, newest first. Raises ShardUnavailable."""
        for key in keys_of(shard, Kind.META, _LISTING, now):
            try:
                bound = self.bound(keys.split_listing_key(key)[1], now)
            except Damaged:
                continue
            if bound is not None:
                yield bound

    def count_own(self, now: Now) -> int:
        """Return how many blobs are listed on the shards of this process; walks all of them."""
        shards = [writer.shard for writer in self._shards.own]
        return sum(sum(1 for _ in keys_of(shard, Kind.META, _LISTING, now)) for shard in shards)

    def is_bound(self, object_id: ObjectId, now: Now) -> bool:
        """Tell whether some blob owns the object: its LEASE row came and goes with BIND."""
        prefix = bytes((keys.Space.LEASE,)) + object_id
        return any(shard.scan(Kind.META, prefix, now=now, limit=1) for shard in self._shards.shards)

    def share_rows(self, bound: Bound, now: Now) -> dict[int, ShareRow]:
        """Return what is known of each share; an absent one was never looked at.

        A damaged one is as good as absent: it says only what an earlier look found.
        """
        home, known = self.home(bound.cid), {}
        for share in _shares(bound):
            try:
                value = home.get(Kind.META, keys.share_key(bound.row.object_id, share), now=now)
                if value is not None:
                    known[share] = ShareRow.decode(value)
            except Damaged:
                continue
        return known

    def placed(self, cid: Cid, now: Now) -> PlacedRow | None:
        """Return what is noted of a blob's shares on other nodes; None without a sound note."""
        try:
            value = self.home(cid).get(Kind.META, keys.placed_key(cid), now=now)
            return None if value is None else PlacedRow.decode(value)
        except Damaged:
            return None

    # ------------------------------------------------------------------ transactions

    def bind(
        self, cid: Cid, row: BindRow, *, pin: bool, lease_s: int, now: Now,
        placed: PlacedRow | None = None, cached_until: int | None = None,
    ) -> Transaction:  # fmt: skip
        """Return what makes a blob exist; refused when it does already.

        placed: the note that it is to be brought to other nodes.
        """
        lease = LeaseRow(row.expires_unix_s or int(now.unix_s) + lease_s)
        key = keys.bind_key(cid)
        ops = [
            Put(Kind.META, key, row.encode()),
            Put(Kind.META, self.lease_key(row.object_id), lease.encode()),
            # the listing repeats the row: a flipped bit in one of them loses nothing
            Put(Kind.META, keys.listing_key(row.created_unix_ms, cid), row.encode()),
        ]
        if cid.codec is Codec.MANIFEST:
            ops.append(Put(Kind.META, keys.alias_key(row.content), AliasRow(cid).encode()))
        if pin:
            ops.append(Put(Kind.META, keys.pin_key(cid), PinRow(int(now.unix_s)).encode()))
        if placed is not None:
            ops.append(Put(Kind.META, keys.placed_key(cid), placed.encode()))
        if cached_until is not None:
            ops.append(Put(Kind.META, keys.cached_key(cid), LeaseRow(cached_until).encode()))
        return Transaction(tuple(ops), Guard(Kind.META, key, None))

    def unbind(self, bound: Bound, guard: Guard | None = None) -> Transaction:
        """Return what makes a blob stop existing; refused when it has changed meanwhile.

        guard: see `unwanted`; None: its BIND row must be as it was.
        """
        row, cid = bound.row, bound.cid
        gone = [
            keys.bind_key(cid),
            keys.pin_key(cid),
            keys.placed_key(cid),
            keys.cached_key(cid),
            self.lease_key(row.object_id),
            keys.listing_key(row.created_unix_ms, cid),
            *(keys.share_key(row.object_id, share) for share in _shares(bound)),
        ]
        if cid.codec is Codec.MANIFEST:
            gone.append(keys.alias_key(row.content))
        ops: list[Put | Delete] = [Delete(Kind.META, key) for key in gone]
        if bound.is_raw:  # the bytes lie on the home shard as well
            block = keys.block_key(row.object_id, keys.WHOLE_SHARE, 0)
            ops.append(Delete(Kind.BLOCK, block))
        return Transaction(tuple(ops), guard or self._unchanged(bound))

    def unwanted(self, bound: Bound, lease: LeaseRow | None, now: Now) -> Guard:
        """Return what no longer holds once somebody wants a blob that was found to have had its
        time.

        A pin or a second put leaves the BIND row as it is; they write our lease, and what was
        cached is no longer. lease: our row as it was found.
        """
        if bound.expired(now):
            return self._unchanged(bound)
        if bound.cached_until is not None:
            cached = LeaseRow(bound.cached_until).encode()
            return Guard(Kind.META, keys.cached_key(bound.cid), cached)
        key = self.lease_key(bound.row.object_id)
        return Guard(Kind.META, key, None if lease is None else lease.encode())

    def keep(
        self, bound: Bound, *, pin: bool, expires_unix_s: int | None, lease_s: int, now: Now
    ) -> Transaction | None:
        """Return what a second put of the same bytes changes, or None when that is nothing.

        The longer wish wins: a put without an expiry ends an earlier one, what was cached is kept
        as any other blob, and what lives by its lease has a new one.
        """
        ours = bound.row.expires_unix_s
        longest = None if ours is None or expires_unix_s is None else max(ours, expires_unix_s)
        is_cached = bound.cached_until is not None
        is_leased = longest is None and not bound.pinned
        if longest == ours and (bound.pinned or not pin) and not is_cached and not is_leased:
            return None
        ops: list[Put | Delete] = []
        if is_cached:
            ops.append(Delete(Kind.META, keys.cached_key(bound.cid)))
        if longest != ours:
            row = replace(bound.row, expires_unix_s=longest)
            listing = keys.listing_key(row.created_unix_ms, bound.cid)
            ops.append(Put(Kind.META, keys.bind_key(bound.cid), row.encode()))
            ops.append(Put(Kind.META, listing, row.encode()))
        until = longest or max(int(now.unix_s) + lease_s, expires_unix_s or 0)
        ops.append(Put(Kind.META, self.lease_key(bound.row.object_id), LeaseRow(until).encode()))
        if pin:
            row_pin = PinRow(int(now.unix_s)).encode()
            ops.append(Put(Kind.META, keys.pin_key(bound.cid), row_pin))
        return Transaction(tuple(ops), self._unchanged(bound))

    def pin(self, bound: Bound, *, pinned: bool, lease_s: int, now: Now) -> Transaction:
        """Return what pins or unpins a blob; an unpinned one lives on for a lease."""
        until = bound.row.expires_unix_s or int(now.unix_s) + lease_s
        lease = Put(Kind.META, self.lease_key(bound.row.object_id), LeaseRow(until).encode())
        key = keys.pin_key(bound.cid)
        change = (
            Put(Kind.META, key, PinRow(int(now.unix_s)).encode())
            if pinned
            else Delete(Kind.META, key)
        )
        cached = Delete(Kind.META, keys.cached_key(bound.cid))
        return Transaction((lease, change, cached), self._unchanged(bound))

    def mend(self, bound: Bound) -> Transaction:
        """Return what writes a damaged BIND row again from its second copy."""
        listing = keys.listing_key(bound.row.created_unix_ms, bound.cid)
        put = Put(Kind.META, keys.bind_key(bound.cid), bound.encoded)
        return Transaction((put,), Guard(Kind.META, listing, bound.encoded))

    def renew(self, bound: Bound, until_unix_s: int) -> Transaction:
        """Return what moves the end of our lease."""
        lease = LeaseRow(until_unix_s).encode()
        put = Put(Kind.META, self.lease_key(bound.row.object_id), lease)
        return Transaction((put,), self._unchanged(bound))

    def note_shares(self, bound: Bound, rows: dict[int, ShareRow]) -> Transaction:
        """Return what records how the shares were found."""
        object_id = bound.row.object_id
        ops = tuple(
            Put(Kind.META, keys.share_key(object_id, share), row.encode())
            for share, row in rows.items()
        )
        return Transaction(ops, self._unchanged(bound))

    def lease_key(self, object_id: ObjectId) -> bytes:
        """Return the key of this node's own lease on all shares of an object."""
        return keys.lease_key(object_id, keys.WHOLE_SHARE, self._owner)

    def _unchanged(self, bound: Bound) -> Guard:
        return Guard(Kind.META, keys.bind_key(bound.cid), bound.encoded)


def blob_change(transaction: Transaction) -> int:
    """Return by how much a transaction that was applied changes the number of blobs: -1, 0, 1."""
    guard = transaction.guard
    for op in transaction.ops:
        if op.kind == Kind.META and op.key[:1] == bytes((keys.Space.BIND,)):
            if isinstance(op, Delete):
                return -1
            is_new = guard is not None and guard.key == op.key and guard.value is None
            return 1 if is_new else 0
    return 0


def parse_cursor(text: str | None) -> bytes:
    """Return the listing key that a cursor stands for. Raises BadInput for one not ours."""
    if text is None:
        return b""
    try:
        key = bytes.fromhex(text)
        keys.split_listing_key(key)
    except ValueError:
        raise BadInput("the cursor is not one that this node gave") from None
    return key


def _cached_until(home: ReadShard, cid: Cid, now: Now) -> int | None:
    """Return when a cached blob goes at the latest; a mark that cannot be read is none."""
    try:
        value = home.get(Kind.META, keys.cached_key(cid), now=now)
        return None if value is None else LeaseRow.decode(value).expires_unix_s
    except Damaged:
        return None


def _shares(bound: Bound) -> range | tuple[int, ...]:
    return (keys.WHOLE_SHARE,) if bound.is_raw else range(limits.TOTAL_SHARES)
