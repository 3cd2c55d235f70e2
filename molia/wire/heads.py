"""A message on a stream that bytes follow: its head's size, the head, then bytes to the end.

Source: docs/reference/blob-messages.md, "Streams".
"""

from typing import Final

from molia.base.limits import MESSAGE_SIZE_MAX

_SIZE_SIZE: Final = 2


def encode_head(body: bytes) -> bytes:
    """Return the body of a message as it goes before its bytes."""
    assert len(body) <= MESSAGE_SIZE_MAX, "a head is a small message"
    return len(body).to_bytes(_SIZE_SIZE, "little") + body


class HeadReader:
    """Takes a head off the front of a stream that comes in pieces."""

    def __init__(self) -> None:
        self._read = bytearray()
        self.head: bytes | None = None
        """The head's body, once it is complete."""
        self.is_bad = False
        """Whether the head is longer than any: give the stream up."""

    def on_bytes(self, data: bytes) -> bytes:
        """Take the next bytes; return those that are no longer the head's."""
        if self.head is not None:
            return data
        if self.is_bad:
            return b""
        self._read += data
        if len(self._read) < _SIZE_SIZE:
            return b""
        end = _SIZE_SIZE + int.from_bytes(self._read[:_SIZE_SIZE], "little")
        self.is_bad = end > _SIZE_SIZE + MESSAGE_SIZE_MAX
        if self.is_bad or len(self._read) < end:
            return b""
        self.head, rest = bytes(self._read[_SIZE_SIZE:end]), bytes(self._read[end:])
        self._read.clear()
        return rest
