"""The layouts of the four packets, in both profiles. Numbers are little-endian, as WireGuard's.

A packet's first four bytes are its type and three zeros; they are compared as one, so a packet
with a reserved byte set has no type at all. Indices stay the four bytes that they are on the wire.
Source: the WireGuard paper, 5.4; docs/reference/packets.md.
"""

from typing import Final, NamedTuple

from molia.base.limits import HANDSHAKE_SIZE_MAX
from molia.wire.noise import Profile
from molia.wire.puzzle import TRAILER_SIZE, PuzzleTrailer

INITIATION: Final = b"\1\0\0\0"
RESPONSE: Final = b"\2\0\0\0"
COOKIE: Final = b"\3\0\0\0"
DATA: Final = b"\4\0\0\0"

TAG: Final = 16
MAC: Final = 16
MACS: Final = 2 * MAC
INDEX: Final = 4
KEY: Final = 32
TIMESTAMP: Final = 12
DATA_HEAD: Final = 16
DATA_SIZE_MIN: Final = DATA_HEAD + TAG

_SEALED_AT: Final = 8 + KEY
_PAYLOAD_AT: Final = _SEALED_AT + KEY + TAG
_ANSWER_AT: Final = 12 + KEY
WIREGUARD_INITIATION_SIZE: Final = _PAYLOAD_AT + TIMESTAMP + TAG + MACS
RESPONSE_SIZE_MIN: Final = _ANSWER_AT + TAG + MACS
INITIATION_SIZE_MIN: Final = WIREGUARD_INITIATION_SIZE + TRAILER_SIZE
_NONCE: Final = 24
WIREGUARD_COOKIE_SIZE: Final = 8 + _NONCE + MAC + TAG
COOKIE_SIZE: Final = WIREGUARD_COOKIE_SIZE + 8

INITIATION_OVERHEAD: Final = _PAYLOAD_AT + TAG + TRAILER_SIZE + MACS
"""Bytes of our initiation beside its payload."""
RESPONSE_OVERHEAD: Final = RESPONSE_SIZE_MIN

WORKER_MASK: Final = 15
"""The low bits of an index that name a worker; a node has at most 16."""


class Initiation(NamedTuple):
    """Message 1."""

    sender: bytes
    ephemeral: bytes
    sealed_static: bytes
    sealed_payload: bytes
    trailer: PuzzleTrailer | None
    """None in the wireguard profile."""


class Response(NamedTuple):
    """Message 2."""

    sender: bytes
    receiver: bytes
    ephemeral: bytes
    sealed_payload: bytes


class CookieReply(NamedTuple):
    """What a node under load answers to a message without a valid mac2."""

    receiver: bytes
    nonce: bytes
    sealed: bytes


def worker_of(index: bytes) -> int:
    """Return the number of the worker that gave out `index`."""
    return index[0] & WORKER_MASK


def size_fits(packet: bytes, profile: Profile) -> bool:
    """Tell whether a handshake or cookie packet has a size that its type allows."""
    size, kind = len(packet), packet[:4]
    if not profile.is_molia:
        sizes = {INITIATION: WIREGUARD_INITIATION_SIZE, RESPONSE: RESPONSE_SIZE_MIN}
        return size == sizes.get(kind, WIREGUARD_COOKIE_SIZE)
    if kind == INITIATION:
        return INITIATION_SIZE_MIN <= size <= HANDSHAKE_SIZE_MAX
    if kind == RESPONSE:
        return RESPONSE_SIZE_MIN <= size <= HANDSHAKE_SIZE_MAX
    return size == COOKIE_SIZE


def parse_initiation(packet: bytes, profile: Profile) -> Initiation:
    """Return the parts of an initiation of a fitting size."""
    end, trailer = len(packet) - MACS, None
    if profile.is_molia:
        trailer = PuzzleTrailer.parse(packet[end - TRAILER_SIZE : end])
        end -= TRAILER_SIZE
    return Initiation(
        packet[4:8], packet[8:_SEALED_AT], packet[_SEALED_AT:_PAYLOAD_AT],
        packet[_PAYLOAD_AT:end], trailer,
    )  # fmt: skip


def encode_initiation(parts: Initiation) -> bytes:
    """Return an initiation without its two MACs."""
    tail = parts.trailer.encode() if parts.trailer else b""
    return b"".join((INITIATION, *parts[:4], tail))


def parse_response(packet: bytes) -> Response:
    """Return the parts of a response of a fitting size."""
    return Response(packet[4:8], packet[8:12], packet[12:_ANSWER_AT], packet[_ANSWER_AT:-MACS])


def encode_response(parts: Response) -> bytes:
    """Return a response without its two MACs."""
    return b"".join((RESPONSE, *parts))


def parse_cookie(packet: bytes) -> CookieReply:
    """Return the parts of a cookie reply of a fitting size."""
    return CookieReply(packet[4:8], packet[8 : 8 + _NONCE], packet[8 + _NONCE :])


def encode_cookie(parts: CookieReply) -> bytes:
    """Return a cookie reply."""
    return b"".join((COOKIE, *parts))
