"""Frames: the one shape of everything in a log, and the CRC32C that guards it.

A frame is head ‖ value; the head is 48 fixed bytes ‖ key ‖ a table of chunk CRCs when the value is
longer than 64 KiB. The head's own CRC starts from a seed made of the store's id: bytes that a user
stored as a value, be they a copy of another store's log, can never be taken for frames of this one.
Source: docs/reference/segment-format.md, "Frame".
"""

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple

from crc32c import crc32c

from molia.base.limits import KEY_SIZE_MAX, KIB, MIB, VALUE_SIZE_MAX
from molia.store.keys import Kind

Buffer = bytes | bytearray | memoryview

MAGIC: Final = b"MOF1"
FIXED_SIZE: Final = 48
CHUNK_SIZE: Final = 64 * KIB
MORE: Final = 1
"""Flag: the next frame belongs to the same transaction."""
FOOTER_SIZE_MAX: Final = 64 * MIB
"""Largest value of a SEAL frame; a segment is sealed long before its footer grows to this."""
BODY: Final = struct.Struct("<BBHIQQIIII")
"""What the head's CRC covers, but for the key and the table."""
_TABLE_SIZE_MAX: Final = 4 * (max(VALUE_SIZE_MAX, FOOTER_SIZE_MAX) // CHUNK_SIZE)
HEAD_SIZE_MAX: Final = FIXED_SIZE + KEY_SIZE_MAX + _TABLE_SIZE_MAX
_KINDS: Final = frozenset(int(kind) for kind in Kind)


class Head(NamedTuple):
    """A frame's head, checked."""

    kind: int
    flags: int
    key: bytes
    vlen: int
    lsn: int
    durable: int
    """Highest LSN known to be synced when the frame was written."""
    expiry: int
    vcrc: int
    created_unix_s: int
    table: bytes
    """Chunk CRCs, u32 each; empty for a value of at most one chunk."""

    @property
    def head_size(self) -> int:
        """Bytes before the value."""
        return FIXED_SIZE + len(self.key) + len(self.table)

    @property
    def size(self) -> int:
        """Bytes of the whole frame."""
        return FIXED_SIZE + len(self.key) + len(self.table) + self.vlen

    @property
    def more(self) -> bool:
        """Whether the next frame belongs to the same transaction."""
        return bool(self.flags & MORE)

    @property
    def target(self) -> int:
        """The kind of the key: what a DELETE deletes, else the frame's own kind."""
        return self.flags >> 4 if self.kind == Kind.DELETE else self.kind


raw_crc: Final = crc32c
"""What `crc` calls: for loops over thousands of frames."""


def crc(data: Buffer, start: int = 0) -> int:
    """Return the CRC32C of `data`, continuing from `start`."""
    return int(crc32c(data, start))


def store_seed(store_uuid: bytes) -> int:
    """Return what head CRCs of this store start from."""
    return crc(store_uuid)


def table_size(vlen: int) -> int:
    """Return the bytes of the chunk table of a value."""
    return 4 * (-(-vlen // CHUNK_SIZE)) if vlen > CHUNK_SIZE else 0


def head_size(klen: int, vlen: int) -> int:
    """Return the bytes before the value of a frame."""
    return FIXED_SIZE + klen + table_size(vlen)


def frame_size(klen: int, vlen: int) -> int:
    """Return the bytes of a whole frame."""
    if vlen <= CHUNK_SIZE:
        return FIXED_SIZE + klen + vlen
    return FIXED_SIZE + klen + table_size(vlen) + vlen


def chunk_table(value: Buffer) -> bytes:
    """Return the chunk CRCs of a value longer than one chunk."""
    view = memoryview(value)
    crcs = [crc32c(view[at : at + CHUNK_SIZE]) for at in range(0, len(view), CHUNK_SIZE)]
    return struct.pack(f"<{len(crcs)}I", *crcs)


def encode_head(
    kind: int,
    flags: int,
    key: bytes,
    value: Buffer,
    lsn: int,
    durable: int,
    expiry: int,
    created_unix_s: int,
    seed: int,
) -> bytes:
    """Return the head of a frame; the value is to follow it as it is."""
    vlen = len(value)
    if vlen <= CHUNK_SIZE:
        body = BODY.pack(
            kind, flags, len(key), vlen, lsn, durable, expiry, crc32c(value), created_unix_s, 0
        ) + key  # fmt: skip
    else:
        body = BODY.pack(
            kind, flags, len(key), vlen, lsn, durable, expiry, 0, created_unix_s, 0
        ) + key + chunk_table(value)  # fmt: skip
    return MAGIC + crc32c(body, seed).to_bytes(4, "little") + body


def vlen_limit(kind: int) -> int:
    """Return the largest value that a frame of this kind may have."""
    return FOOTER_SIZE_MAX if kind == Kind.SEAL else VALUE_SIZE_MAX


def parse_head(data: Buffer, at: int, *, seed: int) -> Head | None:
    """Return the head that starts at `at`, or None when no sound one does.

    None also when `data` ends inside the head: give at least HEAD_SIZE_MAX bytes where there are.
    """
    fixed_stop = at + FIXED_SIZE
    if data[at : at + 4] != MAGIC or len(data) < fixed_stop:
        return None
    fields = BODY.unpack_from(data, at + 8)
    kind, flags, klen, vlen, lsn, durable, expiry, vcrc, created, reserved = fields
    if kind not in _KINDS or klen > KEY_SIZE_MAX or vlen > vlen_limit(kind) or reserved:
        return None
    stop = fixed_stop + klen + table_size(vlen)
    if len(data) < stop:
        return None
    body = bytes(data[at + 8 : stop])
    if crc32c(body, seed) != int.from_bytes(data[at + 4 : at + 8], "little"):
        return None
    key, table = body[BODY.size : BODY.size + klen], body[BODY.size + klen :]
    return Head(kind, flags, key, vlen, lsn, durable, expiry, vcrc, created, table)


def expected_sums(
    data: bytes, *, kind: int, key: bytes, vlen: int, expiry: int, seed: int
) -> tuple[int, bytes] | None:
    """Return a head's value CRC and chunk table, or None unless it is sound and says just this.

    data: the head at least. What `parse_head` and a comparison would tell, at half the cost, which
    every read of a block pays.
    """
    stop = head_size(len(key), vlen)
    body = data[8:stop]
    if len(body) != stop - 8 or crc32c(body, seed) != int.from_bytes(data[4:8], "little"):
        return None
    found_kind, _, klen, found_vlen, _, _, found_expiry, vcrc, _, _ = BODY.unpack_from(body)
    if (found_kind, klen, found_vlen, found_expiry) != (kind, len(key), vlen, expiry):
        return None
    table_at = BODY.size + klen
    if body[BODY.size : table_at] != key or data[:4] != MAGIC:
        return None
    return vcrc, body[table_at:]


def value_sound(head: Head, value: Buffer) -> bool:
    """Tell whether the whole value matches its head's CRCs."""
    if len(value) != head.vlen:
        return False
    if not head.table:
        return bool(crc32c(value) == head.vcrc)
    return chunks_sound(head.table, 0, value)


def chunks_sound(table: bytes, first_chunk: int, data: Buffer) -> bool:
    """Tell whether `data`, which starts with chunk `first_chunk`, matches the table."""
    view = memoryview(data)
    count = -(-len(view) // CHUNK_SIZE)
    crcs: Sequence[int] = struct.unpack_from(f"<{count}I", table, 4 * first_chunk)
    for index, expected in enumerate(crcs):
        if crc32c(view[index * CHUNK_SIZE : (index + 1) * CHUNK_SIZE]) != expected:
            return False
    return True
