"""The hashes: BLAKE3-256, plain and separated by purpose, and BLAKE2s for the handshake alone.

`blake3_digest` is for bytes that other tools should be able to name (a block, a blob, a manifest:
`b3sum` agrees). Everything else goes through `purpose_digest`, which is BLAKE3's derive-key mode
with the context `molia v1 <purpose>`, so that no two uses can ever be confused.
The Noise handshake and WireGuard's packets name BLAKE2s, so it is here too and used nowhere else.
Source: docs/reference/ids.md; the BLAKE3 paper, section 2.3 (modes); RFC 7693; RFC 2104.
"""

import hashlib
import hmac
from hashlib import blake2s
from typing import Final, Literal

from blake3 import blake3

DIGEST_SIZE: Final = 32
Purpose = Literal[
    "network", "network-public", "psk", "routing-prefix", "routing-id", "merkle-node", "location",
    "provider-key", "record-location", "record-key", "record-nonce", "record-value",
    "blind-offset", "shard", "lease-owner", "cookie-root",
    "audit", "repair-lead", "schedule",
]  # fmt: skip
EMPTY_DIGEST: Final = blake3(b"").digest()
_INNER, _OUTER = (bytes(x ^ pad for x in range(256)) for pad in (0x36, 0x5C))
_INNER_PAD, _OUTER_PAD = b"\x36" * 32, b"\x5c" * 32
_NUMBERS = (b"\1", b"\2", b"\3")


def blake3_digest(data: bytes | bytearray | memoryview) -> bytes:
    """Return the plain BLAKE3-256 of `data`, as `b3sum` prints it in hex."""
    return blake3(data).digest()


def purpose_digest(purpose: Purpose, data: bytes) -> bytes:
    """Return H[purpose](data), 32 bytes that no other purpose can give."""
    return blake3(data, derive_key_context=f"molia v1 {purpose}").digest()


def blake2s_digest(data: bytes) -> bytes:
    """Return BLAKE2s-256 of `data`."""
    return blake2s(data).digest()


def blake2s_mac(key: bytes, data: bytes) -> bytes:
    """Return the 16 bytes of keyed BLAKE2s over `data`; WireGuard's MAC."""
    return blake2s(data, digest_size=16, key=key).digest()


def blake2s_hkdf(chaining: bytes, secret: bytes, count: int) -> list[bytes]:
    """Return the first outputs of the Noise framework's HKDF (its section 4.3), over HMAC-BLAKE2s.

    chaining: 32 bytes. A handshake takes 20 HMACs: written out, they cost half of the library's.
    """
    assert len(chaining) == 32, "the handshake's keys have 32 bytes"
    digest = blake2s(chaining.translate(_INNER) + _INNER_PAD + secret).digest()
    root = blake2s(chaining.translate(_OUTER) + _OUTER_PAD + digest).digest()
    inner, outer = root.translate(_INNER) + _INNER_PAD, root.translate(_OUTER) + _OUTER_PAD
    last, outputs = b"", []
    for number in _NUMBERS[:count]:
        last = blake2s(outer + blake2s(inner + last + number).digest()).digest()
        outputs.append(last)
    return outputs


def macs_equal(left: bytes, right: bytes) -> bool:
    """Tell whether two MACs are equal, in a time that says nothing of where they differ."""
    return hmac.compare_digest(left, right)


def blake2b_digest(data: bytes, *, size: int) -> bytes:
    """Return `size` bytes of BLAKE2b (RFC 7693): for puzzles, where short input counts."""
    return hashlib.blake2b(data, digest_size=size).digest()


def blake2b_search(prefix: bytes, *, start: int, count: int, below: bytes) -> int | None:
    """Return the first nonce from `start` on whose digest is below `below`; None after `count`.

    The digest is BLAKE2b over `prefix` and the nonce, 8 bytes little-endian, and as long as
    `below`; nonces wrap at 2**64. Here and not with its callers because a call a try would double
    the price of a try.
    """
    new, size = hashlib.blake2b, len(below)
    for number in range(start, start + count):
        nonce = number & 0xFFFF_FFFF_FFFF_FFFF
        if new(prefix + nonce.to_bytes(8, "little"), digest_size=size).digest() < below:
            return nonce
    return None


class ContentHasher:
    """BLAKE3-256 of a stream; `update` drops the GIL for large chunks."""

    __slots__ = ("_hasher",)

    def __init__(self) -> None:
        self._hasher = blake3()

    def update(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the stream."""
        self._hasher.update(data)

    def digest(self) -> bytes:
        """Return the digest of what came so far; more may follow."""
        return self._hasher.digest()
