"""What this node keeps of blobs for others: HELD, SHARE and LEASE rows, read and written.

A share for others lies under an object as the shares of a blob of ours do, with the same BLOCK
keys, and a HELD row on the blob's home shard says which of them are complete. It has nothing to do
with a BIND row of the same blob: what the user here puts and removes, and what others lease, each
has its own life. Everything is synchronous and may run in any thread, as in `node.catalog`.
Source: docs/reference/store-format.md, "Shares for others".
"""

from collections.abc import Iterator
from dataclasses import dataclass

from molia.base import limits
from molia.base.cid import Cid, Codec
from molia.base.errors import Damaged
from molia.base.hashing import purpose_digest
from molia.base.ids import ObjectId, PeerKey
from molia.base.now import Now
from molia.blobs.geometry import Geometry
from molia.blobs.leases import HeldLease, share_cost
from molia.blobs.manifest import Manifest
from molia.blobs.statements import Kind as StatementKind
from molia.blobs.statements import Statement, parse
from molia.node.catalog import OWNER_SIZE, Bound
from molia.node.shards import ReadShard, ShardSet, keys_of
from molia.store import keys
from molia.store.keys import Kind, Space
from molia.store.rows import BindRow, HeldRow, LeaseRow, ShareRow
from molia.store.shard import Delete, Guard, Put, Transaction


@dataclass(frozen=True, slots=True)
class Held:
    """What is kept of one blob for others."""

    cid: Cid
    row: HeldRow
    encoded: bytes
    """The HELD row as stored, for guards."""

    @property
    def bound(self) -> Bound:
        """The same as a blob of ours of which some blocks are there, for `node.stored`."""
        row = self.row
        is_small = self.cid.codec is Codec.RAW
        content = self.cid.digest if is_small else Manifest.decode(row.manifest).content
        made = BindRow(
            object_id=row.object_id, size=row.size, content=content, manifest=row.manifest,
            created_unix_ms=row.created_unix_s * 1_000, name="", expires_unix_s=None,
        )  # fmt: skip
        return Bound(self.cid, made, self.encoded, pinned=False, supplement=row.supplement)

    @property
    def cost(self) -> int:
        """What its shares count against quotas."""
        return sum(cost_of(self.row.size, share) for share in self.row.shares)


def cost_of(size: int, share: int) -> int:
    """Return what one share of a blob of `size` bytes counts against quotas."""
    if share == keys.WHOLE_SHARE:
        return share_cost(block_bytes=size, stripe_count=0)
    geometry = Geometry.of(size)
    last = geometry.stripe(geometry.stripe_count - 1)
    block_bytes = (geometry.stripe_count - 1) * geometry.block_size + last.size_of(share)
    return share_cost(block_bytes=block_bytes, stripe_count=geometry.stripe_count)


def owner_hash(owner: bytes) -> bytes:
    """Return what stands for an owner in the key of a LEASE row."""
    return purpose_digest("lease-owner", owner)[:OWNER_SIZE]


class HeldShares:
    """The shares that this node keeps for others."""

    def __init__(self, shards: ShardSet) -> None:
        self._shards = shards

    def home(self, cid: Cid) -> ReadShard:
        """Return the shard with the rows about a blob."""
        return self._shards.shards[keys.home_shard(cid, self._shards.count)]

    # ------------------------------------------------------------------ reading

    def find(self, cid: Cid, now: Now) -> Held | None:
        """Return what is kept of a blob for others. Raises Damaged."""
        encoded = self.home(cid).get(Kind.META, keys.held_key(cid), now=now)
        return None if encoded is None else Held(cid, HeldRow.decode(encoded), encoded)

    def bound(self, cid: Cid, now: Now) -> Bound | None:
        """Return the same as `node.stored` takes it. Raises Damaged."""
        held = self.find(cid, now)
        return None if held is None else held.bound

    def by_digest(self, digest: bytes, now: Now) -> list[Held]:
        """Return what is kept of the blobs whose CID has this digest. Raises Damaged."""
        found = (self.find(Cid(codec, digest), now) for codec in (Codec.MANIFEST, Codec.RAW))
        return [held for held in found if held is not None]

    def all(self, now: Now, *, own_only: bool = False) -> Iterator[Held]:
        """Yield all that is readable; own_only: what lies on shards that this process writes."""
        own: list[ReadShard] = [writer.shard for writer in self._shards.own]
        for shard in own if own_only else self._shards.shards:
            yield from self.on(shard, now)

    def on(self, shard: ReadShard, now: Now) -> Iterator[Held]:
        """Yield all of one shard that is readable. Raises ShardUnavailable."""
        for key in keys_of(shard, Kind.META, bytes((Space.HELD,)), now):
            try:
                held = self.find(keys.split_blob_key(key), now)
            except (Damaged, ValueError):
                continue
            if held is not None:
                yield held

    def leases(self, held: Held, now: Now) -> dict[bytes, LeaseRow]:
        """Return the LEASE rows of a blob's object by the hash of their owners."""
        prefix = bytes((Space.LEASE,)) + held.row.object_id
        home, found = self.home(held.cid), {}
        for row in home.scan(Kind.META, prefix, now=now, limit=limits.LEASES_PER_HELD_MAX + 1):
            value = self._lease_row(home, row.key, now)
            if value is not None:
                found[row.key[-OWNER_SIZE:]] = value
        return found

    def lease_of(self, held: Held, owner: PeerKey, now: Now) -> HeldLease | None:
        """Return the lease that an owner has; None without one, or when its row is damaged."""
        key = lease_key(held.row.object_id, owner_hash(owner.key))
        row = self._lease_row(self.home(held.cid), key, now)
        return None if row is None else held_lease(row)

    def _lease_row(self, home: ReadShard, key: bytes, now: Now) -> LeaseRow | None:
        try:
            value = home.get(Kind.META, key, now=now)
            return None if value is None else LeaseRow.decode(value)
        except Damaged:
            return None

    # ------------------------------------------------------------------ transactions

    def keep(
        self, cid: Cid, held: Held | None, row: HeldRow, lease: HeldLease, *, share: int,
        whole: bytes | None, now: Now,
    ) -> Transaction:  # fmt: skip
        """Return what makes a share that is durable a kept one; refused if others changed the row.

        held: what is kept so far. row: the same with the share. whole: the bytes of a small blob.
        """
        key = keys.held_key(cid)
        checked = ShareRow(verified_unix_s=int(now.unix_s), damaged_blocks=0)
        ops = [
            Put(Kind.META, key, row.encode()),
            Put(Kind.META, keys.share_key(row.object_id, share), checked.encode()),
            put_lease(row.object_id, lease),
        ]
        if whole is not None:
            block = keys.block_key(row.object_id, keys.WHOLE_SHARE, 0)
            ops.insert(0, Put(Kind.BLOCK, block, whole))
        return Transaction(tuple(ops), Guard(Kind.META, key, held.encoded if held else None))

    def set_lease(self, held: Held, lease: HeldLease) -> Transaction:
        """Return what takes a lease in; refused if the shares have changed meanwhile."""
        guard = Guard(Kind.META, keys.held_key(held.cid), held.encoded)
        return Transaction((put_lease(held.row.object_id, lease),), guard)

    def end(self, held: Held, owners: list[bytes]) -> Transaction:
        """Return what ends keeping a blob for others; owners: the hashes of those with a lease."""
        object_id, key = held.row.object_id, keys.held_key(held.cid)
        gone = [key, *(keys.share_key(object_id, share) for share in held.row.shares)]
        gone += [lease_key(object_id, owner) for owner in owners]
        ops: list[Put | Delete] = [Delete(Kind.META, each) for each in gone]
        if held.cid.codec is Codec.RAW:
            ops.append(Delete(Kind.BLOCK, keys.block_key(object_id, keys.WHOLE_SHARE, 0)))
        return Transaction(tuple(ops), Guard(Kind.META, key, held.encoded))

    def without(self, held: Held, row: HeldRow) -> Transaction:
        """Return what ends keeping some shares; row: the same with those that stay."""
        object_id, key = held.row.object_id, keys.held_key(held.cid)
        gone = [share for share in held.row.shares if share not in row.shares]
        ops: list[Put | Delete] = [Put(Kind.META, key, row.encode())]
        ops += [Delete(Kind.META, keys.share_key(object_id, share)) for share in gone]
        return Transaction(tuple(ops), Guard(Kind.META, key, held.encoded))

    def lapse(self, held: Held, owner: bytes) -> Transaction:
        """Return what forgets a lease that has run out."""
        guard = Guard(Kind.META, keys.held_key(held.cid), held.encoded)
        return Transaction((Delete(Kind.META, lease_key(held.row.object_id, owner)),), guard)


def lease_key(object_id: ObjectId, owner: bytes) -> bytes:
    """Return the key of the signed lease that an owner has on all shares of an object."""
    return keys.lease_key(object_id, keys.WHOLE_SHARE, owner)


def put_lease(object_id: ObjectId, lease: HeldLease) -> Put:
    """Return what writes a signed lease."""
    key = lease_key(object_id, owner_hash(lease.lease.signer.key))
    return Put(Kind.META, key, LeaseRow(lease.keep_until, lease.lease.encoded).encode())


def held_lease(row: LeaseRow) -> HeldLease | None:
    """Return the signed lease of a row; None of one that was written without it."""
    lease = parse(StatementKind.LEASE, row.signed) if row.signed else None
    return HeldLease(lease, row.expires_unix_s) if isinstance(lease, Statement) else None
