"""Arithmetic of Ed25519: what key blinding needs and signatures alone do not give.

The one importer of PyNaCl. Points and scalars are their 32 bytes (RFC 8032, section 5.1); a scalar
here is below the group's order L. What comes from a peer is checked with `is_prime_order` first: a
point of small order, or one beside the subgroup of order L, would fit several keys.
Source: RFC 8032; libsodium, "Finite field arithmetic".
"""

import hashlib
from functools import lru_cache
from typing import Final

from nacl import bindings as sodium
from nacl.exceptions import BadSignatureError, CryptoError

from molia.base.limits import BLINDED_KEYS_MAX

POINT_SIZE: Final = 32
WIDE_SIZE: Final = 64
SIGNATURE_SIZE: Final = 64

assert sodium.has_crypto_core_ed25519, "PyNaCl was built without the arithmetic of Ed25519"


def reduced(wide: bytes) -> bytes:
    """Return 64 bytes, as a little-endian number, modulo L."""
    assert len(wide) == WIDE_SIZE, "a hash to a scalar has 64 bytes"
    return sodium.crypto_core_ed25519_scalar_reduce(wide)


def multiplied(left: bytes, right: bytes) -> bytes:
    """Return the product of two scalars modulo L; they may be above L."""
    return sodium.crypto_core_ed25519_scalar_mul(left, right)


def public_of(scalar: bytes) -> bytes:
    """Return the point `scalar` times the base point; the scalar is not 0."""
    return sodium.crypto_scalarmult_ed25519_base_noclamp(scalar)


def times(scalar: bytes, point: bytes) -> bytes | None:
    """Return `scalar` times `point`, 90 us; None for a point outside the subgroup of order L."""
    try:
        return sodium.crypto_scalarmult_ed25519_noclamp(scalar, point)
    except CryptoError:
        return None


@lru_cache(maxsize=BLINDED_KEYS_MAX)
def is_prime_order(point: bytes) -> bool:
    """Tell whether 32 bytes are a point of the subgroup of order L, not its zero; 45 us, kept."""
    return sodium.crypto_core_ed25519_is_valid_point(point)


def scalar_sign(scalar: bytes, nonce_seed: bytes, public: bytes, message: bytes) -> bytes:
    """Return an Ed25519 signature made with a bare scalar, as RFC 8032 from section 5.1.6, step 2.

    nonce_seed: 32 secret bytes that belong to this scalar alone. public: `public_of(scalar)`.
    """
    nonce = reduced(hashlib.sha512(nonce_seed + message).digest())
    commitment = public_of(nonce)
    challenge = reduced(hashlib.sha512(commitment + public + message).digest())
    response = sodium.crypto_core_ed25519_scalar_add(nonce, multiplied(challenge, scalar))
    return commitment + response


def point_verifies(point: bytes, message: bytes, signature: bytes) -> bool:
    """Tell whether a signature over `message` is by the owner of a point; 55 us.

    Plain Ed25519: any implementation agrees about points that pass `is_prime_order`.
    """
    try:
        sodium.crypto_sign_open(signature + message, point)
    except (BadSignatureError, CryptoError):
        return False
    return True
