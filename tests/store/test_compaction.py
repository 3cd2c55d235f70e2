"""Compaction: space comes back, nothing that is alive goes, nothing that is dead comes back."""

import errno
from collections.abc import Callable, Generator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base.errors import ShardUnavailable
from molia.sim.disk import Fault, SimDisk
from molia.sim.entropy import SeededEntropy
from molia.sim.shard_reader import beside
from molia.store.audit import FOOTER_COST_BYTES
from molia.store.compact import Floors
from molia.store.index import ENTRY, RETIRED, TAGS, TOMBSTONE, SegmentRow, Slice
from molia.store.keys import Kind
from molia.store.ops import SegmentAudit
from molia.store.os_disk import OsDisk
from molia.store.segment import COMPACTED, parse_header, segment_id_of
from molia.store.shard import Shard
from tests.store.shards import (
    NOW,
    TINY,
    audit_all,
    contents,
    delete,
    open_shard,
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


# ---------------------------------------------------------------------------- what is deleted


def test_a_delete_is_kept_while_an_output_may_hold_what_it_hides(disk: OsDisk) -> None:
    with opened(disk, OPTIONS) as shard:
        stored = fill(shard, 100)
        thin(shard, stored, keep=3)
        put(shard, b"pad", b"p" * 33_000)
        put(shard, b"pad2", b"p")
        now = work_until_idle(shard)  # all of the first values lies in outputs now
        gone = next(iter(stored))
        delete(shard, gone[1])
        del stored[gone]
        for key, value in values(60, 1_001):
            put(shard, b"filler" + key, value)
        for key, _ in values(60, 1_001):
            delete(shard, b"filler" + key)
        put(shard, b"end", b"e" * 33_000)
        put(shard, b"end2", b"e")
        work_until_idle(shard, now)
        assert gone not in contents(shard)
    with opened(disk, OPTIONS, rebuild=True) as shard:
        assert gone not in contents(shard)
        assert audit_all(shard) == (0, set())


@given(floors=st.dictionaries(st.integers(1, 9), st.integers(1, 50), min_size=1), data=st.data())
def test_a_delete_may_go_once_no_other_file_goes_back_further(
    floors: dict[int, int], data: st.DataObject
) -> None:
    segment_id, lsn = data.draw(st.sampled_from(sorted(floors))), data.draw(st.integers(1, 60))
    others = [floor for sid, floor in floors.items() if sid != segment_id]
    rows = {sid: SegmentRow(min_lsn=floor) for sid, floor in floors.items()}
    assert Floors(rows).needs(lsn, segment_id) == any(floor < lsn for floor in others)


def test_an_output_goes_back_to_where_all_of_it_was_alive(disk: OsDisk) -> None:
    with opened(disk, OPTIONS) as shard:
        thin(shard, fill(shard))
        until(shard, "copy")
        lsn = shard._log.durable_lsn + 1  # that of the seal
        work_until_idle(shard)
        outputs = [row for row in shard._rows.values() if row.kind == COMPACTED]
        assert outputs[0].min_lsn == lsn
        number = min(sid for sid, row in shard._rows.items() if row.kind == COMPACTED)
        header = parse_header(disk.open(f"shard-00/seg/{number:016x}.log").read(0, 4096))
        assert header is not None
        assert header.base_lsn == lsn


def test_deletes_go_once_nothing_is_older(disk: OsDisk) -> None:
    with opened(disk, OPTIONS) as shard:
        now = NOW
        for _ in range(6):
            stored = fill(shard, 100)
            for _, key in stored:
                delete(shard, key)
            now = work_until_idle(shard, now)
        assert shard.stats().counters.dropped_tombstones > 200
        assert shard.stats().log_bytes < 3 * OPTIONS.segment_bytes


def test_an_expired_value_that_was_swept_still_hides_an_older_one(disk: OsDisk) -> None:
    expiry = int(NOW.unix_s) + 10
    with opened(disk, OPTIONS) as shard:
        put(shard, b"twice", b"first")
        fill(shard, 25, 1_000)  # not garbage: the first value's segment stays
        put(shard, b"twice", b"second", expiry=expiry)
        stored = fill(shard, 60, 999)
        shard.checkpoint(NOW)
        late = NOW.after(60.0)
        # a sweep takes the expired entry out of the index and writes no frame
        gone = ENTRY.pack(2**31, 0, 0, 0, TOMBSTONE)
        tagged = TAGS[Kind.META] + b"twice"
        shard._index.write_slice(Slice([(tagged, gone)], shard._rows, force=True))
        for _, key in list(stored)[30:]:
            delete(shard, key)
        work_until_idle(shard, late)
        assert shard.get(Kind.META, b"twice", now=late) is None
        assert shard.stats().counters.retired_segments > 0
    shard, _ = open_shard(disk, OPTIONS, now=late, rebuild=True)
    assert shard.get(Kind.META, b"twice", now=late) is None
    shard._release()


# ---------------------------------------------------------------------------- failures


def sim_disk(path: Path) -> SimDisk:
    disk = SimDisk(path, SeededEntropy("compaction"))
    disk.can_punch = False
    return disk


def copy_all(shard: Shard) -> None:
    while shard.copy_step(NOW) is not None:
        pass


def until(shard: Shard, phase: str) -> None:
    """Work until the compaction is at a phase."""
    for _ in range(2_000):
        if shard.stats().compaction == phase:
            return
        shard.work(NOW, idle=True)
        shard.copy_step(NOW)
    raise AssertionError(f"it never comes to {phase!r}")


@pytest.mark.parametrize("error", [errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("call", ["write", "sync", "open"])
def test_a_copy_that_fails_leaves_everything_as_it_was(
    tmp_path: Path, call: str, error: int
) -> None:
    disk = sim_disk(tmp_path)
    with opened(disk, OPTIONS) as shard:
        stored = fill(shard)
        thin(shard, stored)
        until(shard, "copy")
        copy_all(shard)  # the survey
        shard.work(NOW, idle=True)
        disk.faults = [Fault(call, 1, error)]
        copy_all(shard)
        disk.faults = []
        now = NOW.after(0.1)
        shard.work(now, idle=True)
        assert shard.stats().counters.compaction_failures == 1
        assert shard.failure == ""
        assert not [name for name in segments(disk) if name.endswith(".cmp")]
        assert contents(shard) == stored
        work_until_idle(shard, now.after(120.0))
        assert contents(shard) == stored
        assert audit_all(shard) == (0, set())


@pytest.mark.parametrize("call", ["rename", "sync_dir", "unlink"])
def test_a_name_that_cannot_be_changed_stops_the_writes_and_loses_nothing(
    tmp_path: Path, call: str
) -> None:
    disk = sim_disk(tmp_path)
    with opened(disk, OPTIONS) as shard:
        stored = fill(shard)
        thin(shard, stored)
        until(shard, "copy")
        disk.faults = [Fault(call, 1, errno.EIO, lasting=True)]
        with pytest.raises(ShardUnavailable):
            until(shard, "never")
        assert contents(shard) == stored
    disk.faults = []
    disk.release_locks()
    for rebuild in (False, True):
        with opened(disk, OPTIONS, rebuild=rebuild) as shard:
            assert contents(shard) == stored
            work_until_idle(shard)
            assert contents(shard) == stored
        disk.release_locks()


@pytest.mark.parametrize("call", ["sync_dir", "unlink"])
def test_what_cannot_be_unlinked_for_want_of_space_is_tried_again_after_a_rest(
    tmp_path: Path, call: str
) -> None:
    """Some file systems need space to let go of a name."""
    disk = sim_disk(tmp_path)
    with opened(disk, OPTIONS) as shard:
        stored = fill(shard)
        thin(shard, stored)
        until(shard, "unlink")
        disk.faults = [Fault(call, 1, errno.ENOSPC, lasting=True)]
        due_s = [shard.work(NOW, idle=True) for _ in range(20)]
        assert all(at_s is not None and at_s > NOW.mono_s for at_s in due_s)
        disk.faults = []
        work_until_idle(shard)
        assert shard.stats().counters.retired_segments > 0
        assert contents(shard) == stored


def test_a_damaged_victim_is_left_alone(disk: OsDisk) -> None:
    with opened(disk, OPTIONS) as shard:
        stored = fill(shard)
        thin(shard, stored)
        shard.checkpoint(NOW)
        victim = disk.open(f"shard-00/seg/{segments(disk)[1]}")
        victim.write(victim.size() - 3, [b"\x00"])
        work_until_idle(shard)
        work_until_idle(shard, NOW.after(120.0))
        assert shard.stats().counters.compaction_failures == 1
        assert shard.stats().counters.compactions > 0
        assert contents(shard) == stored
        assert segments(disk)[0] > "0" * 15 + "1"


@pytest.mark.parametrize("phase", ["copy", "move", "retire", "unlink"])
def test_a_process_that_dies_at_any_phase_leaves_what_the_next_one_needs(
    disk: OsDisk, phase: str
) -> None:
    with opened(disk, OPTIONS) as shard:
        stored = fill(shard)
        thin(shard, stored)
        until(shard, phase)
    with opened(disk, OPTIONS) as shard:
        assert contents(shard) == stored
        assert audit_all(shard) == (0, set())
        assert not [row for row in shard._rows.values() if row.state == RETIRED]
        work_until_idle(shard)
        assert contents(shard) == stored
        assert len(segments(disk)) == shard.stats().segments


def test_nothing_is_lost_when_index_entries_are_mended_while_it_moves(disk: OsDisk) -> None:
    with opened(disk, OPTIONS) as shard:
        stored = fill(shard)
        thin(shard, stored)
        until(shard, "move")
        shard.work(NOW, idle=True)
        shard.reindex(list(stored), NOW)
        work_until_idle(shard)
        assert contents(shard) == stored
        assert audit_all(shard) == (0, set())


def test_a_compaction_that_finds_no_room_waits_and_then_takes_the_ballast(tmp_path: Path) -> None:
    disk = sim_disk(tmp_path)
    options = replace(OPTIONS, ballast_bytes=64 * 1024)
    with opened(disk, options) as shard:
        stored = fill(shard, 120)
        shard.checkpoint(NOW)
        disk.capacity = disk.used_bytes() + 24 * 1024
        thin(shard, stored)
        disk.capacity = disk.used_bytes() + 4096
        shard.checkpoint(NOW)
        work_until_idle(shard)
        assert shard.stats().counters.retired_segments > 0
        assert contents(shard) == stored
        assert disk.room_bytes() > 40 * 1024


def test_other_processes_find_what_was_moved(tmp_path: Path) -> None:
    disk = OsDisk(str(tmp_path), plain=True)
    with opened(disk, replace(OPTIONS, shared=True)) as shard:
        reader = beside(shard)
        stored = fill(shard)
        thin(shard, stored)
        seen = set()
        for _ in range(3_000):
            shard.work(NOW, idle=True)
            shard.copy_step(NOW)
            phase = shard.stats().compaction
            if phase not in seen or phase in ("move", "unlink"):
                assert contents(reader) == stored
                seen.add(phase)
            if shard.stats().counters.retired_segments > 5:
                break
        assert {"copy", "move", "retire", "unlink"} <= seen
        assert contents(reader) == stored


# ---------------------------------------------------------------------------- what it takes


@pytest.mark.parametrize("shared", [False, True])
def test_the_disk_bytes_told_are_those_that_are_taken(
    disk: OsDisk, tmp_path: Path, shared: bool
) -> None:
    options = replace(OPTIONS, ballast_bytes=100_000, segment_bytes=400_000, shared=shared)
    with opened(disk, options) as shard:
        thin(shard, fill(shard, 120, 20_000), keep=2)
        work_until_idle(shard)
        told = shard.stats().disk_bytes
        files = [path for path in (tmp_path / "data" / "shard-00").rglob("*") if path.is_file()]
        taken = sum(path.stat().st_blocks * 512 for path in files)
        # a file has a half-filled page at its end, and a page of its own for the list of its holes
        assert abs(told - taken) <= 0.01 * taken + 2 * 4_096 * len(segments(disk))
        assert told > shard.stats().log_bytes + 100_000


def test_less_garbage_is_enough_when_the_quota_is_nearly_used_up(disk: OsDisk) -> None:
    with opened(disk, OPTIONS) as shard:
        stored = fill(shard)
        for number, (kind, key) in enumerate(list(stored)):
            if number % 4 == 0 and number < 120:
                put(shard, key, b"short")
                stored[kind, key] = b"short"
        shard.checkpoint(NOW)
        done = []
        for pressed in (False, True):
            shard.press(pressed=pressed)
            for _ in range(200):
                shard.work(NOW, idle=False)
                shard.copy_step(NOW)
            done.append(shard.stats().counters.retired_segments)
        assert done[0] == 0
        assert done[1] > 3
        assert contents(shard) == stored


def test_a_copy_that_ended_is_looked_for_whenever_it_ended(tmp_path: Path) -> None:
    """Also when that was between the writer's look and its going to sleep."""
    with opened(OsDisk(str(make_dir(tmp_path)), plain=True), OPTIONS) as shard:
        thin(shard, fill(shard))
        now = NOW
        for _ in range(200):
            due_s = shard.work(now, idle=True)
            if shard.is_copying:
                break
            now = now.after(max(0.0, (due_s or now.mono_s) - now.mono_s))
        assert shard.is_copying
        while shard.copy_step(now) is not None:
            pass
        due_s = shard._upkeep._next_s(now, idle=True)
        assert due_s is not None
        assert due_s <= now.mono_s + 1.0


def make_dir(path: Path) -> Path:
    """Return a directory for a store."""
    (path / "store").mkdir()
    return path / "store"


class Watched(OsDisk):
    """A disk that calls back once a file has lost its name."""

    def __init__(self, root: str) -> None:
        super().__init__(root)
        self.then: Callable[[str], None] = lambda _: None

    def unlink(self, name: str) -> None:
        """Remove a file's name, and say so."""
        super().unlink(name)
        self.then(name)


@pytest.mark.parametrize("shared", [False, True])
def test_an_audit_of_a_segment_that_is_just_being_unlinked_finds_nothing(
    tmp_path: Path, shared: bool
) -> None:
    disk = Watched(str(tmp_path / "data"))
    disk.make_dir("")
    with opened(disk, replace(OPTIONS, shared=shared)) as shard:
        audits = []

        def look(name: str) -> None:
            segment_id = segment_id_of(name.rpartition("/")[2])
            if segment_id is not None:
                audits.append(shard.audit_segment(segment_id, now=NOW))

        disk.then = look
        thin(shard, fill(shard))
        work_until_idle(shard)
    assert audits
    assert not any(audit.damaged or audit.index_wrong for audit in audits)


Steps = Generator[int, None, SegmentAudit]


def begin(steps: Steps, *, footers: bool) -> Steps:
    """Take an audit's first step, or all but looking through the footers; return the audit."""
    for read in steps:
        if not footers or read == FOOTER_COST_BYTES:
            break
    return steps


def end(steps: Steps) -> SegmentAudit:
    """Take an audit's other steps."""
    while True:
        try:
            next(steps)
        except StopIteration as last:
            found: SegmentAudit = last.value
            return found


@pytest.mark.parametrize("footers", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_an_audit_goes_on_when_compaction_takes_away_what_it_reads(
    tmp_path: Path, shared: bool, footers: bool
) -> None:
    disk = OsDisk(str(tmp_path / "data"))
    disk.make_dir("")
    with opened(disk, replace(OPTIONS, shared=shared)) as shard:
        stored = fill(shard, 60)
        junk = {(Kind.META, b"junk%d" % number): b"j" * 1_000 for number in range(60)}
        for kind, key in junk:
            put(shard, key, junk[kind, key])
        gone = [key for _, key in list(stored)[::10]]
        delete(shard, *gone)  # their old frames stay: only these deletes hide them
        delete(shard, *(key for _, key in junk))
        shard.checkpoint(NOW)
        before = shard.audit_segments()
        audits = [
            begin(shard._auditor.audit_steps(sid, NOW.unix_s), footers=footers) for sid in before
        ]
        work_until_idle(shard)
        assert set(before[:2]) < set(shard.audit_segments()), "the first ones stay"
        assert set(before) - set(shard.audit_segments()), "others are rewritten"
        for audit in map(end, audits):
            assert (audit.damaged, audit.index_wrong) == ((), ())
        assert audit_all(shard) == (0, set())
