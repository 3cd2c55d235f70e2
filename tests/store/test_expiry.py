"""Expired keys leave the index and their space returns; a clock that jumps removes nothing."""

from dataclasses import replace
from pathlib import Path

import pytest

from molia.base.limits import CLOCK_WAIT_S
from molia.base.now import Now
from molia.store.clock import ClockGuard
from molia.store.keys import Kind
from molia.store.shard import Put, Shard, Transaction
from tests.store.shards import (
    NOW,
    TINY,
    audit_all,
    contents,
    disk_at,
    open_shard,
    opened,
    put,
    work_until_idle,
)

SWEEPING = replace(TINY, sweep_s=60.0, punch_bytes=1 << 20)
HOUR = 3_600.0


def fill(shard: Shard, now: Now, *, count: int = 40, life_s: int = 600) -> None:
    """Store blocks of 20 KB, every second of them with a short life."""
    for number in range(count):
        expiry = int(now.unix_s) + life_s if number % 2 else 0
        value = bytes([number]) * 20_000
        shard.apply([Transaction((Put(Kind.BLOCK, b"b%03d" % number, value, expiry),))], now)


def work(shard: Shard, now: Now, *, seconds: float, steps: int = 3_000) -> Now:
    """Let the shard do its chores for a while of its own time."""
    end_s = now.mono_s + seconds
    for _ in range(steps):
        due_s = shard.work(now, idle=True)
        if due_s is None or due_s >= end_s:
            return now.after(end_s - now.mono_s)
        now = now.after(max(0.0, due_s - now.mono_s))
    raise AssertionError("the shard never comes to rest")


def test_what_has_expired_leaves_the_index_and_gives_its_space_back(tmp_path: Path) -> None:
    shard, _ = open_shard(disk_at(tmp_path), SWEEPING)
    fill(shard, NOW)
    before = shard.stats()
    now = work(shard, NOW, seconds=900.0)
    found = {key for _, key in contents(shard, now)}
    assert found == {b"b%03d" % number for number in range(0, 40, 2)}
    after = shard.stats()
    assert (after.keys, before.keys) == (20, 40)
    assert after.counters.expired_keys == 20
    assert after.counters.expired_bytes == 20 * 20_000
    assert after.log_bytes < before.log_bytes - 20 * 12_000, "the values were punched"
    assert audit_all(shard, now) == (0, set())
    shard._release()


def test_expired_keys_stay_gone_after_a_restart_and_a_rebuild(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    with opened(disk, SWEEPING) as shard:
        fill(shard, NOW)
        now = work(shard, NOW, seconds=900.0)
        expected = contents(shard, now)
    for rebuild in (False, True):
        shard, report = open_shard(disk, SWEEPING, now=now, rebuild=rebuild)
        assert not report.damage_count, report
        assert contents(shard, now) == expected
        assert audit_all(shard, now) == (0, set())
        now = work(shard, now, seconds=900.0)
        assert shard.stats().keys == len(expected)
        assert audit_all(shard, now) == (0, set())
        shard._release()


def test_a_key_that_was_written_again_is_not_taken_for_its_expired_version(
    tmp_path: Path,
) -> None:
    shard, _ = open_shard(disk_at(tmp_path), SWEEPING)
    put(shard, b"key", b"old" * 5_000, kind=Kind.BLOCK, expiry=int(NOW.unix_s) + 10)
    shard.checkpoint(NOW)
    now = NOW.after(30.0)
    shard.apply([Transaction((Put(Kind.BLOCK, b"key", b"new", 0),))], now)
    now = work(shard, now, seconds=900.0)
    assert contents(shard, now) == {(Kind.BLOCK, b"key"): b"new"}
    assert shard.stats().counters.expired_keys == 0
    shard._release()


def test_every_swept_kind_is_swept_and_rows_are_not(tmp_path: Path) -> None:
    shard, _ = open_shard(disk_at(tmp_path), SWEEPING)
    for kind in (Kind.BLOCK, Kind.RECORD, Kind.PROVIDER, Kind.META):
        put(shard, b"key", b"value", kind=kind, expiry=int(NOW.unix_s) + 10)
    now = work(shard, NOW, seconds=600.0)
    assert shard.stats().counters.expired_keys == 3
    assert contents(shard, now) == {}
    shard._release()


def test_a_round_over_many_keys_takes_many_turns_and_goes_on_after_a_restart(
    tmp_path: Path,
) -> None:
    options = replace(SWEEPING, sweep_s=HOUR, segment_bytes=1 << 20, slice_keys=5_000)
    disk = disk_at(tmp_path)
    shard, _ = open_shard(disk, options)
    expiry = int(NOW.unix_s) + 10
    for first in range(0, 20_000, 1_000):
        ops = tuple(Put(Kind.RECORD, b"%08d" % n, b"", expiry) for n in range(first, first + 1_000))
        shard.apply([Transaction(ops)], NOW)
    shard.checkpoint(NOW)
    now = work(shard, NOW, seconds=200.0)
    gone = shard.stats().counters.expired_keys
    assert 5_000 <= gone < 20_000
    shard._release()
    shard, _ = open_shard(disk, options, now=now)
    work(shard, now, seconds=400.0)
    assert gone + shard.stats().counters.expired_keys == 20_000
    shard._release()


@pytest.mark.parametrize("jump_s", [-30 * 86_400.0, 2 * HOUR, 20 * 365 * 86_400.0])
def test_a_clock_that_jumps_removes_nothing_for_a_day_or_until_somebody_looked(
    tmp_path: Path, jump_s: float
) -> None:
    shard, _ = open_shard(disk_at(tmp_path), SWEEPING)
    fill(shard, NOW, life_s=60)
    now = NOW.after(30.0)
    jumped = Now(now.mono_s + 60.0, now.unix_s + 60.0 + jump_s)
    jumped = work(shard, jumped, seconds=HOUR)
    stats = shard.stats()
    assert stats.counters.expired_keys == 0
    assert stats.counters.expiry_waits > 10
    assert "jumped" in shard.clock_doubt(jumped)
    shard.trust_clock(jumped)
    assert not shard.clock_doubt(jumped)
    work(shard, jumped, seconds=HOUR)
    assert shard.stats().counters.expired_keys == (20 if jump_s > 0 else 0)
    shard._release()


def test_a_store_that_was_away_for_long_waits_a_day(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    with opened(disk, SWEEPING) as shard:
        fill(shard, NOW, life_s=60)
    later = Now(5.0, NOW.unix_s + 2 * HOUR)  # the machine was off: its clock may be wrong
    shard, _ = open_shard(disk, SWEEPING, now=later)
    later = work(shard, later, seconds=CLOCK_WAIT_S - 60.0, steps=50_000)
    assert shard.stats().counters.expired_keys == 0
    work(shard, later, seconds=HOUR)
    assert shard.stats().counters.expired_keys == 20
    shard._release()


def test_a_clock_that_was_once_far_ahead_is_forgotten(tmp_path: Path) -> None:
    """Else each start for years would wait a day."""
    disk = disk_at(tmp_path)
    wrong = Now(0.0, NOW.unix_s + 20 * 365 * 86_400)
    with opened(disk, SWEEPING) as shard:
        put(shard, b"key", b"value")
    shard, _ = open_shard(disk, SWEEPING, now=wrong)
    shard._release()
    shard, _ = open_shard(disk, SWEEPING)
    assert shard.clock_doubt(NOW)
    shard.trust_clock(NOW)
    now = work(shard, NOW, seconds=120.0)
    put(shard, b"key", b"value")
    shard.checkpoint(now)
    shard._release()
    shard, _ = open_shard(disk, SWEEPING, now=now)
    assert not shard.clock_doubt(now)
    shard._release()


def test_slow_drift_and_small_steps_are_no_jump() -> None:
    guard = ClockGuard(NOW, last_seen_unix_s=int(NOW.unix_s) - 60)
    now = NOW
    for _ in range(365 * 24):  # a second in an hour, for a year
        now = Now(now.mono_s + HOUR, now.unix_s + HOUR + 1.0)
        assert not guard.doubt(now)
    assert guard.jumps == 0
    assert guard.doubt(Now(now.mono_s + 1.0, now.unix_s + 700.0))
    assert guard.jumps == 1


def test_a_shard_that_is_never_at_rest_takes_expired_keys_out_all_the_same(
    tmp_path: Path,
) -> None:
    shard, _ = open_shard(disk_at(tmp_path), replace(SWEEPING, punch_bytes=8_192))
    fill(shard, NOW, life_s=60)
    shard.checkpoint(NOW)
    now = NOW
    for number in range(250):
        for _ in range(3):  # more dies than one step of work can punch
            put(shard, b"hot%d" % (number % 7), bytes([number % 256]) * 30_000, kind=Kind.BLOCK)
        due_s = shard.work(now, idle=False)
        assert due_s is not None
        now = now.after(1.0)
    assert shard.stats().counters.expired_keys == 20
    shard._release()


def test_without_a_sweep_nothing_is_removed_and_the_shard_rests(tmp_path: Path) -> None:
    shard, _ = open_shard(disk_at(tmp_path), TINY)
    fill(shard, NOW, life_s=10)
    now = work_until_idle(shard, NOW.after(HOUR))
    assert shard.work(now, idle=True) is None
    assert shard.stats().counters.expired_keys == 0
    shard._release()


def test_a_clock_that_went_back_to_where_it_was_is_believed_at_once() -> None:
    guard = ClockGuard(NOW, last_seen_unix_s=0)
    ahead = Now(NOW.mono_s + 60.0, NOW.unix_s + 60.0 + 40 * 86_400)
    assert guard.doubt(ahead)
    assert guard.doubt(Now(ahead.mono_s + 60.0, ahead.unix_s + 60.0))
    assert not guard.doubt(NOW.after(300.0))
    assert guard.doubt(Now(NOW.mono_s + 400.0, ahead.unix_s))
    assert guard.doubt(Now(NOW.mono_s + 500.0, ahead.unix_s - 86_400)), "that is a third time"
