"""Compaction: space comes back, nothing that is alive goes, nothing that is dead comes back."""

from dataclasses import replace
from pathlib import Path

import pytest

from molia.sim.disk import SimDisk
from molia.store.keys import Kind
from molia.store.os_disk import OsDisk
from molia.store.segment import COMPACTED, parse_header
from molia.store.shard import Shard
from tests.store.shards import (
    NOW,
    TINY,
    audit_all,
    contents,
    delete,
    opened,
    put,
    values,
    work_until_idle,
)

OPTIONS = replace(TINY, compact=True, checkpoint_keys=40)
Named = tuple[Kind, bytes]


@pytest.fixture(params=["punching", "plain"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> OsDisk:
    """A real disk, with hole punching and without."""
    disk = OsDisk(str(tmp_path / "data"), plain=request.param == "plain")
    disk.make_dir("")
    return disk


def segments(disk: OsDisk | SimDisk) -> list[str]:
    return disk.list_dir("shard-00/seg")


def kinds(disk: OsDisk) -> list[int]:
    found = []
    for name in segments(disk):
        header = parse_header(disk.open(f"shard-00/seg/{name}").read(0, 4096))
        assert header is not None
        found.append(header.kind)
    return found


def fill(shard: Shard, count: int = 200, size: int = 1_000) -> dict[Named, bytes]:
    """Put values into several segments; return what they are."""
    stored = {}
    for key, value in values(count, size):
        put(shard, key, value)
        stored[Kind.META, key] = value
    return stored


def thin(shard: Shard, stored: dict[Named, bytes], keep: int = 4) -> None:
    """Delete all but one key in `keep`."""
    for number, (kind, key) in enumerate(list(stored)):
        if number % keep:
            delete(shard, key)
            del stored[kind, key]


def test_space_comes_back_and_what_is_alive_stays(disk: OsDisk) -> None:
    with opened(disk, OPTIONS) as shard:
        stored = fill(shard)
        before = shard.stats().log_bytes
        thin(shard, stored)
        work_until_idle(shard)
        stats = shard.stats()
        assert stats.counters.compactions > 0
        assert stats.counters.compaction_failures == 0
        assert stats.counters.retired_segments >= 5
        assert stats.log_bytes < 0.5 * before
        assert stats.compaction == ""
        assert contents(shard) == stored
        assert audit_all(shard) == (0, set())
    assert COMPACTED in kinds(disk)
    assert not [name for name in segments(disk) if name.endswith(".cmp")]
    for rebuild in (False, True):
        with opened(disk, OPTIONS, rebuild=rebuild) as shard:
            assert contents(shard) == stored
            assert audit_all(shard) == (0, set())


def test_a_shard_that_does_not_compact_keeps_its_segments(disk: OsDisk) -> None:
    with opened(disk, TINY) as shard:
        thin(shard, fill(shard))
        work_until_idle(shard)
        shard.checkpoint(NOW)
        assert shard.stats().counters.compactions == 0
        assert not shard.is_copying


def test_deleted_keys_stay_deleted_in_a_rebuild_after_many_compactions(disk: OsDisk) -> None:
    stored: dict[Named, bytes] = {}
    with opened(disk, OPTIONS) as shard:
        for turn in range(8):
            stored |= fill(shard, 60 + 10 * turn, 700 + turn)
            thin(shard, stored, keep=3)
            work_until_idle(shard)
            assert contents(shard) == stored
        assert shard.stats().counters.compactions > 5
    with opened(disk, OPTIONS, rebuild=True) as shard:
        assert contents(shard) == stored
        assert audit_all(shard) == (0, set())


def test_a_segment_without_anything_alive_goes_without_a_copy(disk: OsDisk) -> None:
    with opened(disk, OPTIONS) as shard:
        stored = fill(shard)
        for _, key in stored:
            delete(shard, key)
        put(shard, b"last", b"x" * 40_000)
        put(shard, b"more", b"y")
        work_until_idle(shard)
        stats = shard.stats()
        assert stats.counters.retired_segments >= 6
        assert stats.counters.compacted_bytes < 40_000
        assert set(contents(shard)) == {(Kind.META, b"last"), (Kind.META, b"more")}


def test_what_is_written_while_it_is_copied_wins(disk: OsDisk) -> None:
    with opened(disk, OPTIONS) as shard:
        stored = fill(shard)
        thin(shard, stored)
        now = NOW
        for _ in range(200):
            due_s = shard.work(now, idle=True)
            shard.copy_step(now)
            kept = list(stored)
            if shard.stats().compaction in ("copy", "move") and len(kept) > 10:
                delete(shard, kept[0][1])
                del stored[kept[0]]
                put(shard, kept[1][1], b"newer")
                stored[kept[1]] = b"newer"
            assert contents(shard) == stored
            now = now.after(0.0 if due_s is None else max(0.0, due_s - now.mono_s))
        work_until_idle(shard, now)
        assert contents(shard) == stored
        assert shard.stats().counters.compactions > 0
    with opened(disk, OPTIONS, rebuild=True) as shard:
        assert contents(shard) == stored
        assert audit_all(shard) == (0, set())
