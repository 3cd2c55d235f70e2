"""Sealing: what storing nodes keep and cannot read, unless they can guess what it is about.

A mutable value is sealed by a key that only its publisher's key, its name, the day and its seq
give; a provider record by one that its CID gives. Both with XChaCha20-Poly1305.
Source: docs/reference/records.md, "Sealing"; docs/reference/provider-records.md, "Sealed part".
"""

from typing import Final

from molia.base.cid import Cid
from molia.base.crypto import TAG_SIZE, xchacha_open, xchacha_seal
from molia.base.hashing import purpose_digest
from molia.base.ids import PeerKey

NONCE_SIZE: Final = 24
SHORT_NONCE_SIZE: Final = 8
VALUE_OVERHEAD: Final = SHORT_NONCE_SIZE + TAG_SIZE
PROVIDER_OVERHEAD: Final = NONCE_SIZE + TAG_SIZE
_REST_OF_NONCE: Final = bytes(NONCE_SIZE - SHORT_NONCE_SIZE)


def value_key(publisher: PeerKey, salt: bytes, *, period: int, seq: int) -> bytes:
    """Return the key that seals the value of one seq in one period."""
    head = publisher.key + period.to_bytes(8, "big") + seq.to_bytes(8, "big")
    return purpose_digest("record-key", head + salt)


def seal_value(key: bytes, value: bytes) -> bytes:
    """Return a value sealed by a `value_key`, 24 bytes longer: equal values give equal bytes.

    The nonce follows from the value, so that two values of one seq do not share one. Its 8 bytes
    suffice, since the key seals no more than what is in conflict at that seq.
    """
    nonce = purpose_digest("record-nonce", key + value)[:SHORT_NONCE_SIZE]
    return nonce + xchacha_seal(key, nonce + _REST_OF_NONCE, value, b"")


def open_value(key: bytes, sealed: bytes) -> bytes | None:
    """Return what `seal_value` sealed; None when it is not that."""
    nonce, rest = sealed[:SHORT_NONCE_SIZE], sealed[SHORT_NONCE_SIZE:]
    if len(sealed) < VALUE_OVERHEAD:
        return None
    return xchacha_open(key, nonce + _REST_OF_NONCE, rest, b"")


def provider_key(network: bytes, cid: Cid) -> bytes:
    """Return the key that seals the provider records of a CID."""
    return purpose_digest("provider-key", network + bytes(cid))


def seal_provider(key: bytes, nonce: bytes, plaintext: bytes, *, loc: bytes, expires: int) -> bytes:
    """Return the sealed part of a provider record, 40 bytes longer. nonce: 24 random bytes."""
    assert len(nonce) == NONCE_SIZE, "an XChaCha20 nonce has 24 bytes"
    return nonce + xchacha_seal(key, nonce, plaintext, loc + expires.to_bytes(8, "big"))


def open_provider(key: bytes, sealed: bytes, *, loc: bytes, expires: int) -> bytes | None:
    """Return what `seal_provider` sealed; None when it is not that."""
    if len(sealed) < PROVIDER_OVERHEAD:
        return None
    nonce, rest = sealed[:NONCE_SIZE], sealed[NONCE_SIZE:]
    return xchacha_open(key, nonce, rest, loc + expires.to_bytes(8, "big"))
