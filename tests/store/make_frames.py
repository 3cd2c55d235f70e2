"""Writes `tests/vectors/frames.json` anew: `python -m tests.store.make_frames`.

Layouts are spelled out here with `struct`, apart from the code under test; only the CRC engine is
shared, and the vectors hold its check value of "123456789" (RFC 3720, B.4).
"""

import json
import struct
from pathlib import Path
from typing import Any

import cbor2
from blake3 import blake3
from crc32c import crc32c

UUID = bytes(range(16))
PATH = Path(__file__).parents[1] / "vectors" / "frames.json"
OBJECT = bytes(range(100, 116))
DIGEST = bytes(range(32))
LEASE = bytes(range(145))
"""As long as a signed lease; what is in it is nothing to the row."""


def pattern(size: int) -> bytes:
    """The value of a given size: the bytes 0, 1, … 250, 0, 1, …"""
    return bytes(index % 251 for index in range(size))


def frame(
    kind: int,
    flags: int,
    key: bytes,
    value: bytes,
    lsn: int,
    durable: int,
    expiry: int,
    created: int,
) -> bytes:
    """A frame, from the table in docs/reference/store-format.md."""
    chunks = [value[at : at + 65536] for at in range(0, len(value), 65536)]
    large = len(value) > 65536
    table = b"".join(struct.pack("<I", crc32c(chunk)) for chunk in chunks) if large else b""
    vcrc = 0 if large else crc32c(value)
    fixed = struct.pack("<BBHI", kind, flags, len(key), len(value))
    fixed += struct.pack("<QQIIII", lsn, durable, expiry, vcrc, created, 0)
    body = fixed + key + table
    return b"MOF1" + struct.pack("<I", crc32c(body, crc32c(UUID))) + body + value


def footer(entries: list[tuple[int, bytes, int, int, int, int]], seal_offset: int) -> bytes:
    """A SEAL's value."""
    body = b""
    for tag, key, vlen, expiry, lsn, offset in entries:
        body += struct.pack("<BHIIQQ", tag, len(key), vlen, expiry, lsn, offset) + key
    checksum = crc32c(struct.pack("<Q", seal_offset), crc32c(body))
    return body + struct.pack("<QI4s", seal_offset, checksum, b"SEAL")


def header(shard: int, kind: int, segment: int, base_lsn: int, created_ms: int) -> bytes:
    """A segment's header."""
    fixed = b"MOLIASEG" + struct.pack("<HHHBB", 1, 4096, shard, kind, 0) + UUID
    fixed += struct.pack("<QQQQ", segment, base_lsn, created_ms, 0)
    return (fixed + struct.pack("<I", crc32c(fixed))).ljust(4096, b"\0")


def shard(kind: int, key: bytes, count: int) -> int:
    """The shard of a key."""
    place = key[:18] if kind == 1 else key[:32]
    digest = blake3(bytes((kind,)) + place, derive_key_context="molia v1 shard").digest()
    return int(struct.unpack("<I", digest[:4])[0] % count)


def make_frames(block: bytes) -> list[dict[str, object]]:
    """Frames of every kind, and of the sizes at which the layout changes."""
    frames = []
    for kind, flags, key, size, lsn, durable, expiry, created in (
        (1, 0, block, 0, 1, 0, 0, 1_700_000_000),
        (1, 1, block, 1, 2, 1, 0, 1_700_000_000),
        (1, 0, block, 65_536, 3, 1, 0, 1_700_000_001),
        (1, 0, block, 65_537, 4, 3, 4_000_000_000, 1_700_000_001),
        (7, 1, b"\x01U" + DIGEST, 100, 2**40, 2**40 - 1, 0, 2**32 - 1),
        (4, 0x10, block, 0, 6, 5, 0, 1_700_000_002),
        (4, 0x71, b"\x01U" + DIGEST, 0, 7, 5, 0, 1_700_000_002),
        (6, 0, b"", 0, 8, 7, 0, 1_700_000_003),
        (2, 0, DIGEST + DIGEST, 300, 9, 8, 1_700_003_600, 1_700_000_004),
    ):
        data = frame(kind, flags, key, pattern(size), lsn, durable, expiry, created)
        frames.append({
            "kind": kind, "flags": flags, "key": key.hex(), "vlen": size, "lsn": lsn,
            "durable": durable, "expiry": expiry, "created": created,
            "head": data[: len(data) - size].hex(),
        })  # fmt: skip
    return frames


def make() -> dict[str, Any]:
    """All vectors."""
    block = OBJECT + struct.pack(">HI", 3, 70_000)
    entries = [
        (1, block, 1, 0, 1, 4166),
        (0x74, b"\x02U" + DIGEST, 0, 9, 2, 4300),
        (6, b"", 0, 0, 3, 4400),
    ]
    bind = {
        "object": OBJECT, "size": 5, "content": DIGEST, "manifest": b"",
        "created": 1_700_000_000_123, "name": "naïve.txt",
        "expires": 4_000_000_000,
    }  # fmt: skip
    cid = b"\x01\x55\x1e\x20" + DIGEST
    return {
        "uuid": UUID.hex(),
        "crc_check": {"text": "123456789", "crc": crc32c(b"123456789")},
        "frames": make_frames(block),
        "footer": {
            "entries": [[e[0], e[1].hex(), *e[2:]] for e in entries],
            "seal_offset": 4448,
            "value": footer(entries, 4448).hex(),
        },
        "header": {
            "shard": 1, "kind": 1, "segment": 2, "base_lsn": 77, "created_ms": 1_700_000_000_123,
            "head": header(1, 1, 2, 77, 1_700_000_000_123)[:96].hex(),
        },
        "keys": {
            "block": block.hex(),
            "bind": (b"\x01\x55" + DIGEST).hex(),
            "pin": (b"\x04\x55" + DIGEST).hex(),
            "alias": (b"\x06" + DIGEST).hex(),
            "listing": (b"\x05" + struct.pack(">Q", 2**64 - 1 - 1_700_000_000_123) + cid).hex(),
            "lease": (b"\x03" + OBJECT + b"\x00\x03" + DIGEST[:16]).hex(),
            "share": (b"\x02" + OBJECT + b"\x00\x03").hex(),
            "job": (b"\x07" + b"a" * 26).hex(),
            "upload": (b"\x08" + OBJECT).hex(),
            "coming": (b"\x08" + OBJECT + b"\x00\x03").hex(),
            "held": (b"\x0d\x55" + DIGEST).hex(),
            "placed": (b"\x0e\x55" + DIGEST).hex(),
        },
        "shards": [
            {"kind": kind, "key": key.hex(), "count": count, "shard": shard(kind, key, count)}
            for kind, key in ((1, block), (7, b"\x01U" + DIGEST), (2, DIGEST + DIGEST))
            for count in (1, 2, 4, 64)
        ],
        "rows": make_rows(cid, bind),
    }  # fmt: skip


def make_rows(cid: bytes, bind: dict[str, object]) -> dict[str, str]:
    """Rows by name."""
    return {
        "bind": (b"\x01" + cbor2.dumps(bind, canonical=True)).hex(),
        "lease": (b"\x01" + bytes.fromhex("a167657870697265731aee6b2800")).hex(),
        "alias": (b"\x01" + cbor2.dumps({"cid": cid}, canonical=True)).hex(),
        "signed_lease": (
            b"\x01\xa2" + b"\x66signed\x58\x91" + LEASE + b"\x67expires\x1a\xee\x6b\x28\x00"
        ).hex(),
        "held": (
            b"\x01\xa5" + b"\x64size\x1a\x00\x10\x00\x00" + b"\x66object\x50" + OBJECT
            + b"\x66shares\x82\x02\x0d" + b"\x67created\x1a\x65\x53\xf1\x00"
            + b"\x68manifest\x42mm"
        ).hex(),
        "placed": (
            b"\x01\xa4" + b"\x64done\x01" + b"\x65lease\x58\x91" + LEASE
            + b"\x66cursor\xa1\x66placed\x81\x83\x62ab\x03\x60" + b"\x68survives\x04"
        ).hex(),
    }  # fmt: skip


if __name__ == "__main__":
    how = "python -m tests.store.make_frames; values are the bytes 0..250 over and over"
    PATH.write_text(json.dumps({"made": how, "vectors": make()}, indent=1) + "\n")
