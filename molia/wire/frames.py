"""The frames inside a data packet: type u8, length u16, body; one after the other to its end.

A frame of an unknown odd type is skipped; an unknown even one ends the session with a reason.
Types 0 to 15 are requests and upkeep, 16 to 47 streams, the rest is free.
Source: docs/reference/packets.md, "Frames".
"""

from collections.abc import Iterable
from struct import Struct
from typing import Final

PADDING: Final = 1
REQUEST: Final = 2
REPLY: Final = 4
PATH_ASK: Final = 6
"""8 bytes to be sent back from where they arrived: proof of an address."""
PATH_ANSWER: Final = 8
CLOSE: Final = 10
STREAMS: Final = range(16, 48)

HEAD: Final = Struct("<BH")
PATH_SIZE: Final = HEAD.size + 8


def encode_frame(kind: int, body: bytes) -> bytes:
    """Return one frame."""
    return HEAD.pack(kind, len(body)) + body


def encode_frames(frames: Iterable[tuple[int, bytes]]) -> bytes:
    """Return several frames as the plaintext of one packet."""
    return b"".join([HEAD.pack(kind, len(body)) + body for kind, body in frames])


def decode_frames(plaintext: bytes) -> list[tuple[int, bytes]] | None:
    """Return the frames (type, body) of a packet, padding left out; None when it is malformed."""
    frames: list[tuple[int, bytes]] = []
    at, end = 0, len(plaintext)
    unpack = HEAD.unpack_from
    while at < end:
        if at + 3 > end:
            return None
        kind, size = unpack(plaintext, at)
        at += 3
        if at + size > end:
            return None
        if kind != PADDING:
            frames.append((kind, plaintext[at : at + size]))
        at += size
    return frames


def must_be_known(kind: int) -> bool:
    """Tell whether a receiver that does not know `kind` has to end the session."""
    return kind % 2 == 0
