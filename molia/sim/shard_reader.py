"""Looks at a shard from outside: all that it holds, and how it goes when its process dies."""

from typing import Final, Protocol

from molia.base.now import Now
from molia.sim.disk import SimDisk
from molia.sim.shard_model import Key
from molia.store.keys import DATA_KINDS, Kind
from molia.store.ops import Row
from molia.store.shard import Shard
from molia.store.shared import SharedShard, View

ROWS_MAX: Final = 10_000


class Readable(Protocol):
    """What a shard and a reader in another process have in common."""

    def get(self, kind: Kind, key: bytes, *, now: Now) -> bytes | None:
        """Return a value."""
        ...

    def scan(self, kind: Kind, prefix: bytes, *, now: Now, limit: int) -> list[Row]:
        """Return keys in order."""
        ...


def beside(shard: Shard) -> SharedShard:
    """Return the shard as another process would see it, by way of its own environments.

    A process may open each of them once, so this one must not be closed.
    """
    delta = shard._delta  # noqa: SLF001
    assert delta is not None, "the shard is shared"
    home, index = shard._home, shard._index  # noqa: SLF001
    shared = SharedShard(
        home.disk,
        home.index,
        store_uuid=home.store_uuid,
        options=shard._options,  # noqa: SLF001
    )
    shared._reader._view = View(home, index, delta.view(), delta.epoch)  # noqa: SLF001
    return shared


def read_all(shard: Readable, now: Now) -> dict[Key, bytes]:
    """Return every value that is there. Raises Damaged; AssertionError if scan and get disagree."""
    found: dict[Key, bytes] = {}
    for kind in DATA_KINDS:
        rows = shard.scan(kind, b"", now=now, limit=ROWS_MAX)
        keys = [row.key for row in rows]
        assert keys == sorted(set(keys)), f"a scan of {kind.name} is out of order"
        for row in rows:
            value = shard.get(kind, row.key, now=now)
            assert value is not None, f"a scan shows {kind.name} {row.key.hex()}, a read does not"
            assert len(value) == row.size, f"{kind.name} {row.key.hex()}: size {row.size} in a scan"
            found[kind, row.key] = value
    return found


def audit_all(shard: Shard, now: Now) -> str:
    """Return what audits of all segments find wrong, or nothing."""
    for segment_id in shard.audit_segments():
        audit = shard.audit_segment(segment_id, now=now)
        if audit.damaged or audit.index_wrong:
            return f"an audit finds {audit}"
    return ""


def release(shard: Shard, disk: SimDisk) -> None:
    """Let go of a shard as the death of its process would: nothing more is written."""
    shard._release()  # noqa: SLF001  a process that is killed closes nothing in order
    disk.release_locks()
