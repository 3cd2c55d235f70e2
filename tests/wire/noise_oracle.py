"""The Noise framework straight from its specification (revision 34, section 5): slow and obvious.

It follows tokens, keeps nonces and knows nothing of WireGuard. The program is held against it.
"""

import hmac
from collections.abc import Iterator
from hashlib import blake2s

from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305

NAME = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
MESSAGES = (("e", "es", "s", "ss"), ("e", "ee", "se", "psk"))


def public_of(private: bytes) -> bytes:
    """Return the public half of an X25519 key."""
    return X25519PrivateKey.from_private_bytes(private).public_key().public_bytes_raw()


def shared(private: bytes, public: bytes) -> bytes:
    """Return DH(private, public)."""
    their = X25519PublicKey.from_public_bytes(public)
    return X25519PrivateKey.from_private_bytes(private).exchange(their)


def hkdf(chaining: bytes, material: bytes, count: int) -> Iterator[bytes]:
    """Yield the outputs of section 4.3."""
    root, last = hmac.new(chaining, material, blake2s).digest(), b""
    for number in range(1, count + 1):
        last = hmac.new(root, last + bytes((number,)), blake2s).digest()
        yield last


class CipherState:
    """Section 5.1."""

    def __init__(self, key: bytes) -> None:
        self.key, self.nonce = key, 0

    def _next(self) -> bytes:
        self.nonce += 1
        return bytes(4) + (self.nonce - 1).to_bytes(8, "little")

    def encrypt(self, aad: bytes, plaintext: bytes) -> bytes:
        """Return EncryptWithAd."""
        return ChaCha20Poly1305(self.key).encrypt(self._next(), plaintext, aad)

    def decrypt(self, aad: bytes, sealed: bytes) -> bytes:
        """Return DecryptWithAd."""
        return ChaCha20Poly1305(self.key).decrypt(self._next(), sealed, aad)


class HandshakeState:
    """Section 5.3 for this one pattern; `re` is empty until the other's first message."""

    def __init__(
        self, *, initiator: bool, prologue: bytes, s: bytes, e: bytes, psk: bytes, rs: bytes = b""
    ) -> None:
        self.initiator, self.s, self.e, self.psk, self.rs, self.re = initiator, s, e, psk, rs, b""
        self.h = self.ck = blake2s(NAME).digest()
        self.mix_hash(prologue)
        self.mix_hash(rs if initiator else public_of(s))
        self.cipher = CipherState(bytes(32))
        self.turn = 0

    def mix_hash(self, data: bytes) -> None:
        """MixHash."""
        self.h = blake2s(self.h + data).digest()

    def mix_key(self, material: bytes) -> None:
        """MixKey."""
        self.ck, key = hkdf(self.ck, material, 2)
        self.cipher = CipherState(key)

    def _dh(self, token: str) -> bytes:
        mine, theirs = tuple(token if self.initiator else token[::-1])
        return shared(getattr(self, mine), getattr(self, "r" + theirs))

    def _token(self, token: str) -> None:
        if token == "psk":
            self.ck, middle, key = hkdf(self.ck, self.psk, 3)
            self.mix_hash(middle)
            self.cipher = CipherState(key)
        else:
            self.mix_key(self._dh(token))

    def write(self, payload: bytes) -> bytes:
        """Return the next message."""
        out = b""
        for token in MESSAGES[self.turn]:
            if token == "e":
                out += public_of(self.e)
                self.mix_hash(out)
                self.mix_key(out)
            elif token == "s":
                out += self._seal(public_of(self.s))
            else:
                self._token(token)
        self.turn += 1
        return out + self._seal(payload)

    def read(self, message: bytes) -> bytes:
        """Return the payload of the next message."""
        for token in MESSAGES[self.turn]:
            if token == "e":
                self.re, message = message[:32], message[32:]
                self.mix_hash(self.re)
                self.mix_key(self.re)
            elif token == "s":
                self.rs, message = self._open(message[:48]), message[48:]
            else:
                self._token(token)
        self.turn += 1
        return self._open(message)

    def _seal(self, plaintext: bytes) -> bytes:
        sealed = self.cipher.encrypt(self.h, plaintext)
        self.mix_hash(sealed)
        return sealed

    def _open(self, sealed: bytes) -> bytes:
        plaintext = self.cipher.decrypt(self.h, sealed)
        self.mix_hash(sealed)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        """Return the keys of the initiator's and of the responder's packets."""
        first, second = hkdf(self.ck, b"", 2)
        return first, second
