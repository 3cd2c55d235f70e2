"""Keys: the node's Ed25519 identity, X25519 for the handshake, sealing of bytes, Argon2id.

The one importer of `cryptography`. A key of the handshake that gives an all-zero secret (a point
of low order) is answered with None: its packet is dropped.
Source: RFC 8032; RFC 7748; RFC 8439; RFC 9106; draft-irtf-cfrg-xchacha; docs/reference/ids.md.
"""

import hashlib
from functools import lru_cache
from struct import Struct
from typing import Final

from cryptography.exceptions import InvalidSignature, InvalidTag
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.ciphers.algorithms import ChaCha20
from cryptography.hazmat.primitives.kdf.argon2 import Argon2id

from molia.base import curve
from molia.base.entropy import Entropy
from molia.base.hashing import Purpose, blake2b_digest, purpose_digest
from molia.base.ids import PeerKey
from molia.base.limits import EXCHANGE_KEYS_MAX

SEED_SIZE: Final = 32
SIGNATURE_SIZE: Final = 64
TAG_SIZE: Final = 16

Aead = ChaCha20Poly1305
"""`encrypt(nonce, plaintext, aad)` and `decrypt`, called as they are where every packet counts."""

PublicPoint = X25519PublicKey
"""A public key that has been read; see `public_point`."""

TagMismatch = InvalidTag
"""What `Aead.decrypt` raises when the bytes are not what was sealed."""

_FIELD: Final = 2**255 - 19
_WORDS: Final = Struct("<16I")
_NO_NONCE: Final = bytes(12)
_NONCE_LABEL: Final = b"molia/blind-nonce/1"


class Identity:
    """A private key that signs and never shows itself."""

    __slots__ = ("_private", "exchange_key", "peer_key")

    def __init__(self, seed: bytes) -> None:
        assert len(seed) == SEED_SIZE, "an Ed25519 seed has 32 bytes"
        self.exchange_key = ExchangeKey(_expanded(seed)[:32])
        """The same key for X25519: its public half is `exchange_public` of the peer key."""
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        self.peer_key = PeerKey(self._private.public_key().public_bytes_raw())

    def __repr__(self) -> str:
        return f"Identity({self.peer_key.short})"

    def derive(self, purpose: Purpose) -> bytes:
        """Return 32 secret bytes that only this key gives, for one purpose."""
        return purpose_digest(purpose, self._private.private_bytes_raw())

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of `message`."""
        return self._private.sign(message)

    def blinded(self, factor: bytes, label: bytes) -> "BlindedIdentity":
        """Return this key times `factor`, a scalar; `label` stands for what the factor is for.

        Source: docs/reference/records.md, "Blinding".
        """
        expanded = _expanded(self._private.private_bytes_raw())
        seed = blake2b_digest(_NONCE_LABEL + expanded[32:] + label, size=64)[:32]
        return BlindedIdentity(curve.multiplied(factor, _clamped(expanded[:32])), seed)


class BlindedIdentity:
    """A private key that was made from an identity's, and shows neither itself nor that."""

    __slots__ = ("_nonce_seed", "_scalar", "public")

    def __init__(self, scalar: bytes, nonce_seed: bytes) -> None:
        self._scalar, self._nonce_seed = scalar, nonce_seed
        self.public = curve.public_of(scalar)
        """The blinded public key: the factor times the peer key."""

    def __repr__(self) -> str:
        return f"BlindedIdentity({self.public.hex()[:8]})"

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of `message` by the blinded key."""
        return curve.scalar_sign(self._scalar, self._nonce_seed, self.public, message)


def _expanded(seed: bytes) -> bytes:
    """Return the private scalar, not yet clamped, and the prefix (RFC 8032, section 5.1.5)."""
    return hashlib.sha512(seed).digest()


def _clamped(scalar: bytes) -> bytes:
    return bytes((scalar[0] & 248,)) + scalar[1:31] + bytes((scalar[31] & 63 | 64,))


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


class ExchangeKey:
    """An X25519 private key that exchanges and never shows itself."""

    __slots__ = ("_private", "public")

    def __init__(self, private: bytes) -> None:
        assert len(private) == 32, "an X25519 key has 32 bytes"
        self._private = X25519PrivateKey.from_private_bytes(private)
        self.public = self._private.public_key().public_bytes_raw()

    def __repr__(self) -> str:
        return f"ExchangeKey({self.public.hex()[:8]})"

    def exchange(self, public: bytes | PublicPoint) -> bytes | None:
        """Return the secret shared with the owner of `public`; None for a point of low order.

        Who exchanges with one key twice reads it once, with `public_point`: it takes 2 us.
        """
        try:
            return self._private.exchange(
                public_point(public) if isinstance(public, bytes) else public
            )
        except ValueError:
            return None


def public_point(public: bytes) -> PublicPoint:
    """Return an X25519 public key of 32 bytes in the form that `exchange` works on."""
    return X25519PublicKey.from_public_bytes(public)


@lru_cache(maxsize=EXCHANGE_KEYS_MAX)
def exchange_public(key: PeerKey) -> bytes | None:
    """Return the X25519 key that a peer key maps to: u = (1 + y) / (1 - y). None: it has none.

    The division takes 10 us, so answers are remembered.
    """
    y = _y_of(key)
    if y is None or y == 1:
        return None
    return ((1 + y) * pow(1 - y, -1, _FIELD) % _FIELD).to_bytes(32, "little")


def maps_to(key: PeerKey, public: bytes) -> bool:
    """Tell whether `public` is `exchange_public(key)`; cheaper, for it divides nothing."""
    y, u = _y_of(key), int.from_bytes(public, "little")
    return y is not None and y != 1 and u < _FIELD and (u * (1 - y) - 1 - y) % _FIELD == 0


def _y_of(key: PeerKey) -> int | None:
    y = int.from_bytes(key.key, "little") & (1 << 255) - 1
    return y if y < _FIELD else None


def seal_once(key: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Return `plaintext` sealed with ChaCha20-Poly1305, nonce 0: for a key that seals one thing."""
    return Aead(key).encrypt(_NO_NONCE, plaintext, aad)


def open_once(key: bytes, sealed: bytes, aad: bytes) -> bytes | None:
    """Return what `seal_once` sealed; None when it is not that."""
    try:
        return Aead(key).decrypt(_NO_NONCE, sealed, aad)
    except TagMismatch:
        return None


def hchacha20(key: bytes, nonce: bytes) -> bytes:
    """Return the 32-byte subkey of a 16-byte nonce (draft-irtf-cfrg-xchacha, section 2.2).

    ChaCha20's first block is its rounds plus its input; taking the input away leaves the rounds.
    """
    block = Cipher(ChaCha20(key, nonce), mode=None).encryptor().update(bytes(64))
    words = _WORDS.unpack(block)
    start = _WORDS.unpack(b"expand 32-byte k" + key + nonce)
    places = (0, 1, 2, 3, 12, 13, 14, 15)
    return b"".join(((words[i] - start[i]) & 0xFFFFFFFF).to_bytes(4, "little") for i in places)


def xchacha_seal(key: bytes, nonce: bytes, plaintext: bytes, aad: bytes) -> bytes:
    """Return `plaintext` sealed with XChaCha20-Poly1305; a 24-byte nonce may be random."""
    return Aead(hchacha20(key, nonce[:16])).encrypt(bytes(4) + nonce[16:], plaintext, aad)


def xchacha_open(key: bytes, nonce: bytes, sealed: bytes, aad: bytes) -> bytes | None:
    """Return what `xchacha_seal` sealed; None when it is not that."""
    try:
        return Aead(hchacha20(key, nonce[:16])).decrypt(bytes(4) + nonce[16:], sealed, aad)
    except TagMismatch:
        return None


def argon2id(
    password: bytes, *, salt: bytes, memory_kib: int, passes: int = 1, size: int = 32
) -> bytes:
    """Return `size` bytes of Argon2id (RFC 9106) with one lane; lets other threads run meanwhile.

    1 MiB and one pass take 0.4 to 0.5 ms.
    """
    return Argon2id(
        salt=salt, length=size, iterations=passes, lanes=1, memory_cost=memory_kib
    ).derive(password)
