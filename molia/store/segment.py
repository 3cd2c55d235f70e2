"""Segments: the files of a log. Their header, their footer, and how frames are found in them.

Source: docs/reference/segment-format.md, "Segment header" and "Seal".
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, NamedTuple

from molia.base.limits import KIB, MIB
from molia.store.disk import Readable
from molia.store.frame import (
    FIXED_SIZE,
    HEAD_SIZE_MAX,
    MAGIC,
    Buffer,
    Head,
    crc,
    parse_head,
    value_sound,
)
from molia.store.keys import Kind

HEADER_SIZE: Final = 4096
LOG_FORMAT: Final = 1
FOREGROUND: Final = 1
COMPACTED: Final = 2
FOOTER_ROLL_BYTES: Final = 16 * MIB
"""A segment with a footer this long is sealed before the next batch, however short it is."""
_MAGIC: Final = b"MOLIASEG"
_HEADER: Final = struct.Struct("<8sHHHBB16sQQQQ")
_USED_SIZE: Final = 96
_CRC_AT: Final = _HEADER.size
_PADDING: Final = bytes(HEADER_SIZE - _CRC_AT - 4)
ENTRY: Final = struct.Struct("<BHIIQQ")
_TRAILER: Final = struct.Struct("<QI4s")
_SEAL_MAGIC: Final = b"SEAL"
_WINDOW_SIZE: Final = 1 * MIB
_SMALL_WINDOW_SIZE: Final = 16 * KIB
_SEARCH_SIZE: Final = 1 * MIB


class SegmentHeader(NamedTuple):
    """What the first 4096 bytes of a segment say."""

    shard: int
    kind: int
    store_uuid: bytes
    segment_id: int
    base_lsn: int
    created_unix_ms: int
    salt: int = 0
    """Reserved for writing over old segments."""

    def encode(self) -> bytes:
        """Return the header's block."""
        fixed = _HEADER.pack(
            _MAGIC, LOG_FORMAT, HEADER_SIZE, self.shard, self.kind, 0, self.store_uuid,
            self.segment_id, self.base_lsn, self.created_unix_ms, self.salt,
        )  # fmt: skip
        return (fixed + crc(fixed).to_bytes(4, "little")).ljust(HEADER_SIZE, b"\0")


def parse_header(data: bytes) -> SegmentHeader | None:
    """Return the header in the first block of a segment, or None when it is not sound."""
    if len(data) < HEADER_SIZE or data[:8] != _MAGIC:
        return None
    found = int.from_bytes(data[_CRC_AT : _CRC_AT + 4], "little")
    if crc(data[:_CRC_AT]) != found or data[_CRC_AT + 4 : HEADER_SIZE] != _PADDING:
        return None
    _, log_format, size, shard, kind, _, uuid, segid, base, created, salt = _HEADER.unpack_from(
        data
    )
    if log_format != LOG_FORMAT or size != HEADER_SIZE:
        return None
    return SegmentHeader(shard, kind, uuid, segid, base, created, salt)


def segment_name(shard_name: str, segment_id: int) -> str:
    """Return the file name of a segment."""
    return f"{shard_name}/seg/{segment_id:016x}.log"


def segment_id_of(file_name: str) -> int | None:
    """Return the segment that a name in `seg` stands for, or None for another file."""
    stem, dot, suffix = file_name.partition(".")
    if dot + suffix != ".log" or len(stem) != 16 or stem.strip("0123456789abcdef"):
        return None
    return int(stem, 16)


# ---------------------------------------------------------------------------- footers


class FooterEntry(NamedTuple):
    """One frame, as the footer of its segment lists it."""

    kind: int
    target: int
    """The kind of the key: what a DELETE deletes."""
    key: bytes
    vlen: int
    expiry: int
    lsn: int
    value_offset: int


def encode_entry(head: Head, value_offset: int) -> bytes:
    """Return the footer entry of a frame."""
    kind = head.kind | (head.flags & 0xF0)
    fixed = ENTRY.pack(kind, len(head.key), head.vlen, head.expiry, head.lsn, value_offset)
    return fixed + head.key


def encode_footer(entries: Buffer, seal_offset: int) -> bytes:
    """Return the value of the SEAL frame at `seal_offset`: the entries and the trailer."""
    checksum = crc(seal_offset.to_bytes(8, "little"), crc(entries))
    return bytes(entries) + _TRAILER.pack(seal_offset, checksum, _SEAL_MAGIC)


@dataclass(frozen=True, slots=True)
class Seal:
    """A sound seal: where it starts, its frame's head, and the footer's entries still encoded."""

    offset: int
    head: Head
    entries: bytes

    def __iter__(self) -> Iterator[FooterEntry]:
        return parse_entries(self.entries)


def parse_entries(entries: bytes) -> Iterator[FooterEntry]:
    """Yield the entries of a footer whose CRC held, as far as they can be read."""
    at, stop = 0, len(entries)
    while at + ENTRY.size <= stop:
        tag, klen, vlen, expiry, lsn, value_offset = ENTRY.unpack_from(entries, at)
        at += ENTRY.size
        key = entries[at : at + klen]
        at += klen
        kind = tag & 0x0F
        target = tag >> 4 if kind == Kind.DELETE else kind
        yield FooterEntry(kind, target, key, vlen, expiry, lsn, value_offset)


def read_seal(file: Readable, size: int, *, seed: int) -> Seal | None:
    """Return the seal that ends a segment of `size` bytes, or None when no sound one does."""
    if size < HEADER_SIZE + FIXED_SIZE + _TRAILER.size:
        return None
    tail = file.read(size - _TRAILER.size, _TRAILER.size)
    if len(tail) < _TRAILER.size:
        return None
    offset, checksum, magic = _TRAILER.unpack(tail)
    if magic != _SEAL_MAGIC or not HEADER_SIZE <= offset < size:
        return None
    frame = file.read(offset, size - offset)
    head = parse_head(frame, 0, seed=seed)
    if head is None or head.kind != Kind.SEAL or offset + head.size != size:
        return None
    value = frame[head.head_size :]
    entries = value[: -_TRAILER.size]
    expected = crc(offset.to_bytes(8, "little"), crc(entries))
    if checksum != expected or not value_sound(head, value):
        return None
    return Seal(offset, head, entries)


# ---------------------------------------------------------------------------- walking


@dataclass(frozen=True, slots=True)
class Found:
    """A frame whose head is sound."""

    offset: int
    head: Head
    value_sound: bool
    """False also when the file ends inside the value; True when values are not looked at."""

    @property
    def value_offset(self) -> int:
        """Where the value starts."""
        return self.offset + self.head.head_size

    @property
    def stop(self) -> int:
        """Where the next frame starts."""
        return self.offset + self.head.size


@dataclass(frozen=True, slots=True)
class Gap:
    """Bytes in which no frame could be found; `lsn` is the first one missing."""

    offset: int
    stop: int
    lsn: int


class Walker:
    """Finds the frames of a segment in order, past damage as well.

    After bytes that are no frame it searches for the next head with a higher LSN; CRCs that are
    seeded per store, and LSNs where they grow, keep values from being taken for frames.
    """

    def __init__(
        self, file: Readable, size: int, *, seed: int, values: bool, dense: bool = True
    ) -> None:
        """dense: LSNs follow on each other, as they do not in a compacted segment."""
        self.file, self.size, self.seed, self.dense = file, size, seed, dense
        self._values = values
        self._window = b""
        self._window_at = 0
        self._large = False

    def walk(self, start: int, lsn: int) -> Iterator[Found | Gap]:
        """Yield what lies from `start` to the file's end.

        lsn: the one expected first; 0 when it is not known.
        """
        at, expected = start, lsn if self.dense else 0
        while at < self.size:
            head = self._head_at(at)
            if head is not None and (head.lsn == expected or not expected):
                yield Found(at, head, self._value_sound(at, head))
                at, expected = at + head.size, (head.lsn + 1) * self.dense
                continue
            following = self._search(at, expected)
            if following is None:
                yield Gap(at, self.size, expected)
                return
            next_at, head = following
            yield Gap(at, next_at, expected)
            at, expected = next_at, head.lsn * self.dense

    def _head_at(self, at: int) -> Head | None:
        inside = at - self._window_at
        if not 0 <= inside <= len(self._window) - FIXED_SIZE:
            self._fill(at)
            inside = 0
        head = parse_head(self._window, inside, seed=self.seed)
        if head is None and inside + HEAD_SIZE_MAX > len(self._window):
            if self._window[inside : inside + 4] != MAGIC:
                return None
            self._large = False
            self._fill(at)
            head = parse_head(self._window, 0, seed=self.seed)
        if head is not None:
            self._large = head.vlen > _SMALL_WINDOW_SIZE
        return head

    def _fill(self, at: int) -> None:
        size = _SMALL_WINDOW_SIZE if self._large and not self._values else _WINDOW_SIZE
        self._window, self._window_at = self.file.read(at, size), at

    def _value_sound(self, at: int, head: Head) -> bool:
        if at + head.size > self.size:
            return False
        if not self._values:
            return True
        inside = at + head.head_size - self._window_at
        if inside + head.vlen <= len(self._window):
            return value_sound(head, memoryview(self._window)[inside : inside + head.vlen])
        return value_sound(head, self.file.read(at + head.head_size, head.vlen))

    def _search(self, at: int, expected: int) -> tuple[int, Head] | None:
        """Return the next sound head from `at` on whose LSN may follow."""
        base = at
        while base < self.size:
            data = self.file.read(base, _SEARCH_SIZE + len(MAGIC) - 1)
            if not data:
                return None
            inside = data.find(MAGIC)
            while inside >= 0:
                head = self._candidate(base + inside, data, inside)
                if head is not None and self._may_follow(head, expected, base + inside - at):
                    return base + inside, head
                inside = data.find(MAGIC, inside + 1)
            base += _SEARCH_SIZE
        return None

    def _candidate(self, at: int, data: bytes, inside: int) -> Head | None:
        head = parse_head(data, inside, seed=self.seed)
        if head is None and inside + HEAD_SIZE_MAX > len(data):
            head = parse_head(self.file.read(at, HEAD_SIZE_MAX), 0, seed=self.seed)
        return head

    @staticmethod
    def _may_follow(head: Head, expected: int, distance: int) -> bool:
        if not expected:
            return True
        return expected <= head.lsn <= expected + distance // FIXED_SIZE + 1
