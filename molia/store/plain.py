"""Frames that are as they should be, read many at a time: a restart may have a million of them.

What is not plain (a long value, a gap, a wrong checksum, the file's end) is left to `Walker`.
Source: docs/reference/segment-format.md, "Frame" and "Seal".
"""

import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

from molia.base.limits import KEY_SIZE_MAX, MIB
from molia.store.frame import CHUNK_SIZE, FIXED_SIZE, MAGIC, MORE, raw_crc
from molia.store.index import ENTRY, TAGS, TOMBSTONE
from molia.store.keys import DATA_KINDS, Kind
from molia.store.segment import ENTRY as LINE
from molia.store.segment import Found, Gap, Walker

WINDOW_SIZE: Final = 1 * MIB
_FRAME: Final = struct.Struct("<4sIBBHIQQIIII")
_DELETE: Final = int(Kind.DELETE)
_MARK: Final = int(Kind.MARK)
_TAG_OF: Final = {
    **{int(kind): (TAGS[kind], 0) for kind in DATA_KINDS},
    **{_DELETE | kind << 4: (TAGS[kind], TOMBSTONE) for kind in DATA_KINDS},
}
"""By the first byte of a frame's line in a footer: the tag of its key, the flags of its entry."""
_TAGS: Final = [_TAG_OF.get(byte if byte & 0x0F == _DELETE else byte & 0x0F) for byte in range(256)]
"""The same for a byte whose upper half says nothing, as that of a put."""


class Plain(NamedTuple):
    """Whole transactions that follow on each other."""

    keys: list[bytes]
    """Tagged, in order; one may come twice."""
    entries: list[bytes]
    """Packed, one for each key."""
    lines: list[bytes]
    """Of the footer, one for each frame."""
    stop: int
    """Where the next frame starts."""
    durable: int
    """The highest LSN that one of the frames vouches for."""
    max_expiry: int


def read_frames(
    walker: Walker, start: int, lsn: int, *, segment_id: int
) -> Iterator[Plain | Found | Gap]:
    """Yield what `Walker.walk` does, and the plain between in bulk."""
    at, expected = start, lsn
    while at < walker.size:
        if expected and walker.dense:
            plain = read_plain(walker, at, expected, segment_id=segment_id)
            if plain.lines:
                yield plain
                at, expected = plain.stop, expected + len(plain.lines)
                continue
        may_return = walker.dense
        for item in walker.walk(at, expected):
            yield item
            if isinstance(item, Gap) or not item.value_sound:
                may_return = False  # what follows was searched for
            elif may_return and not item.head.more and item.head.vlen <= CHUNK_SIZE:
                at, expected = item.stop, item.head.lsn + 1
                break
        else:
            return


def read_plain(walker: Walker, start: int, lsn: int, *, segment_id: int) -> Plain:
    """Return the plain frames from `start` on that one window holds; the first has this LSN."""
    data = walker.file.read(start, min(WINDOW_SIZE, walker.size - start))
    view, size, seed, unpack = memoryview(data), len(data), walker.seed, _FRAME.unpack_from
    keys: list[bytes] = []
    entries: list[bytes] = []
    lines: list[bytes] = []
    at = stop = durable = highest = max_expiry = cut_keys = cut_lines = 0
    while at + FIXED_SIZE <= size:
        magic, head_crc, kind, flags, klen, vlen, found, vouched, expiry, vcrc, _, rest = unpack(
            data, at
        )
        value_at = at + FIXED_SIZE + klen
        end = value_at + vlen
        if (
            found != lsn or magic != MAGIC or vlen > CHUNK_SIZE or end > size or rest
            or klen > KEY_SIZE_MAX or raw_crc(view[at + 8 : value_at], seed) != head_crc
            or raw_crc(view[value_at:end]) != vcrc
        ):  # fmt: skip
            break
        kind |= flags & 0xF0
        key = data[value_at - klen : value_at]
        tag = _TAG_OF.get(kind)
        if tag is not None:
            keys.append(tag[0] + key)
            entries.append(ENTRY.pack(segment_id, start + value_at, vlen, expiry, tag[1]))
        elif kind != _MARK:
            break
        lines.append(LINE.pack(kind, klen, vlen, expiry, lsn, start + value_at) + key)
        at, lsn = end, lsn + 1
        if expiry:
            highest = max(highest, expiry)
        if flags & MORE:
            cut_lines += 1
            cut_keys += tag is not None
            continue
        # no frame vouches for less than the one before
        stop, durable, max_expiry = at, vouched, highest
        cut_keys = cut_lines = 0
    if cut_lines:  # of a transaction that goes on behind the window
        del keys[len(keys) - cut_keys :], entries[len(entries) - cut_keys :]
        del lines[len(lines) - cut_lines :]
    return Plain(keys, entries, lines, start + stop, durable, max_expiry)


class Listed(NamedTuple):
    """What a footer lists."""

    keys: list[bytes]
    """Tagged, of the frames above the LSN asked for."""
    entries: list[bytes]
    """Packed, one for each key."""
    frames: int
    new_frames: int
    """Those above it."""
    max_expiry: int
    missing: list[int]
    """How many LSNs are left out, place by place."""


def read_lines(lines: bytes, *, segment_id: int, above: int, dense: bool, expected: int) -> Listed:
    """Return what a footer's lines say.

    dense: LSNs follow on each other, from `expected` on; 0 when the first is not known.
    """
    keys: list[bytes] = []
    entries: list[bytes] = []
    missing: list[int] = []
    size, tags, unpack, pack = LINE.size, _TAGS, LINE.unpack_from, ENTRY.pack
    at, stop = 0, len(lines) - size
    frames = new_frames = max_expiry = 0
    while at <= stop:
        kind, klen, vlen, expiry, lsn, value_offset = unpack(lines, at)
        at += size + klen
        frames += 1
        if lsn != expected and dense and lsn > expected > 0:
            missing.append(lsn - expected)
        expected = lsn + 1
        if expiry > max_expiry:
            max_expiry = expiry
        if lsn <= above:
            continue
        new_frames += 1
        tag = tags[kind]
        if tag is not None:
            keys.append(tag[0] + lines[at - klen : at])
            entries.append(pack(segment_id, value_offset, vlen, expiry, tag[1]))
    return Listed(keys, entries, frames, new_frames, max_expiry, missing)
