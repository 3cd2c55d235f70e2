"""Compaction beside readers, audits and time that passes."""

from pathlib import Path

import pytest

from molia.store.compactor import REST_AFTER_S
from molia.store.index import ENTRY, TAGS, TOMBSTONE, Slice
from molia.store.os_disk import OsDisk
from molia.store.segment import segment_id_of
from tests.store.shards import NOW, contents, opened, work_until_idle
from tests.store.test_compaction import OPTIONS, copy_all, fill, thin, until


@pytest.mark.parametrize("phase", ["copy", "move", "retire"])
def test_a_value_whose_entry_is_mended_in_a_victim_stays(tmp_path: Path, phase: str) -> None:
    """The copy took it for dead, for the index had lost it; then an audit found it again."""
    disk = OsDisk(str(tmp_path), plain=True)
    with opened(disk, OPTIONS) as shard:
        stored = fill(shard)
        thin(shard, stored)
        shard.checkpoint(NOW)
        kind, key = min(stored)
        tagged = TAGS[kind] + key
        packed = shard._index.get(tagged)
        assert packed is not None
        lost = Slice([(tagged, packed[:-1] + bytes((TOMBSTONE,)))], shard._rows, force=True)
        shard._index.write_slice(lost)
        until(shard, phase)
        if phase == "copy":
            copy_all(shard)  # the survey
            shard.work(NOW, idle=True)
            copy_all(shard)
        assert shard._compactor.takes(ENTRY.unpack(packed)[0])
        assert shard.reindex([(kind, key)], NOW) == 1
        assert contents(shard) == stored
        work_until_idle(shard)
        assert contents(shard) == stored


def test_a_shard_rests_while_a_long_copy_goes_on(tmp_path: Path) -> None:
    """Also once the time has come at which less garbage is worth a compaction."""
    disk = OsDisk(str(tmp_path), plain=True)
    with opened(disk, OPTIONS) as shard:
        thin(shard, fill(shard))
        until(shard, "copy")
        now, at_once = NOW, 0
        for _ in range(400):
            due_s = shard.work(now, idle=True)
            assert due_s is not None
            at_once += due_s <= now.mono_s
            now = now.after(max(0.0, due_s - now.mono_s))
        assert now.mono_s > NOW.mono_s + 2 * REST_AFTER_S
        assert at_once < 10


def test_a_victim_that_is_read_once_more_is_not_held_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By a reader that looked its key up before it moved: an open file keeps its space."""
    disk = OsDisk(str(tmp_path), plain=True)
    with opened(disk, OPTIONS) as shard:
        thin(shard, fill(shard))
        unlink = disk.unlink

        def read_and_unlink(name: str) -> None:
            segment_id = segment_id_of(name.rpartition("/")[2])
            if segment_id is not None:
                shard._files.get(segment_id)
            unlink(name)

        monkeypatch.setattr(disk, "unlink", read_and_unlink)
        work_until_idle(shard)
        assert shard.stats().counters.retired_segments > 0
        assert set(shard._files._files) <= set(shard.audit_segments())
