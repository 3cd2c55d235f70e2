"""Keys, rows and STORE: fixed vectors, and any bytes at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base.cid import Cid, Codec
from molia.base.errors import Damaged, NotInitialised, StoreInvalid, StoreVersion
from molia.base.ids import JobId, ObjectId
from molia.sim.entropy import SeededEntropy
from molia.store import keys, migrate, rows
from molia.store.frame import crc
from molia.store.keys import Kind
from molia.store.superblock import Superblock, create_store, read_superblock
from tests.store.make_frames import DIGEST, LEASE, OBJECT
from tests.store.shards import NOW, disk_at
from tests.vectors.load import vectors

CID = Cid(Codec.RAW, DIGEST)
OBJECT_ID = ObjectId(OBJECT)
DECODERS: list[Callable[[bytes], object]] = [
    rows.BindRow.decode, rows.LeaseRow.decode, rows.PinRow.decode,
    rows.AliasRow.decode, rows.UploadRow.decode, rows.ShareRow.decode, rows.JobRow.decode,
    rows.HeldRow.decode, rows.PlacedRow.decode, rows.WatchedRow.decode,
]  # fmt: skip
BIND = rows.BindRow(OBJECT_ID, 5, DIGEST, b"", 1_700_000_000_123, "naïve.txt", 4_000_000_000)
HELD = rows.HeldRow(OBJECT_ID, 1 << 20, b"mm", (2, 13), 1_700_000_000)
PLACED = rows.PlacedRow(is_done=True, survives=4, lease=LEASE, cursor={"placed": [["ab", 3, ""]]})
JOB = rows.JobRow(
    "verify", {"cids": ["a", 1, None, 1.5]}, "running", 1, 2, {"at": {"stripe": 3}}, {}, "",
    [{"id": 1, "data": {"deep": [[True]]}}],
)  # fmt: skip


def test_keys_are_as_the_vectors_say() -> None:
    made = {
        "block": keys.block_key(OBJECT_ID, 3, 70_000),
        "bind": keys.bind_key(CID),
        "pin": keys.pin_key(CID),
        "alias": keys.alias_key(DIGEST),
        "listing": keys.listing_key(1_700_000_000_123, CID),
        "lease": keys.lease_key(OBJECT_ID, 3, DIGEST[:16]),
        "share": keys.share_key(OBJECT_ID, 3),
        "job": keys.job_key(JobId("a" * 26)),
        "upload": keys.upload_key(OBJECT_ID),
        "coming": keys.coming_key(OBJECT_ID, 3),
        "held": keys.held_key(CID),
        "placed": keys.placed_key(CID),
    }
    assert {name: key.hex() for name, key in made.items()} == vectors("frames")["keys"]


def test_keys_of_blobs_and_uploads_come_apart() -> None:
    assert keys.split_blob_key(keys.held_key(CID)) == CID
    assert keys.split_upload_key(keys.upload_key(OBJECT_ID)) == (OBJECT_ID, None)
    assert keys.split_upload_key(keys.coming_key(OBJECT_ID, 13)) == (OBJECT_ID, 13)
    for split in (keys.split_blob_key, keys.split_upload_key):
        with pytest.raises(ValueError, match="not the key"):
            split(b"\x08short")


def test_shards_are_as_the_vectors_say() -> None:
    for row in vectors("frames")["shards"]:
        key = bytes.fromhex(row["key"])
        assert keys.shard_of(Kind(row["kind"]), key, row["count"]) == row["shard"]


@given(object_id=st.binary(min_size=16, max_size=16), share=st.integers(0, 2**16 - 1))
def test_a_share_lives_on_one_shard(object_id: bytes, share: int) -> None:
    homes = {
        keys.shard_of(Kind.BLOCK, keys.block_key(ObjectId(object_id), share, stripe), 16)
        for stripe in (0, 1, 2**31, keys.LEAVES_STRIPE, keys.MANIFEST_STRIPE)
    }
    assert len(homes) == 1


@given(
    object_id=st.binary(min_size=16, max_size=16), share=st.integers(0, 2**16 - 1),
    stripe=st.integers(0, 2**32 - 1), other=st.integers(0, 2**32 - 1),
)  # fmt: skip
def test_block_keys_come_apart_and_sort(
    object_id: bytes, share: int, stripe: int, other: int
) -> None:
    key = keys.block_key(ObjectId(object_id), share, stripe)
    assert keys.split_block_key(key) == (object_id, share, stripe)
    assert (key < keys.block_key(ObjectId(object_id), share, other)) == (stripe < other)
    with pytest.raises(Damaged):
        keys.split_block_key(key + b"x")


def test_newer_blobs_are_listed_first() -> None:
    assert keys.listing_key(2, CID) < keys.listing_key(1, CID)


@pytest.mark.parametrize("count", [1, 2, 8, 64])
def test_a_small_blob_lives_where_its_rows_do(count: int) -> None:
    entropy = SeededEntropy(count)
    for number in range(20):
        cid = Cid(Codec.RAW, entropy.token(32))
        object_id = keys.small_object_id(cid, count, entropy)
        home = keys.shard_of(Kind.BLOCK, keys.block_key(object_id, keys.WHOLE_SHARE, 0), count)
        assert home == keys.home_shard(cid, count), number


# ------------------------------------------------------------------------ rows


def test_rows_are_as_the_vectors_say() -> None:
    made = {
        "bind": BIND.encode(),
        "lease": rows.LeaseRow(4_000_000_000).encode(),
        "alias": rows.AliasRow(CID).encode(),
        "signed_lease": rows.LeaseRow(4_000_000_000, LEASE).encode(),
        "held": HELD.encode(),
        "placed": PLACED.encode(),
    }
    assert {name: row.hex() for name, row in made.items()} == vectors("frames")["rows"]


@pytest.mark.parametrize(
    "row",
    [
        BIND, rows.BindRow(OBJECT_ID, 2**40, DIGEST, b"m" * 1024, 0, "", None), JOB,
        rows.LeaseRow(0), rows.PinRow(7), rows.AliasRow(CID),
        rows.UploadRow(2**64 - 1), rows.ShareRow(5, 6), rows.LeaseRow(5, LEASE), HELD, PLACED,
        rows.WatchedRow(7, {"holders": [["ab", [1], "h", 2, False]]}),
    ],
    ids=lambda row: type(row).__name__,
)  # fmt: skip
def test_rows_come_back(row: Any) -> None:
    assert type(row).decode(row.encode()) == row


def encoded(row: dict[Any, Any]) -> bytes:
    """A row's bytes, whatever it holds."""
    return b"\x01" + cbor2.dumps(row, canonical=True)


def test_a_field_that_a_later_version_adds_is_ignored() -> None:
    data = encoded({"expires": 5, "colour": [1, {"x": b"y"}]})
    assert rows.LeaseRow.decode(data) == rows.LeaseRow(5)


@pytest.mark.parametrize(
    "data",
    [
        b"", b"\x01", b"\x02\xa0", b"\x01\xa0\x00", b"\x01\xbf\xff", b"\x01" + b"\x81" * 9999,
        b"\x01\x80", b"\x01" + bytes.fromhex("a26765787069726573056765787069726573 05"),
        encoded({"expires": -1}), encoded({"expires": True}), encoded({"expires": 2**64}),
        encoded({"expires": "5"}), encoded({"expires": 1.0}), encoded({5: 5, "expires": 1}),
        b"\x01" + bytes.fromhex("a16765787069726573 1805"),
        b"\x01" + bytes.fromhex("a16765787069726573 c2420100"),
    ],
)  # fmt: skip
def test_a_row_that_is_not_canonical_is_damage(data: bytes) -> None:
    with pytest.raises(Damaged):
        rows.LeaseRow.decode(data)


@given(data=st.binary(max_size=200), decode=st.sampled_from(DECODERS))
def test_any_bytes_are_a_row_or_damage(data: bytes, decode: Callable[[bytes], object]) -> None:
    for candidate in (data, b"\x01" + data):
        try:
            decode(candidate)
        except Damaged:
            continue


cbor_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.binary(max_size=40)
    | st.text(max_size=20) | st.floats(),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=12,
)  # fmt: skip
field_names = st.sampled_from([
    "object", "size", "content", "manifest", "created", "name", "expires", "since", "cid", "epoch",
    "verified", "damaged", "kind", "arguments", "state", "updated", "cursor", "progress", "error",
    "events", "shares", "signed", "done", "lease", "survives",
])  # fmt: skip


@given(row=st.dictionaries(field_names, cbor_values), decode=st.sampled_from(DECODERS))
def test_any_map_is_a_row_or_damage(
    row: dict[str, object], decode: Callable[[bytes], object]
) -> None:
    try:
        decode(encoded(row))
    except Damaged:
        return


# ------------------------------------------------------------------------ STORE


def test_a_store_is_made_and_read(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    with pytest.raises(NotInitialised):
        read_superblock(disk)
    made = create_store(disk, 4, SeededEntropy(1), NOW)
    assert read_superblock(disk) == made
    assert made.migration == migrate.latest() == 1
    assert made.shard_count == 4
    assert disk.list_dir("") == ["STORE", "shard-00", "shard-01", "shard-02", "shard-03"]
    with pytest.raises(StoreInvalid):
        create_store(disk, 4, SeededEntropy(1), NOW)


def test_a_store_without_one_of_its_shards_is_refused(tmp_path: Path) -> None:
    disk = disk_at(tmp_path)
    create_store(disk, 2, SeededEntropy(1), NOW)
    disk.remove_tree("shard-01")
    with pytest.raises(StoreInvalid, match="shard-01"):
        read_superblock(disk)


def superblock() -> Superblock:
    """One of this version."""
    return Superblock(uuid=bytes(range(16)), shard_count=2, created_unix_s=5, migration=1)


def resealed(**changes: object) -> bytes:
    """STORE with other fields and a right checksum."""
    line = superblock().encode().partition(b"\n")[0]
    fields = json.loads(line) | changes
    line = json.dumps({name: v for name, v in fields.items() if v is not ...}).encode()
    return line + b"\n" + f"crc32c {crc(line):08x}\n".encode()


@pytest.mark.parametrize("name", ["log_format", "index_format", "min_reader", "min_writer"])
def test_a_store_of_a_later_version_is_told_apart_from_a_broken_one(name: str) -> None:
    with pytest.raises(StoreVersion):
        Superblock.decode(resealed(**{name: 2}))
    with pytest.raises(StoreInvalid):
        Superblock.decode(resealed(**{name: ...}))


@pytest.mark.parametrize("migration", [2, 9999])
def test_a_store_with_an_unknown_migration_is_refused(tmp_path: Path, migration: int) -> None:
    disk = disk_at(tmp_path)
    create_store(disk, 2, SeededEntropy(1), NOW)
    (tmp_path / "STORE").write_bytes(resealed(migration=migration))
    with pytest.raises(StoreVersion):
        read_superblock(disk)


@given(data=st.binary(max_size=300), flip=st.integers(0, 2**20))
def test_any_bytes_are_a_superblock_or_invalid(data: bytes, flip: int) -> None:
    good = superblock().encode()
    assert Superblock.decode(good) == superblock()
    broken = bytearray(good)
    broken[flip % len(good)] ^= 1 << (flip % 7)
    line = data.partition(b"\n")[0]
    for candidate in (data, bytes(broken), line + b"\n" + f"crc32c {crc(line):08x}\n".encode()):
        with pytest.raises((StoreInvalid, StoreVersion)):
            Superblock.decode(candidate)


@given(fields=st.dictionaries(
    st.sampled_from(["uuid", "shard_count", "migration", "created_unix_s", "log_format"]),
    st.none() | st.integers() | st.text() | st.booleans() | st.floats() | st.lists(st.integers()),
))  # fmt: skip
def test_any_fields_are_a_superblock_or_invalid(fields: dict[str, object]) -> None:
    try:
        Superblock.decode(resealed(**fields))
    except (StoreInvalid, StoreVersion):
        return
