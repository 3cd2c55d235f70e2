"""Flipped bits in segments and index: never a wrong value, and the audit finds them."""

import os
import random
import shutil
from pathlib import Path

import pytest

from molia.base.errors import Damaged, ShardUnavailable
from molia.store.keys import Kind
from molia.store.shard import ShardOptions
from tests.store.shards import (
    NOW,
    Named,
    audit_all,
    delete,
    disk_at,
    open_shard,
    opened,
    put,
    values,
)

OPTIONS = ShardOptions(
    segment_bytes=64 * 1024, ballast_bytes=0, reserve_bytes=0, map_bytes=64 << 20,
    checkpoint_keys=1_000,
)  # fmt: skip
FLIPS = int(os.environ.get("MOLIA_TEST_FLIPS", "60"))
"""Of each of three kinds; `make fuzz` tries more."""
GOOD, WRONG, UNFOUND, UNMENDED = range(4)


def build(root: Path) -> dict[Named, bytes]:
    """Make a closed store; return what it holds."""
    shard, _ = open_shard(disk_at(root), OPTIONS)
    expected: dict[Named, bytes] = {}
    for number, (key, value) in enumerate(values(60, 900)):
        value = value * (100 if number % 20 == 7 else 1)
        kind = (Kind.BLOCK, Kind.META, Kind.RECORD)[number % 3]
        put(shard, key, value, kind=kind)
        expected[kind, key] = value
    for kind, key in list(expected)[::6]:
        delete(shard, key, kind=kind)
        del expected[kind, key]
    shard.close(NOW)
    return expected


def read(root: Path, expected: dict[Named, bytes], *, rebuild: bool) -> tuple[int, int, int]:
    """Open a store; return how many values are wrong, are damaged or gone, and damage found."""
    shard, report = open_shard(disk_at(root), OPTIONS, rebuild=rebuild)
    wrong = lost = 0
    try:
        for (kind, key), value in expected.items():
            try:
                found = shard.get(kind, key, now=NOW)
            except Damaged:
                lost += 1
                continue
            wrong += found not in (value, None)
            lost += found is None
        for kind, key in deleted(expected):
            wrong += shard.get(kind, key, now=NOW) is not None
        damaged, index_wrong = audit_all(shard)
        return wrong, lost, report.damage_count + damaged + len(index_wrong)
    finally:
        shard._release()


def deleted(expected: dict[Named, bytes]) -> set[Named]:
    """The keys that were deleted."""
    kinds = (Kind.BLOCK, Kind.META, Kind.RECORD)
    return {(kinds[n % 3], key) for n, (key, _) in enumerate(values(60, 1))} - set(expected)


def flip(path: Path, rng: random.Random, low: int = 0) -> int:
    """Flip one bit of a file; return where."""
    data = bytearray(path.read_bytes())
    at = rng.randrange(low, len(data))
    data[at] ^= 1 << rng.randrange(8)
    path.write_bytes(data)
    return at


def test_a_flipped_bit_in_a_segment_is_found_and_never_served(tmp_path: Path) -> None:
    expected = build(tmp_path / "good")
    rng = random.Random(5)
    for number in range(FLIPS):
        root = tmp_path / "flipped"
        shutil.copytree(tmp_path / "good", root)
        segments = sorted((root / "shard-00" / "seg").iterdir())
        last_seal = int.from_bytes(segments[-1].read_bytes()[-16:-8], "little")
        chosen = rng.choice(segments)
        at = flip(chosen, rng)
        wrong, lost, found = read(root, expected, rebuild=number % 3 == 0)
        assert wrong == 0, (number, at)
        if chosen == segments[-1] and at >= last_seal:
            assert lost == 0, "the last thing written may pass for torn: it is written anew"
        else:
            assert found > 0, (number, at)
        assert lost <= 1 or number % 3 == 0
        shutil.rmtree(root)


def test_a_flipped_bit_in_an_index_entry_is_found_and_mended(tmp_path: Path) -> None:
    expected = build(tmp_path / "good")
    index = next((tmp_path / "good" / "shard-00").glob("index-*/data.mdb"))
    data = index.read_bytes()
    places = [at for (_, key) in expected for at in occurrences(data, key)]
    assert len(places) >= len(expected)
    rng = random.Random(6)
    for number in range(FLIPS):
        root = tmp_path / "flipped"
        shutil.copytree(tmp_path / "good", root)
        changed = bytearray(data)
        # the key is 7 bytes; its entry follows it: segment, offset, length, expiry, flags
        at = rng.randrange(7 + 17)
        changed[rng.choice(places) + at] ^= 1 << rng.randrange(8)
        (root / index.relative_to(tmp_path / "good")).write_bytes(changed)
        # keys out of order are beyond mending one by one; the rebuild does it
        assert survives(root, expected) in ((GOOD,) if at >= 7 else (GOOD, UNMENDED)), number
        shutil.rmtree(root)


def test_a_flipped_bit_anywhere_in_the_index_never_gives_a_wrong_value(tmp_path: Path) -> None:
    expected = build(tmp_path / "good")
    rng = random.Random(7)
    died = 0
    for number in range(FLIPS):
        root = tmp_path / "flipped"
        shutil.copytree(tmp_path / "good", root)
        flip(next((root / "shard-00").glob("index-*/data.mdb")), rng)
        outcome = survives(root, expected)
        died += outcome == -1
        assert outcome in (GOOD, UNMENDED, -1), number
        shutil.rmtree(root)
    assert died <= max(6, FLIPS // 10), "LMDB itself may stumble over its own pages, but not often"


def test_an_index_entry_of_another_length_is_an_index_that_cannot_be_read(tmp_path: Path) -> None:
    expected = build(tmp_path)
    kind, key = next(named for named in expected if named[0] == Kind.BLOCK)
    with opened(disk_at(tmp_path), OPTIONS) as shard:
        shard._index._env.write(lambda writer: writer.put("b", key, bytes(16)))
        for ask in (
            lambda: shard.get(kind, key, now=NOW),
            lambda: shard.size_of(kind, key, now=NOW),
            lambda: shard.scan(kind, b"", now=NOW, limit=10),
            lambda: audit_all(shard),
        ):
            with pytest.raises(ShardUnavailable, match="another length"):
                ask()
    assert read(tmp_path, expected, rebuild=True) == (0, 0, 0)


def occurrences(data: bytes, key: bytes) -> list[int]:
    """Where a key stands in the index's file."""
    found, at = [], data.find(key)
    while at >= 0:
        found.append(at)
        at = data.find(key, at + 1)
    return found


def survives(root: Path, expected: dict[Named, bytes]) -> int:
    """Check a store in a process of its own; return how it ended, -1 if LMDB was killed by it."""
    child = os.fork()
    if child == 0:
        outcome = WRONG
        try:
            outcome = check_and_mend(root, expected)
        finally:
            os._exit(outcome)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else -1


def check_and_mend(root: Path, expected: dict[Named, bytes]) -> int:
    """Read, audit, mend, read again."""
    try:
        wrong, lost, found = read(root, expected, rebuild=False)
        if wrong:
            return WRONG
        if lost and not found:
            return UNFOUND
        with opened(disk_at(root), OPTIONS) as shard:
            _, keys = audit_all(shard)
            shard.reindex(sorted(keys), NOW)
        wrong, lost, found = read(root, expected, rebuild=False)
    except ShardUnavailable:
        wrong, lost, found = read(root, expected, rebuild=True)
    if wrong:
        return WRONG
    if lost or found:
        wrong, lost, found = read(root, expected, rebuild=True)
        return WRONG if wrong or lost or found else UNMENDED
    return GOOD


@pytest.mark.parametrize("size", [100, 70_000])
def test_damage_names_its_key_and_leaves_the_others(tmp_path: Path, size: int) -> None:
    disk = disk_at(tmp_path)
    with opened(disk, OPTIONS) as shard:
        put(shard, b"a", b"a" * size)
        put(shard, b"b", b"b" * size)
        segment = min((tmp_path / "shard-00" / "seg").iterdir())
        data = bytearray(segment.read_bytes())
        data[data.rindex(b"a" * 50)] ^= 1
        segment.write_bytes(data)
        with pytest.raises(Damaged) as caught:
            shard.get(Kind.META, b"a", now=NOW)
        assert (caught.value.kind, caught.value.key) == (Kind.META, b"a")
        assert shard.get(Kind.META, b"b", now=NOW) == b"b" * size
        unchecked = shard.get(Kind.META, b"a", now=NOW, check=False)
        assert unchecked is not None
        assert unchecked != b"a" * size
        audit = shard.audit_segment(1, now=NOW)
        assert [(d.kind, d.key) for d in audit.damaged] == [(Kind.META, b"a")]
        put(shard, b"a", b"mended")
        assert shard.get(Kind.META, b"a", now=NOW) == b"mended"
        if size == 70_000:  # the chunk that is hit, and no other
            put(shard, b"c", b"c" * size)
            path = max((tmp_path / "shard-00" / "seg").iterdir())
            data = bytearray(path.read_bytes())
            data[data.rindex(b"c" * 50)] ^= 1
            path.write_bytes(data)
            assert shard.get(Kind.META, b"c", now=NOW, stop=65_536) == b"c" * 65_536
            with pytest.raises(Damaged):
                shard.get(Kind.META, b"c", now=NOW, start=65_530)
