"""Half-open byte ranges, and the one HTTP range that Molia answers."""

import re
from typing import NamedTuple

from molia.base.errors import RangeNotSatisfiable

_SINGLE = re.compile(r"bytes=([0-9]{0,20})-([0-9]{0,20})")


class ByteRange(NamedTuple):
    """Bytes `start` up to but not including `stop`."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        """Number of bytes in the range."""
        return self.stop - self.start

    def clip(self, start: int, stop: int) -> "ByteRange":
        """Return the part inside [start, stop); empty when there is none."""
        low = min(max(self.start, start), stop)
        return ByteRange(low, max(low, min(self.stop, stop)))


def parse_http_range(header: str, *, size: int) -> ByteRange | None:
    """Return the range that a `Range` header asks of `size` bytes, or None to send everything.

    None: not `bytes=`, more than one range, or malformed; RFC 9110 14.2 lets a server ignore these.
    Raises RangeNotSatisfiable when the range is well-formed and lies outside the bytes.
    """
    match = _SINGLE.fullmatch(header.strip())
    if match is None:
        return None
    first, last = match.groups()
    if not first and not last:
        return None
    if not first:
        if int(last) == 0 or size == 0:
            raise RangeNotSatisfiable(size)
        return ByteRange(max(0, size - int(last)), size)
    start = int(first)
    if last and int(last) < start:
        return None
    if start >= size:
        raise RangeNotSatisfiable(size)
    return ByteRange(start, min(int(last) + 1, size) if last else size)
