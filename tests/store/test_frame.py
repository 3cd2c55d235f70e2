"""Frames, headers and footers: fixed vectors, and any bytes at all."""

import struct
from typing import Any

from crc32c import crc32c
from hypothesis import given, settings
from hypothesis import strategies as st

from molia.store import frame, segment
from molia.store.frame import (
    CHUNK_SIZE,
    Head,
    encode_head,
    expected_sums,
    parse_head,
    store_seed,
    value_sound,
)
from molia.store.keys import Kind
from molia.store.segment import SegmentHeader, encode_footer, parse_entries, parse_header
from tests.store.make_frames import UUID, header, make, pattern
from tests.vectors.load import vectors

SEED = store_seed(UUID)
VECTORS: dict[str, Any] = vectors("frames")


def head_of(row: dict[str, Any]) -> bytes:
    """A vector's head, as our code writes it."""
    return encode_head(
        row["kind"], row["flags"], bytes.fromhex(row["key"]), pattern(row["vlen"]), row["lsn"],
        row["durable"], row["expiry"], row["created"], SEED,
    )  # fmt: skip


def test_the_vectors_are_those_that_their_maker_makes() -> None:
    assert make() == VECTORS


def test_the_crc_is_castagnoli() -> None:
    assert frame.crc(b"123456789") == VECTORS["crc_check"]["crc"] == 0xE3069283


def test_frames_are_written_as_the_vectors_say() -> None:
    for row in VECTORS["frames"]:
        assert head_of(row).hex() == row["head"]


def test_frames_are_read_as_the_vectors_say() -> None:
    for row in VECTORS["frames"]:
        head = parse_head(bytes.fromhex(row["head"]), 0, seed=SEED)
        assert head is not None
        fields = (head.kind, head.flags, head.key.hex(), head.vlen, head.lsn, head.durable)
        assert fields == tuple(row[n] for n in ("kind", "flags", "key", "vlen", "lsn", "durable"))
        assert (head.expiry, head.created_unix_s) == (row["expiry"], row["created"])
        assert head.more == bool(row["flags"] & 1)
        assert head.target == (row["flags"] >> 4 if row["kind"] == Kind.DELETE else row["kind"])
        value = pattern(row["vlen"])
        assert value_sound(head, value)
        assert not value_sound(head, value + b"x")
        if value:
            assert not value_sound(head, value[:-1] + bytes((value[-1] ^ 1,)))


def test_a_frame_of_another_store_is_no_frame() -> None:
    for row in VECTORS["frames"]:
        assert parse_head(bytes.fromhex(row["head"]), 0, seed=store_seed(bytes(16))) is None


def test_the_header_is_as_the_vector_says() -> None:
    row = VECTORS["header"]
    made = SegmentHeader(
        row["shard"], row["kind"], UUID, row["segment"], row["base_lsn"], row["created_ms"]
    )
    assert made.encode()[:96].hex() == row["head"]
    assert len(made.encode()) == 4096
    assert parse_header(made.encode()) == made
    assert parse_header(made.encode()[:4095]) is None


def test_the_footer_is_as_the_vector_says() -> None:
    row = VECTORS["footer"]
    entries = b""
    for tag, key, vlen, expiry, lsn, offset in row["entries"]:
        entries += segment.ENTRY.pack(tag, len(key) // 2, vlen, expiry, lsn, offset)
        entries += bytes.fromhex(key)
    assert encode_footer(entries, row["seal_offset"]).hex() == row["value"]
    parsed = list(parse_entries(entries))
    assert [(e.kind, e.target, e.key.hex()) for e in parsed] == [
        (tag & 15, tag >> 4 or tag & 15, key) for tag, key, *_ in row["entries"]
    ]


heads = st.builds(
    Head,
    kind=st.sampled_from([int(kind) for kind in Kind]),
    flags=st.integers(0, 255),
    key=st.binary(max_size=80),
    vlen=st.just(0),
    lsn=st.integers(0, 2**64 - 1),
    durable=st.integers(0, 2**64 - 1),
    expiry=st.integers(0, 2**32 - 1),
    vcrc=st.just(0),
    created_unix_s=st.integers(0, 2**32 - 1),
    table=st.just(b""),
)


@given(head=heads, value=st.binary(max_size=300), before=st.binary(max_size=9))
def test_what_is_written_is_read(head: Head, value: bytes, before: bytes) -> None:
    data = encode_head(
        head.kind, head.flags, head.key, value, head.lsn, head.durable, head.expiry,
        head.created_unix_s, SEED,
    )  # fmt: skip
    found = parse_head(before + data + value, len(before), seed=SEED)
    assert found == head._replace(vlen=len(value), vcrc=crc32c(value))
    assert found is not None
    assert found.size == len(data) + len(value)
    assert value_sound(found, value)


@given(size=st.integers(1, 5 * CHUNK_SIZE), flip=st.integers(0, 2**32))
@settings(max_examples=40)
def test_a_flipped_bit_in_a_value_is_seen(size: int, flip: int) -> None:
    value = pattern(size)
    data = encode_head(1, 0, b"k" * 22, value, 1, 0, 0, 0, SEED)
    head = parse_head(data, 0, seed=SEED)
    assert head is not None
    assert value_sound(head, value)
    broken = bytearray(value)
    broken[flip % size] ^= 1 << (flip % 8)
    assert not value_sound(head, broken)


@given(row=st.sampled_from(VECTORS["frames"]), flip=st.integers(0, 2**32))
def test_a_flipped_bit_in_a_head_is_seen(row: dict[str, Any], flip: int) -> None:
    data = bytearray.fromhex(row["head"])
    data[flip % len(data)] ^= 1 << (flip // 7 % 8)
    assert parse_head(data, 0, seed=SEED) is None


@given(
    fixed=st.binary(min_size=40, max_size=40), rest=st.binary(max_size=200), cut=st.integers(0, 9)
)
@settings(max_examples=400)
def test_any_bytes_with_a_right_checksum_are_a_frame_or_none(
    fixed: bytes, rest: bytes, cut: int
) -> None:
    # the fuzzer gets past the CRC: it is set right for whatever length the fields ask for
    klen, vlen = struct.unpack_from("<HI", fixed, 2)
    body = fixed + rest
    covered = 40 + klen + frame.table_size(vlen)
    data = b"MOF1" + struct.pack("<I", crc32c(body[:covered], SEED)) + body
    head = parse_head(data[: len(data) - cut], 0, seed=SEED)
    if head is not None:
        assert len(head.key) == klen <= 80
        assert head.head_size <= len(data) - cut
        value_sound(head, data[head.head_size :])


@given(data=st.binary(max_size=400))
def test_any_bytes_as_a_footer_end_without_harm(data: bytes) -> None:
    for entry in parse_entries(data):
        assert len(entry.key) <= len(data)


@given(block=st.binary(min_size=60, max_size=90), tail=st.binary(max_size=20))
def test_any_bytes_as_a_header_with_a_right_checksum(block: bytes, tail: bytes) -> None:
    data = bytearray(header(0, 1, 1, 1, 0))
    data[8 : 8 + len(block[:64])] = block[:64]
    data[72:76] = struct.pack("<I", crc32c(bytes(data[:72])))
    data[80 : 80 + len(tail)] = tail
    parsed = parse_header(bytes(data))
    assert parsed is None or not any(tail)


@given(
    key=st.binary(max_size=40), size=st.sampled_from([0, 1, 1000, 65_536, 65_537, 200_000]),
    flip=st.one_of(st.none(), st.integers(0, 2_000)), cut=st.integers(0, 3),
)  # fmt: skip
def test_the_short_check_of_a_head_agrees_with_parsing_it(
    key: bytes, size: int, flip: int | None, cut: int
) -> None:
    value = bytes(size)
    head = bytearray(encode_head(Kind.BLOCK, 0, key, value, 7, 6, 99, 5, SEED))
    if flip is not None:
        head[flip // 8 % len(head)] ^= 1 << flip % 8
    data = bytes(head[: len(head) - cut])
    parsed = parse_head(data, 0, seed=SEED)
    sums = expected_sums(data, kind=Kind.BLOCK, key=key, vlen=size, expiry=99, seed=SEED)
    assert sums == (None if parsed is None else (parsed.vcrc, parsed.table))
    assert expected_sums(data, kind=Kind.META, key=key, vlen=size, expiry=99, seed=SEED) is None
    assert expected_sums(data, kind=Kind.BLOCK, key=key, vlen=size, expiry=98, seed=SEED) is None
