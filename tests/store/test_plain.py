"""Frames read in bulk are those that the walker finds one by one."""

import random
from pathlib import Path

import pytest

from molia.store.disk import File
from molia.store.frame import CHUNK_SIZE, MORE, encode_head, parse_head, store_seed
from molia.store.index import ENTRY, TAGS, TOMBSTONE
from molia.store.keys import Kind
from molia.store.plain import Listed, Plain, read_frames, read_lines
from molia.store.segment import Found, Gap, Walker, encode_entry
from tests.store.shards import UUID, disk_at

SEED = store_seed(UUID)
SEGMENT = 7
BASE_LSN = 1_000
SIZES = (0, 1, 40, 200, 5_000, CHUNK_SIZE, CHUNK_SIZE + 1, 3 * CHUNK_SIZE)


def frames(rng: random.Random, count: int) -> bytes:
    """Return frames of all kinds and sizes, some in transactions."""
    parts = []
    for number in range(count):
        key, flags = rng.randbytes(rng.randrange(1, 60)), MORE * (rng.random() < 0.3)
        expiry = rng.choice((0, 0, 1_800_000_000 + number))
        kind, value = rng.choice((Kind.BLOCK, Kind.META)), rng.randbytes(rng.choice(SIZES))
        fate = rng.random()
        if fate < 0.2:
            kind, value, flags = Kind.DELETE, b"", flags | rng.choice((1, 2, 3, 7)) << 4
        elif fate < 0.25:
            kind, value, key, flags = Kind.MARK, b"", b"", 0
        lsn = BASE_LSN + number
        head = encode_head(kind, flags, key, value, lsn, lsn - 1, expiry, 1_700_000_000, SEED)
        parts += [head, value]
    return b"".join(parts)


def oracle(walker: Walker, start: int) -> list[object]:
    """Return what is to be told of each frame and gap, one by one."""
    return [told(item) for item in walker.walk(start, BASE_LSN)]


def told(item: Found | Gap) -> object:
    if isinstance(item, Gap):
        return item
    head = item.head
    entry = None
    if head.target in (1, 2, 3, 7):
        flags = TOMBSTONE if head.kind == Kind.DELETE else 0
        packed = ENTRY.pack(SEGMENT, item.value_offset, head.vlen, head.expiry, flags)
        entry = (TAGS[head.target] + head.key, packed)
    line = encode_entry(head, item.value_offset)
    return (line, entry, head.expiry, head.durable, item.stop, item.value_sound)


def in_bulk(walker: Walker, start: int) -> tuple[list[object], list[object], int]:
    """Return the same of `read_frames`, what it cannot tell of the plain left out."""
    lines: list[object] = []
    entries: list[object] = []
    plain_count = 0
    for item in read_frames(walker, start, BASE_LSN, segment_id=SEGMENT):
        if isinstance(item, Plain):
            plain_count += len(item.lines)
            lines += item.lines
            entries += zip(item.keys, item.entries, strict=True)
        elif isinstance(item, Gap):
            lines.append(item)
        else:
            one = told(item)
            assert isinstance(one, tuple)
            lines.append(one[0])
            entries += [one[1]] if one[1] is not None else []
    return lines, entries, plain_count


def file_of(path: Path, data: bytes) -> File:
    disk = disk_at(path)
    file = disk.open("frames", create=True)
    file.write(0, [data])
    return file


@pytest.mark.parametrize("seed", range(30))
def test_what_is_read_in_bulk_is_what_the_walker_finds(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    start = rng.randrange(5_000)
    data = bytearray(rng.randbytes(start) + frames(rng, rng.randrange(1, 120)))
    for _ in range(rng.choice((0, 0, 1, 3))):
        at = rng.randrange(start, len(data))
        data[at] ^= 1 << rng.randrange(8)
    if rng.random() < 0.3:
        data = data[: rng.randrange(start, len(data))]
    file = file_of(tmp_path, bytes(data))

    def walker() -> Walker:
        return Walker(file, len(data), seed=SEED, values=True)

    expected = oracle(walker(), start)
    lines, entries, _ = in_bulk(walker(), start)
    assert lines == [one[0] if isinstance(one, tuple) else one for one in expected]
    assert entries == [one[1] for one in expected if isinstance(one, tuple) and one[1] is not None]


def test_small_sound_frames_are_read_in_bulk_and_transactions_as_a_whole(tmp_path: Path) -> None:
    rng = random.Random(1)
    parts = []
    for number in range(20_000):
        value, lsn = rng.randbytes(200), BASE_LSN + number
        flags = MORE * (number % 3 == 0)
        head = encode_head(
            Kind.BLOCK, flags, number.to_bytes(22), value, lsn, lsn - 1, number, 0, SEED
        )
        parts += [head, value]
    data = b"".join(parts)[:-1]  # the last one is torn
    walker = Walker(file_of(tmp_path, data), len(data), seed=SEED, values=True)
    found = list(read_frames(walker, 0, BASE_LSN, segment_id=SEGMENT))
    plain = [item for item in found if isinstance(item, Plain)]
    assert sum(len(item.lines) for item in plain) >= 19_990
    for item in plain:
        number = int.from_bytes(item.keys[-1][1:])
        assert number % 3 != 0, "a transaction is not cut"
        assert (item.durable, item.max_expiry) == (BASE_LSN + number - 1, number)
    assert len(plain) < 10


def test_a_footer_is_read_as_its_entries_say() -> None:
    lines, expected = [], []
    for number in range(1_000):
        lsn = BASE_LSN + number + (number > 500) * 3
        key, is_delete = number.to_bytes(4), number % 5 == 0
        head_flags = Kind.META << 4 if is_delete else 0
        kind = Kind.DELETE if is_delete else Kind.RECORD
        head = encode_head(kind, head_flags, key, b"", lsn, 0, number, 0, SEED)
        parsed = parse_head(head, 0, seed=SEED)
        assert parsed is not None
        lines.append(encode_entry(parsed, 4_096 + number))
        target, flags = (Kind.META, TOMBSTONE) if is_delete else (Kind.RECORD, 0)
        place = (SEGMENT, 4_096 + number, 0, number, flags)
        expected.append((TAGS[target] + key, ENTRY.pack(*place)))

    def listed(*, dense: bool = True, expected: int = BASE_LSN) -> Listed:
        return read_lines(
            b"".join(lines), segment_id=SEGMENT, above=BASE_LSN + 99, dense=dense,
            expected=expected,
        )  # fmt: skip

    found = listed()
    assert list(zip(found.keys, found.entries, strict=True)) == expected[100:]
    assert (found.frames, found.new_frames) == (1_000, 900)
    assert (found.max_expiry, found.missing) == (999, [3])
    assert listed(expected=BASE_LSN - 2).missing == [2, 3]
    assert listed(expected=0).missing == [3], "where it begins is not known"
    assert listed(dense=False).missing == []
