"""The pages of byte formats agree with the bytes that the code makes, field by field."""

import json
import re
from pathlib import Path

import cbor2

from molia.base.cid import Cid, Codec
from molia.base.ids import ObjectId
from molia.blobs.manifest import Manifest
from molia.store import frame, index, rows, segment
from molia.store.keys import Kind, Space
from molia.store.superblock import Superblock

REFERENCE = Path(__file__).parent.parent / "docs" / "reference"
UUID = bytes(range(16))


def table(page: str, heading: str, number: int = 0) -> list[list[str]]:
    """Return the cells of a table below a heading, its head left out."""
    text = (REFERENCE / page).read_text("utf-8")
    _, found, section = text.partition(f"# {heading}\n")
    assert found, f"{page} has no section {heading}"
    section = re.split(r"^#+ ", section, maxsplit=1, flags=re.MULTILINE)[0]
    tables = re.findall(r"(?:^\|.*\n)+", section, re.MULTILINE)
    lines = [line.strip()[1:-1] for line in tables[number].splitlines()[2:]]
    return [[cell.strip() for cell in line.split("|")] for line in lines]


def layout(page: str, heading: str) -> dict[str, tuple[int, int]]:
    """Return offset and size of every field that has both, and check that they leave no gap."""
    found, at = {}, 0
    for offset, size, name, *_ in table(page, heading):
        if offset.isdigit() and size.isdigit():
            assert int(offset) == at, f"{heading}: {name}"
            found[name] = (int(offset), int(size))
            at += int(size)
    return found


def number_at(data: bytes, place: tuple[int, int]) -> int:
    """Return the little-endian number at an offset of a size."""
    return int.from_bytes(data[place[0] : place[0] + place[1]], "little")


def test_the_page_of_frames_places_every_field() -> None:
    fields = layout("segment-format.md", "Frame")
    head = frame.encode_head(
        Kind.BLOCK, frame.MORE, b"key", b"value", 0x11223344556677, 0x8899AABB, 77, 88, 99
    )
    expected = {
        "type": 1, "flags": 1, "key length": 3, "value length": 5, "LSN": 0x11223344556677,
        "durable": 0x8899AABB, "expiry": 77, "created": 88, "reserved": 0,
        "magic": int.from_bytes(b"MOF1", "little"), "value CRC": frame.crc(b"value"),
        "head CRC": frame.crc(head[8:], 99),
    }  # fmt: skip
    assert {name: number_at(head, place) for name, place in fields.items()} == expected
    assert sum(fields["reserved"]) == frame.FIXED_SIZE == head.index(b"key")


def test_the_page_of_segments_places_every_field_of_the_header() -> None:
    fields = layout("segment-format.md", "Segment header")
    header = segment.SegmentHeader(3, segment.FOREGROUND, UUID, 0x1234, 0x5678, 0x9ABC, 0xDEF)
    data = header.encode()
    expected = {
        "magic": int.from_bytes(b"MOLIASEG", "little"), "format": 1, "header length": len(data),
        "shard": 3, "kind": 1, "reserved": 0, "store uuid": int.from_bytes(UUID, "little"),
        "segment id": 0x1234, "base LSN": 0x5678, "created": 0x9ABC, "salt": 0xDEF,
        "CRC": frame.crc(data[:64]),
    }  # fmt: skip
    assert {name: number_at(data, place) for name, place in fields.items()} == expected
    assert not any(data[sum(fields["CRC"]) :])


def test_the_page_of_segments_sizes_every_part_of_a_seal() -> None:
    sizes = [int(re.findall(r"\d+", row[0])[0]) for row in table("segment-format.md", "Seal")
             if re.search(r"\d", row[0])]  # fmt: skip
    assert sum(sizes[:6]) == segment.ENTRY.size
    footer = segment.encode_footer(b"entries", 4096)
    assert len(footer) - len(b"entries") == sum(sizes[6:])
    assert footer.endswith(b"SEAL")


def test_the_page_of_the_index_places_every_field() -> None:
    entry = layout("index-format.md", "Entry")
    data = index.ENTRY.pack(1, 2, 3, 4, 5)
    assert [number_at(data, place) for place in entry.values()] == [1, 2, 3, 4, 5]
    assert len(data) == sum(list(entry.values())[-1])
    row = layout("index-format.md", "Segment row")
    data = index.encode_row(index.SegmentRow(1, 2, 3, 4, 5, 6, 7, 8, 9, 10))
    assert [number_at(data, place) for place in row.values()] == list(range(1, 11))
    assert len(data) == sum(list(row.values())[-1])


def test_the_page_of_the_store_numbers_kinds_and_namespaces() -> None:
    kinds = {cells[0]: int(cells[1]) for cells in table("store-format.md", "Keys")}
    assert kinds == {kind.name: kind.value for kind in Kind if kind.name in kinds}
    spaces = {cells[0]: int(cells[1]) for cells in table("store-format.md", "Keys", 1)}
    assert spaces == {space.name: space.value for space in Space}


def test_the_page_of_the_store_names_the_keys_of_every_row() -> None:
    cid = Cid(Codec.RAW, bytes(32))
    samples: dict[str, bytes] = {
        "BIND": rows.BindRow(ObjectId(UUID), 1, bytes(32), b"", 2, "name", 3).encode(),
        "SHARE": rows.ShareRow(1, 2).encode(),
        "LEASE": rows.LeaseRow(1, bytes(145)).encode(),
        "CACHED": rows.LeaseRow(1).encode(),
        "PIN": rows.PinRow(1).encode(),
        "ALIAS": rows.AliasRow(cid).encode(),
        "JOB": rows.JobRow("verify", {}, "done", 1, 2, {}, {}, "", []).encode(),
        "UPLOAD": rows.UploadRow(1).encode(),
        "HELD": rows.HeldRow(ObjectId(UUID), 1, b"", (0,), 2, b"supplement").encode(),
        "PLACED": rows.PlacedRow(is_done=True, survives=1, lease=b"", cursor={}).encode(),
        "WATCHED": rows.WatchedRow(1, {}).encode(),
        "TRASH": rows.TrashRow(b"bind", pinned=True, until_unix_s=1).encode(),
    }
    said = {cells[0]: set(re.findall(r"`(\w+)`", cells[1]))
            for cells in table("store-format.md", "Rows") if cells[0] != "LISTING"}  # fmt: skip
    assert said == {name: set(cbor2.loads(data[1:])) for name, data in samples.items()}
    assert all(data[0] == 1 for data in samples.values())


def test_the_page_of_the_store_names_the_keys_of_store() -> None:
    block = Superblock(uuid=UUID, shard_count=2, created_unix_s=3, migration=1)
    said = re.findall(r"`(\w+)`", " ".join(row[0] for row in table("store-format.md", "STORE")))
    assert set(said) == set(json.loads(block.encode().splitlines()[0]))


def test_the_page_of_the_manifest_names_its_keys_in_order() -> None:
    encoded = Manifest(1_000_000, (bytes(32),) * 14, bytes(32)).encode()
    said = [row[0].strip("`") for row in table("manifest.md", "Manifest")]
    assert said == list(cbor2.loads(encoded))


def test_the_page_of_ids_places_every_byte_of_a_cid() -> None:
    data = bytes(Cid(Codec.MANIFEST, b"\xee" * 32))
    for place, value, *_ in table("ids.md", "CID"):
        if place.isdigit():
            assert f"{data[int(place)]:02x}" in re.findall(r"`(\w\w)`", value)
    assert len(data) == 36
