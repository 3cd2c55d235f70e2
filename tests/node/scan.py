"""Looks into the store of a node that does not run: is everything in it owned and whole?"""

from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from molia.base import limits
from molia.base.cid import Cid, Codec
from molia.blobs.manifest import Manifest
from molia.node.system import SystemClock
from molia.store import keys
from molia.store.keys import Kind, Space
from molia.store.os_disk import OsDisk
from molia.store.rows import AliasRow, BindRow, HeldRow
from molia.store.shard import Shard, ShardOptions
from molia.store.superblock import read_superblock

OPTIONS = ShardOptions(ballast_bytes=0)
CLOCK = SystemClock()


@contextmanager
def shards_of(home: Path) -> Iterator[list[Shard]]:
    """Open all shards of a home, and close them."""
    disk = OsDisk(str(home / "data"))
    superblock = read_superblock(disk)
    with ExitStack() as held:
        shards = []
        for index in range(superblock.shard_count):
            shard, _ = Shard.open(
                disk, index, store_uuid=superblock.uuid, options=OPTIONS, now=CLOCK.now()
            )
            held.callback(shard.close, CLOCK.now())
            shards.append(shard)
        yield shards


def scan_all(shards: list[Shard], kind: Kind) -> dict[bytes, bytes]:
    """Return all live keys of a kind; META rows with their values, blocks without."""
    found = {}
    for shard in shards:
        after = b""
        while rows := shard.scan(kind, b"", now=CLOCK.now(), after=after, limit=5_000):
            after = rows[-1].key
            for row in rows:
                value = shard.get(kind, row.key, now=CLOCK.now()) if kind is Kind.META else b""
                assert value is not None
                found[row.key] = value
    return found


def assert_no_orphans(home: Path) -> dict[str, BindRow]:
    """Fail unless every row and block belongs to a blob that is bound, held or cached, and each has
    all of its own.

    Returns the blobs that are bound.
    """
    with shards_of(home) as shards:
        spaces: defaultdict[int, dict[bytes, bytes]] = defaultdict(dict)
        for key, value in scan_all(shards, Kind.META).items():
            spaces[key[0]][key[1:]] = value
        blocks = set(scan_all(shards, Kind.BLOCK))
    assert not spaces[Space.UPLOAD], f"{len(spaces[Space.UPLOAD])} UPLOAD rows are left"
    bound = {_cid(key): BindRow.decode(value) for key, value in spaces[Space.BIND].items()}
    kept = [*spaces[Space.HELD].values(), *spaces[Space.FETCHED].values()]
    held = [HeldRow.decode(value) for value in kept]
    assert {_cid(key) for key in spaces[Space.PLACED]} <= set(bound), "a PLACED row of nobody"
    objects = {bytes(row.object_id) for row in bound.values()}
    objects |= {bytes(row.object_id) for row in held}
    assert len(objects) == len(bound) + len(held), "two blobs share an object"
    assert {key[:16] for key in spaces[Space.LEASE]} == objects, "leases and blobs differ"
    assert {key[:16] for key in spaces[Space.SHARE]} <= objects, "a SHARE row of nobody"
    assert {_cid(key) for key in spaces[Space.PIN]} <= set(bound), "a PIN row of nobody"
    listed = [Cid.from_bytes(key[8:]) for key in spaces[Space.LISTING]]
    assert sorted(map(str, listed)) == sorted(map(str, bound)), "listing and blobs differ"
    aliases = {key: AliasRow.decode(value).cid for key, value in spaces[Space.ALIAS].items()}
    large = {row.content: cid for cid, row in bound.items() if cid.codec is Codec.MANIFEST}
    assert aliases == large, "aliases and blobs differ"
    expected = set().union(*map(_blocks, bound.values()), *map(_held_blocks, held))
    assert not blocks - expected, f"{len(blocks - expected)} blocks of nobody"
    assert not expected - blocks, f"{len(expected - blocks)} blocks are missing"
    return {str(cid): row for cid, row in bound.items()}


def _cid(key: bytes) -> Cid:
    return Cid(Codec(key[0]), key[1:])


def _held_blocks(row: HeldRow) -> set[bytes]:
    if not row.manifest:
        return {keys.block_key(row.object_id, keys.WHOLE_SHARE, 0)}
    geometry = Manifest.decode(row.manifest).geometry
    places = [(share, keys.LEAVES_STRIPE) for share in row.shares]
    for stripe in range(geometry.stripe_count):
        shape = geometry.stripe(stripe)  # shares from 14 on are kept as the first 14 are
        places += [(share, stripe) for share in row.shares if shape.size_of(share) > 0]
    return {keys.block_key(row.object_id, share, stripe) for share, stripe in places}


def _blocks(row: BindRow) -> set[bytes]:
    if not row.manifest:
        return {keys.block_key(row.object_id, keys.WHOLE_SHARE, 0)}
    geometry = Manifest.decode(row.manifest).geometry
    places = [(share, keys.LEAVES_STRIPE) for share in range(limits.TOTAL_SHARES)]
    for stripe in range(geometry.stripe_count):
        places += [(share, stripe) for share in geometry.stripe(stripe).stored_shares]
    return {keys.block_key(row.object_id, share, stripe) for share, stripe in places}
