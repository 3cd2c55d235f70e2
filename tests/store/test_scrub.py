"""A scrub reads everything at a bounded rate, goes on after a restart, and hands damage out."""

import errno
from dataclasses import replace
from pathlib import Path

import pytest

from molia.base.limits import SCRUB_BYTES_PER_S
from molia.base.now import Now
from molia.store.index import ENTRY, Slice
from molia.store.keys import Kind
from molia.store.lmdb_env import IndexFull
from molia.store.scrub import IDLE, SEGMENTS, Scrubber, ScrubStatus
from molia.store.shard import Shard
from tests.store.shards import NOW, TINY, delete, disk_at, open_shard, opened, put

MONTH = 30 * 86_400.0
OPTIONS = replace(TINY, scrub_s=MONTH, segment_bytes=256 * 1024)


def fill(shard: Shard, count: int = 60, size: int = 50_000) -> None:
    """Store about a dozen segments, with deleted and overwritten keys among the others."""
    for number in range(count):
        put(shard, b"k%03d" % number, bytes([number]) * size, kind=Kind.BLOCK)
        if number % 5 == 4:
            delete(shard, b"k%03d" % (number - 1), kind=Kind.BLOCK)
            put(shard, b"k%03d" % (number - 2), bytes(size // 2), kind=Kind.BLOCK)


def scrub(shard: Shard, now: Now, *, seconds: float = 3_600.0) -> Now:
    """Work until the scrub that is due has ended."""
    end_s = now.mono_s + seconds
    for _ in range(100_000):
        due_s = shard.work(now, idle=True)
        assert due_s is not None
        if due_s >= end_s or (shard.scrub_status().phase == IDLE and due_s > now.mono_s + 60):
            return now
        now = now.after(max(0.0, due_s - now.mono_s))
    raise AssertionError("the scrub never ends")


def test_a_pass_reads_every_sealed_byte_once_a_month_at_a_bounded_rate(tmp_path: Path) -> None:
    shard, _ = open_shard(disk_at(tmp_path), OPTIONS)
    fill(shard)
    started = NOW.after(1.0)
    now = scrub(shard, started)
    first = shard.scrub_status()
    assert first.phase == IDLE
    assert first.ended_unix_s >= first.started_unix_s > 0
    log_bytes = shard.stats().log_bytes
    assert first.size_bytes > 0.9 * log_bytes - OPTIONS.segment_bytes - 200_000
    assert now.mono_s - started.mono_s >= first.size_bytes / SCRUB_BYTES_PER_S * 0.9
    assert shard.take_findings() == []
    now = scrub(shard, now.after(10 * 86_400.0))
    assert shard.stats().counters.scrubs == 1
    now = scrub(shard, now.after(21 * 86_400.0))
    assert shard.stats().counters.scrubs == 2
    shard._release()


def test_rot_in_a_sealed_segment_is_found_and_handed_out_once(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    with opened(disk, replace(OPTIONS, scrub_s=0.0)) as shard:
        fill(shard)
    shard, _ = open_shard(disk, OPTIONS)
    path = tmp_path / "shard-00" / "seg" / f"{shard.audit_segments()[0]:016x}.log"
    data = bytearray(path.read_bytes())
    at = data.index(bytes([0]) * 60, 4096)
    at = data.index(b"k000", 4096) + 10_000
    data[at] ^= 0x40
    path.write_bytes(data)
    now = scrub(shard, NOW)
    found = shard.take_findings()
    assert [(item.kind, item.key, item.is_index) for item in found] == [
        (Kind.BLOCK, b"k000", False)
    ]
    assert shard.take_findings() == []
    assert shard.stats().counters.scrub_findings == 1
    assert shard.scrub_status().damaged == 1
    scrub(shard, now.after(MONTH + 60))
    assert len(shard.take_findings()) == 1, "the next pass finds it again"
    shard._release()


def test_rot_in_the_index_is_found_from_both_sides_and_reindex_mends_it(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    shard, _ = open_shard(disk, OPTIONS)
    fill(shard)
    shard.checkpoint(NOW)
    entries = [
        (bytes([Kind.BLOCK]) + b"k000", ENTRY.pack(1, 77, 50_000, 0, 0)),
        (bytes([Kind.BLOCK]) + b"zz-nowhere", ENTRY.pack(3, 5_000, 10, 0, 0)),
    ]
    shard._index.write_slice(Slice(entries, shard._rows, force=True))
    now = scrub(shard, NOW)
    found = shard.take_findings()
    assert {item.key for item in found} == {b"k000", b"zz-nowhere"}
    assert all(item.is_index for item in found)
    assert shard.reindex([(Kind(item.kind), item.key) for item in found], now) == 2
    scrub(shard, now.after(MONTH + 60))
    assert shard.take_findings() == []
    shard._release()


def test_a_restart_goes_on_where_the_last_run_stood(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    shard, _ = open_shard(disk, OPTIONS)
    fill(shard)
    now = NOW
    while shard.scrub_status().segment_id < 4:
        due_s = shard.work(now, idle=True)
        assert due_s is not None
        now = now.after(max(0.0, due_s - now.mono_s))
    before = shard.scrub_status()
    shard._release()
    shard, _ = open_shard(disk, OPTIONS, now=now)
    after = shard.scrub_status()
    assert (after.phase, after.segment_id) == (SEGMENTS, before.segment_id)
    assert after.started_unix_s == before.started_unix_s
    now = scrub(shard, now)
    ended = shard.scrub_status()
    assert ended.ended_unix_s > 0
    shard._release()
    shard, _ = open_shard(disk, OPTIONS, now=now)
    scrub(shard, now.after(86_400.0))
    assert shard.scrub_status() == ended, "the month is not over"
    shard._release()


def test_a_state_that_rotted_only_costs_another_pass() -> None:
    fresh = (ScrubStatus(), (0, b""))
    assert ScrubStatus.decode(b"") == fresh
    assert ScrubStatus.decode(b"short") == fresh
    assert ScrubStatus.decode(b"\xff" * 60) == fresh
    status = ScrubStatus(SEGMENTS, 5, 4, 3, 9, 1000, 2)
    assert ScrubStatus.decode(status.encode((Kind.META, b"key"))) == (status, (Kind.META, b"key"))


@pytest.mark.parametrize("nth", [4, 9])
def test_a_pass_whose_progress_did_not_fit_once_still_reads_everything(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    shard, _ = open_shard(disk_at(tmp_path), OPTIONS)
    fill(shard)
    left, save = [nth], Scrubber._save

    def save_or_fail(scrubber: Scrubber) -> None:
        left[0] -= 1
        if not left[0]:
            raise IndexFull("the disk is full")
        save(scrubber)

    monkeypatch.setattr(Scrubber, "_save", save_or_fail)
    scrub(shard, NOW.after(1.0))
    assert left[0] < 0
    status = shard.scrub_status()
    assert (status.phase, status.segment_id) == (IDLE, status.last_segment_id)
    assert status.size_bytes > 0.9 * shard.stats().log_bytes - OPTIONS.segment_bytes - 200_000
    shard._release()


@pytest.mark.parametrize("nth", [1, 3])
def test_a_pass_waits_while_the_disk_does_not_list_its_segments(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nth: int
) -> None:
    shard, _ = open_shard(disk_at(tmp_path), OPTIONS)
    fill(shard)
    scrubber = shard._chores.scrubber
    left, segments = [nth], scrubber._segments

    def list_or_fail() -> list[int]:
        left[0] -= 1
        if not left[0]:
            raise OSError(errno.EIO, "the disk does not answer")
        return list(segments())

    monkeypatch.setattr(scrubber, "_segments", list_or_fail)
    scrub(shard, NOW.after(1.0))
    assert left[0] < 0
    status = shard.scrub_status()
    assert (status.phase, status.segment_id) == (IDLE, status.last_segment_id)
    assert not shard.failure
    shard._release()
