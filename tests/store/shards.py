"""Shards for tests: tiny ones, and what is commonly done to them."""

import itertools
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from molia.base.now import Now
from molia.store.disk import Disk
from molia.store.keys import DATA_KINDS, Kind
from molia.store.ops import RecoveryReport
from molia.store.os_disk import OsDisk
from molia.store.shard import Delete, Put, Shard, ShardOptions, Transaction
from molia.store.shared import SharedShard

UUID = bytes(range(16))
NOW = Now(1_000.0, 1_700_000_000.0)
TINY = ShardOptions(
    segment_bytes=32 * 1024, ballast_bytes=0, reserve_bytes=0, map_bytes=64 << 20,
    checkpoint_keys=1_000, slice_keys=7,
)  # fmt: skip
Named = tuple[Kind, bytes]


def disk_at(path: Path) -> OsDisk:
    """Return an empty or used disk at a directory."""
    disk = OsDisk(str(path))
    disk.make_dir("")
    return disk


def open_shard(
    disk: Disk, options: ShardOptions = TINY, *, now: Now = NOW, rebuild: bool = False
) -> tuple[Shard, RecoveryReport]:
    """Open shard 0."""
    return Shard.open(
        disk, 0, store_uuid=UUID, options=options, now=now, rebuild_index=rebuild
    )  # fmt: skip


@contextmanager
def opened(disk: Disk, options: ShardOptions = TINY, *, rebuild: bool = False) -> Iterator[Shard]:
    """Open shard 0 for a while; afterwards let it go as a killed process would."""
    shard, _ = open_shard(disk, options, rebuild=rebuild)
    try:
        yield shard
    finally:
        shard._release()


def put(shard: Shard, key: bytes, value: bytes, *, kind: Kind = Kind.META, expiry: int = 0) -> None:
    """Store one value, overwriting."""
    shard.apply([Transaction((Put(kind, key, value, expiry, overwrite=True),))], NOW)


def delete(shard: Shard, *keys: bytes, kind: Kind = Kind.META) -> None:
    """Forget keys, in one transaction."""
    shard.apply([Transaction(tuple(Delete(kind, key) for key in keys))], NOW)


def contents(shard: Shard | SharedShard, now: Now = NOW) -> dict[Named, bytes]:
    """Return all that a shard shows, and check that scan, size_of and get agree."""
    found: dict[Named, bytes] = {}
    for kind in DATA_KINDS:
        rows = shard.scan(kind, b"", now=now, limit=10_000)
        assert all(a.key < b.key for a, b in itertools.pairwise(rows))
        for row in rows:
            value = shard.get(kind, row.key, now=now)
            assert value is not None
            assert shard.size_of(kind, row.key, now=now) == row.size == len(value)
            found[kind, row.key] = value
    return found


def work_until_idle(shard: Shard, now: Now = NOW, *, steps: int = 10_000) -> Now:
    """Call work until nothing is due, letting time pass; return the time then."""
    for _ in range(steps):
        due_s = shard.work(now, idle=True)
        while shard.copy_step(now) is not None:
            pass
        if shard.is_copying:
            continue
        if due_s is None:
            return now
        now = now.after(max(0.0, due_s - now.mono_s))
    raise AssertionError("the shard never comes to rest")


def audit_all(shard: Shard, now: Now = NOW) -> tuple[int, set[Named]]:
    """Audit every segment; return the number of damaged places and the keys indexed wrongly."""
    audits = [shard.audit_segment(sid, now=now) for sid in shard.audit_segments()]
    wrong = {named for audit in audits for named in audit.index_wrong}
    for kind in DATA_KINDS:
        after: bytes | None = b""
        while after is not None:
            astray, after = shard.audit_index(kind, after=after, limit=50)
            wrong.update(astray)
    return sum(len(audit.damaged) for audit in audits), wrong


def values(count: int, size: int) -> Iterable[tuple[bytes, bytes]]:
    """Return keys and values that tell each other apart."""
    for number in range(count):
        seed = number.to_bytes(4)
        yield b"key" + seed, (seed * (size // 4 + 1))[:size]
