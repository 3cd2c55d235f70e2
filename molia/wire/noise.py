"""Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s, written once; a `Profile` says whose prologue it has.

In this pattern every key seals one thing, so nonces are zero and no counter is kept. Neither class
changes when it is given a forged message: a forger cannot end a handshake that is under way.
Source: the Noise Protocol Framework, revision 34, sections 5 and 9; the WireGuard paper, 5.4;
docs/reference/packets.md.
"""

from dataclasses import dataclass, field
from typing import Final

from molia.base.crypto import ExchangeKey, PublicPoint, open_once, public_point, seal_once
from molia.base.hashing import blake2s_digest, blake2s_hkdf, purpose_digest

CONSTRUCTION: Final = b"Noise_IKpsk2_25519_ChaChaPoly_BLAKE2s"
NO_PSK: Final = bytes(32)


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """Whose handshake it is: WireGuard's to the bit, or ours. All else is the same code."""

    prologue: bytes
    """Both sides must have the same; WireGuard calls it the identifier."""
    is_molia: bool
    """Variable payloads, the puzzle trailer and early data; strangers may come."""
    psk: bytes = field(default=NO_PSK, repr=False)
    """Of the whole network; WireGuard has one per pair of peers instead."""
    mac_salt: bytes = field(default=b"", repr=False)
    """Mixed into the keys of mac1 and cookies: a private network's id, which strangers lack."""
    chaining: bytes = field(init=False, repr=False)
    digest: bytes = field(init=False, repr=False)

    def __post_init__(self) -> None:
        chaining = blake2s_digest(CONSTRUCTION)
        object.__setattr__(self, "chaining", chaining)
        object.__setattr__(self, "digest", blake2s_digest(chaining + self.prologue))


WIREGUARD: Final = Profile(prologue=b"WireGuard v1 zx2c4 Jason@zx2c4.com", is_molia=False)


def molia_profile(network: bytes, secret: bytes = b"") -> Profile:
    """Return the profile of a network; `secret` is empty for an open one."""
    prologue = b"molia/1" + network
    if not secret:
        return Profile(prologue=prologue, is_molia=True)
    psk = purpose_digest("psk", secret)
    return Profile(prologue=prologue, is_molia=True, psk=psk, mac_salt=network)


@dataclass(frozen=True, slots=True, repr=False)
class TransportKeys:
    """What a handshake leaves behind."""

    send: bytes
    receive: bytes
    digest: bytes
    """Names this handshake on both sides; no secret."""


class _Transcript:
    """The chaining key and the hash of all that was said."""

    __slots__ = ("chaining", "digest", "key")

    def __init__(self, chaining: bytes, digest: bytes) -> None:
        self.chaining, self.digest, self.key = chaining, digest, b""

    def mix_hash(self, data: bytes) -> None:
        self.digest = blake2s_digest(self.digest + data)

    def mix_key(self, secret: bytes) -> None:
        self.chaining, self.key = blake2s_hkdf(self.chaining, secret, 2)

    def mix_chain(self, secret: bytes) -> None:
        """Mix a secret whose key would seal nothing, for another is mixed right after it."""
        (self.chaining,) = blake2s_hkdf(self.chaining, secret, 1)

    def mix_ephemeral(self, public: bytes) -> None:
        self.mix_hash(public)
        self.mix_chain(public)

    def mix_psk(self, psk: bytes) -> None:
        self.chaining, middle, self.key = blake2s_hkdf(self.chaining, psk, 3)
        self.mix_hash(middle)

    def seal(self, plaintext: bytes) -> bytes:
        sealed = seal_once(self.key, plaintext, self.digest)
        self.mix_hash(sealed)
        return sealed

    def open(self, sealed: bytes) -> bytes | None:
        plaintext = open_once(self.key, sealed, self.digest)
        self.mix_hash(sealed)
        return plaintext

    def split(self) -> tuple[bytes, bytes]:
        first, second = blake2s_hkdf(self.chaining, b"", 2)
        return first, second


class Initiator:
    """Who speaks first; it knows the responder's static key."""

    __slots__ = ("_chaining", "_digest", "_static", "ephemeral", "profile", "responder")

    def __init__(
        self, profile: Profile, *, static: ExchangeKey, responder: bytes, ephemeral: ExchangeKey
    ) -> None:
        self.profile, self.responder = profile, responder
        self._static, self.ephemeral = static, ephemeral
        self._chaining = self._digest = b""

    def initiate(self, payload: bytes) -> tuple[bytes, bytes] | None:
        """Return the sealed static key and the sealed payload of message 1.

        None: the responder's key is a point of low order, and nobody owns it.
        """
        said = _Transcript(self.profile.chaining, self.profile.digest)
        said.mix_hash(self.responder)
        said.mix_ephemeral(self.ephemeral.public)
        point = public_point(self.responder)
        es, ss = self.ephemeral.exchange(point), self._static.exchange(point)
        if es is None or ss is None:
            return None
        said.mix_key(es)
        sealed_static = said.seal(self._static.public)
        said.mix_key(ss)
        sealed_payload = said.seal(payload)
        self._chaining, self._digest = said.chaining, said.digest
        return sealed_static, sealed_payload

    def finish(
        self, ephemeral: bytes, sealed: bytes, *, psk: bytes
    ) -> tuple[bytes, TransportKeys] | None:
        """Return message 2's payload and the keys; None when the responder did not make it."""
        assert self._digest, "message 1 comes first"
        said = _Transcript(self._chaining, self._digest)
        said.mix_ephemeral(ephemeral)
        point = public_point(ephemeral)
        ee, se = self.ephemeral.exchange(point), self._static.exchange(point)
        if ee is None or se is None:
            return None
        said.mix_chain(ee)
        said.mix_chain(se)
        said.mix_psk(psk)
        payload = said.open(sealed)
        if payload is None:
            return None
        send, receive = said.split()
        return payload, TransportKeys(send, receive, said.digest)


class Responder:
    """Who answers; it learns the initiator's static key from message 1. For one message each."""

    __slots__ = ("_ephemeral", "_initiator", "_said", "_static")

    def __init__(self, profile: Profile, *, static: ExchangeKey) -> None:
        self._static = static
        self._said = _Transcript(profile.chaining, profile.digest)
        self._ephemeral: PublicPoint | None = None
        self._initiator: PublicPoint | None = None

    def read_static(self, ephemeral: bytes, sealed_static: bytes) -> bytes | None:
        """Return the initiator's static key. None: the message was not made for us."""
        said = self._said
        said.mix_hash(self._static.public)
        said.mix_ephemeral(ephemeral)
        self._ephemeral = public_point(ephemeral)
        es = self._static.exchange(self._ephemeral)
        if es is None:
            return None
        said.mix_key(es)
        static = said.open(sealed_static)
        self._initiator = None if static is None else public_point(static)
        return static

    def read_payload(self, sealed_payload: bytes) -> bytes | None:
        """Return message 1's payload, after `read_static`. None: who made it has not that key."""
        assert self._initiator is not None, "the static key comes first"
        ss = self._static.exchange(self._initiator)
        if ss is None:
            return None
        self._said.mix_key(ss)
        return self._said.open(sealed_payload)

    def respond(
        self, payload: bytes, *, ephemeral: ExchangeKey, psk: bytes
    ) -> tuple[bytes, TransportKeys] | None:
        """Return message 2's sealed payload and the keys, after `read_payload`."""
        assert self._ephemeral is not None, "message 1 comes first"
        assert self._initiator is not None, "message 1 comes first"
        said = self._said
        said.mix_ephemeral(ephemeral.public)
        ee, se = ephemeral.exchange(self._ephemeral), ephemeral.exchange(self._initiator)
        if ee is None or se is None:
            return None
        said.mix_chain(ee)
        said.mix_chain(se)
        said.mix_psk(psk)
        sealed = said.seal(payload)
        receive, send = said.split()
        return sealed, TransportKeys(send, receive, said.digest)
