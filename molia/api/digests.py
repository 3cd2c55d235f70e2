"""`Content-Digest` (RFC 9530): what the client says its body hashes to.

sha-256 and sha-512 are verified; other algorithms are ignored, as the RFC asks. BLAKE3 is not
registered there; an assertion of it is a CID or a hex digest in the path.
"""

import base64
import binascii
import hashlib
import re
from typing import Final

from molia.base.errors import BadInput, DigestMismatch

_MEMBER: Final = re.compile(r"^([a-z*][a-z0-9_\-.*]{0,63})=:([A-Za-z0-9+/=]{0,344}):$")
_SIZES: Final = {"sha-256": 32, "sha-512": 64}
_MEMBERS_MAX: Final = 16


class BodyDigest:
    """Hashes a body and compares it with what was promised."""

    __slots__ = ("_hashers",)

    def __init__(self, promised: dict[str, bytes]) -> None:
        self._hashers = [
            (name, hashlib.new(name.replace("-", "")), digest) for name, digest in promised.items()
        ]

    def update(self, data: bytes) -> None:
        """Take the body's next bytes."""
        for _, hasher, _ in self._hashers:
            hasher.update(data)

    def check(self) -> None:
        """Raise DigestMismatch unless the whole body hashes to what was promised."""
        for name, hasher, digest in self._hashers:
            if hasher.digest() != digest:
                raise DigestMismatch(f"the body does not match the {name} of Content-Digest")


def parse_content_digest(header: str) -> BodyDigest | None:
    """Return what verifies the body, None when the header names no algorithm that we verify.

    Raises BadInput for a header that is no dictionary of byte sequences (RFC 8941, 3.2 and 3.3.5),
    or a digest of the wrong length.
    """
    promised: dict[str, bytes] = {}
    members = header.split(",")
    if len(members) > _MEMBERS_MAX:
        raise BadInput("Content-Digest has too many members")
    for member in members:
        match = _MEMBER.match(member.strip(" \t"))
        if match is None:
            raise BadInput("Content-Digest is malformed", hint="sha-256=:BASE64: is its form")
        name, text = match.groups()
        if name in _SIZES:
            promised[name] = _digest(name, text)
    return BodyDigest(promised) if promised else None


def _digest(name: str, text: str) -> bytes:
    try:
        digest = base64.b64decode(text, validate=True)
    except binascii.Error:
        raise BadInput(f"the {name} of Content-Digest is not base64") from None
    if len(digest) != _SIZES[name]:
        raise BadInput(f"the {name} of Content-Digest has {len(digest)} bytes")
    return digest
