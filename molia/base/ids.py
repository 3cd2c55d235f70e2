"""Who and what: peer keys, networks, objects, jobs.

Source: docs/reference/ids.md.
"""

import base64
import binascii
from dataclasses import dataclass
from typing import Final, NewType

from molia.base.entropy import Entropy
from molia.base.errors import BadPeerKey
from molia.base.hashing import purpose_digest

ObjectId = NewType("ObjectId", bytes)
"""16 random bytes: the home of a blob's blocks in the local store."""

JobId = NewType("JobId", str)
"""26 lower-case base32 characters: 16 random bytes."""

OBJECT_ID_SIZE: Final = 16
_ED25519_PUB: Final = b"\xed\x01"


@dataclass(frozen=True, slots=True, order=True)
class PeerKey:
    """A node's Ed25519 public key, which is its name."""

    key: bytes

    def __post_init__(self) -> None:
        assert len(self.key) == 32, "an Ed25519 public key has 32 bytes"

    def __str__(self) -> str:
        return "b" + _base32(_ED25519_PUB + self.key)

    @property
    def short(self) -> str:
        """The last 8 characters, for logs and tables."""
        return str(self)[-8:]

    @classmethod
    def parse(cls, text: str) -> "PeerKey":
        """Return the key that `text` spells. Raises BadPeerKey."""
        try:
            body = _unbase32(text[1:])
        except (binascii.Error, ValueError):
            raise BadPeerKey(text) from None
        if len(body) != 34 or body[:2] != _ED25519_PUB or str(cls(body[2:])) != text:
            raise BadPeerKey(text)
        return cls(body[2:])


def network_id(name: str, secret: bytes = b"", *, bind_ids: bool = True) -> bytes:
    """Return the 32-byte id of the network `name`; `secret` is empty for an open one.

    bind_ids: whether routing ids follow from addresses. Nodes that differ in it never meet.
    """
    parameters = b"" if bind_ids else b"\0"
    return purpose_digest("network", name.encode() + b"\0" + secret + parameters)


def network_label(network: bytes) -> str:
    """Return what is shown to people of a network id; it gives nothing away about a secret."""
    return purpose_digest("network-public", network)[:8].hex()


def new_object_id(entropy: Entropy) -> ObjectId:
    """Return a fresh object id."""
    return ObjectId(entropy.token(OBJECT_ID_SIZE))


def new_job_id(entropy: Entropy) -> JobId:
    """Return a fresh job id."""
    return JobId(_base32(entropy.token(16)))


def _base32(data: bytes) -> str:
    return base64.b32encode(data).decode("ascii").rstrip("=").lower()


def _unbase32(text: str) -> bytes:
    return base64.b32decode(text.upper() + "=" * (-len(text) % 8))
