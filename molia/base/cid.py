"""Content ids: CIDv1, base32 lower, BLAKE3-256, of two codecs.

raw (0x55, `bafkr4i…`) names the bytes themselves; manifest (dag-cbor 0x71, `bafyr4i…`) names a
blob's manifest. `parse_ref` takes every spelling that a user may hand us.
Source: docs/reference/ids.md; https://github.com/multiformats/cid.
"""

import base64
import binascii
import re
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from molia.base.errors import BadCid
from molia.base.hashing import DIGEST_SIZE

_PREFIX_SIZE: Final = 4  # version, codec, hash function, digest length: all one-byte varints here
_BLAKE3: Final = 0x1E
_HEX: Final = re.compile(r"[0-9a-fA-F]{64}")
TEXT_LENGTH: Final = 59


class Codec(IntEnum):
    """What the digest of a CID is the digest of."""

    RAW = 0x55
    MANIFEST = 0x71


@dataclass(frozen=True, slots=True, order=True)
class Cid:
    """The name of a blob."""

    codec: Codec
    digest: bytes

    def __post_init__(self) -> None:
        assert len(self.digest) == DIGEST_SIZE, "a CID holds a 32-byte digest"

    def __bytes__(self) -> bytes:
        return bytes((1, self.codec, _BLAKE3, DIGEST_SIZE)) + self.digest

    def __str__(self) -> str:
        return "b" + base64.b32encode(bytes(self)).decode("ascii").rstrip("=").lower()

    @property
    def short(self) -> str:
        """The last 8 characters, for logs and tables: the first ones are alike for all."""
        return str(self)[-8:]

    @classmethod
    def parse(cls, text: str) -> "Cid":
        """Return the CID that `text` spells in base32 lower. Raises BadCid."""
        if len(text) != TEXT_LENGTH or not text.startswith("b"):
            raise BadCid(text)
        try:
            # 58 characters carry 36 bytes and 2 spare bits; b32decode wants the padding back
            body = base64.b32decode(text[1:].upper() + "=" * 6)
        except (binascii.Error, ValueError):
            raise BadCid(text) from None
        cid = cls.from_bytes(body)
        if str(cid) != text:  # upper case, or spare bits set: one blob has one spelling
            raise BadCid(text)
        return cid

    @classmethod
    def from_bytes(cls, body: bytes) -> "Cid":
        """Return the CID in its binary form. Raises BadCid."""
        if len(body) != _PREFIX_SIZE + DIGEST_SIZE or body[0] != 1 or body[2:4] != b"\x1e\x20":
            raise BadCid(body.hex())
        if body[1] not in (Codec.RAW, Codec.MANIFEST):
            raise BadCid(body.hex())
        return cls(Codec(body[1]), body[4:])


@dataclass(frozen=True, slots=True)
class ContentHash:
    """The BLAKE3 of a blob's bytes, given where a CID may stand; it resolves through ALIAS rows."""

    digest: bytes

    def __str__(self) -> str:
        return self.digest.hex()


Ref = Cid | ContentHash


def parse_ref(text: str) -> Ref:
    """Return what `text` names: a CID, `ipfs://CID`, `molia:CID`, or a 64-digit hex BLAKE3.

    A 64-digit hex is always the content hash. Raises BadCid.
    """
    if _HEX.fullmatch(text):
        return ContentHash(bytes.fromhex(text))
    for scheme in ("ipfs://", "molia:"):
        if text.startswith(scheme):
            text = text[len(scheme) :]
            break
    return Cid.parse(text)
