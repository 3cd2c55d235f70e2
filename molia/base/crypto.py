"""The node's identity: an Ed25519 key pair; Argon2id. The one importer of `cryptography`.

Source: RFC 8032; RFC 9106; docs/reference/ids.md.
"""

from typing import Final

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from molia.base.entropy import Entropy
from molia.base.ids import PeerKey

SEED_SIZE: Final = 32
SIGNATURE_SIZE: Final = 64


class Identity:
    """A private key that signs and never shows itself."""

    __slots__ = ("_private", "peer_key")

    def __init__(self, seed: bytes) -> None:
        assert len(seed) == SEED_SIZE, "an Ed25519 seed has 32 bytes"
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.peer_key = PeerKey(self._private.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"Identity({self.peer_key.short})"

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of `message`."""
        return self._private.sign(message)


def new_seed(entropy: Entropy) -> bytes:
    """Return the seed of a new identity."""
    return entropy.token(SEED_SIZE)


def signature_holds(key: PeerKey, message: bytes, signature: bytes) -> bool:
    """Tell whether `signature` over `message` was made by `key`'s owner."""
    try:
        Ed25519PublicKey.from_public_bytes(key.key).verify(signature, message)
    except (InvalidSignature, ValueError):
        return False
    return True


def argon2id(
    password: bytes, *, salt: bytes, memory_kib: int, passes: int = 1, size: int = 32
) -> bytes:
    """Return `size` bytes of Argon2id (RFC 9106) with one lane; lets other threads run meanwhile.

    1 MiB and one pass take 0.4 to 0.5 ms.
    """
    return Argon2id(
        salt=salt, length=size, iterations=passes, lanes=1, memory_cost=memory_kib
    ).derive(password)
