"""The identity proof: what an identity costs its owner once a month, at one address.

Argon2id over (peer key, nonce) with the network, the address prefix and a 30-day epoch as its salt
must start with 12 zero bits: about two seconds of one core, computed in the background, for an
identity that is good at one place. A gate, 12 bits of BLAKE2b over the same proof, makes a forged
proof dearer to make than to refuse.
Source: docs/reference/admission.md, "Identity proof"; RFC 9106 (Argon2).
"""

import struct
from enum import Enum, auto
from typing import Final, NamedTuple

from molia.base.crypto import argon2id
from molia.base.entropy import Entropy
from molia.base.hashing import blake2b_search
from molia.base.limits import PROOFS_PER_S_MAX
from molia.wire.addresses import address_prefix, is_local
from molia.wire.limiter import TokenBuckets
from molia.wire.puzzle import NONCE_SIZE, is_solved, target_of

PROOF_ARGON2ID: Final = 1
PROOF_EPOCH_S: Final = 30 * 86_400
RENEW_EARLY_S: Final = 86_400
PROOF_BITS: Final = 12
GATE_BITS: Final = 12
MEMORY_KIB: Final = 1024
_ENCODED: Final = struct.Struct("<BI8s8s")
PROOF_SIZE: Final = _ENCODED.size
_DIGEST_SIZE: Final = 8
_GATE_SLICE: Final = 256
"""Tries of the gate that are counted as one of Argon2id, which they cost less than."""


class Proof(NamedTuple):
    """An identity's proof for one epoch at one address prefix."""

    epoch: int
    nonce: bytes
    gate: bytes

    def encode(self) -> bytes:
        """Return the 21 bytes of a proof."""
        return _ENCODED.pack(PROOF_ARGON2ID, self.epoch, self.nonce, self.gate)

    @classmethod
    def parse(cls, data: bytes) -> "Proof | None":
        """Return the proof in the bytes; None for an unknown kind or another length."""
        if len(data) != PROOF_SIZE:
            return None
        kind, epoch, nonce, gate = _ENCODED.unpack(data)
        return cls(epoch, nonce, gate) if kind == PROOF_ARGON2ID else None


class ProofVerdict(Enum):
    """What a proof turned out to be."""

    VALID = auto()
    NOT_NEEDED = auto()
    """Local addresses and private networks need none."""
    MISSING = auto()
    STALE = auto()
    """Of another epoch."""
    BAD_GATE = auto()
    BUSY = auto()
    """Too many this second: it was not looked at, and may be shown again."""
    WRONG = auto()


def proof_epoch(unix_s: float) -> int:
    """Return the 30-day epoch of a time."""
    return int(unix_s // PROOF_EPOCH_S) & 0xFFFF_FFFF


def epoch_to_prove(unix_s: float) -> int:
    """Return the epoch that a new proof should be for: the next one on a epoch's last day."""
    return proof_epoch(unix_s + RENEW_EARLY_S)


def needs_proof(packed: bytes, *, private_network: bool) -> bool:
    """Tell whether an identity at this address must be proved."""
    return not private_network and not is_local(packed)


def proof_holds(proof: Proof, *, peer_key: bytes, network: bytes, packed: bytes) -> bool:
    """Tell whether a proof is good for this identity, network and address; takes 0.5 ms."""
    salt = _salt(network, packed, proof.epoch)
    gate = _gate_head(peer_key, salt, proof.nonce)
    gated = is_solved(gate, nonce=proof.gate, bits=GATE_BITS)
    return gated and _is_proof(peer_key, salt, proof.nonce)


class ProofSolver:
    """Computes a proof in slices; a shell runs it in a thread, since Argon2id lets others run."""

    __slots__ = ("_at", "_head", "_nonce", "_salt", "epoch", "tries")

    def __init__(
        self, *, peer_key: bytes, network: bytes, packed: bytes, epoch: int, entropy: Entropy
    ) -> None:
        self._head = peer_key
        self._salt = _salt(network, packed, epoch)
        self._at = int.from_bytes(entropy.token(NONCE_SIZE), "little")
        self._nonce: bytes | None = None
        self.epoch, self.tries = epoch, 0

    def solve(self, budget: int) -> Proof | None:
        """Do at most `budget` tries of about 0.5 ms; None when the proof is not found yet."""
        for _ in range(budget):
            self.tries += 1
            if self._nonce is None:
                self._try_nonce()
            else:
                gate = self._try_gate(self._nonce)
                if gate is not None:
                    return Proof(self.epoch, self._nonce, gate)
        return None

    def _try_nonce(self) -> None:
        nonce = (self._at & 0xFFFF_FFFF_FFFF_FFFF).to_bytes(NONCE_SIZE, "little")
        self._at += 1
        if _is_proof(self._head, self._salt, nonce):
            self._nonce = nonce

    def _try_gate(self, nonce: bytes) -> bytes | None:
        found = blake2b_search(
            _gate_head(self._head, self._salt, nonce), start=self._at, count=_GATE_SLICE,
            below=target_of(GATE_BITS),
        )  # fmt: skip
        self._at += _GATE_SLICE
        return None if found is None else found.to_bytes(NONCE_SIZE, "little")


class ProofGate:
    """Verifies proofs, cheapest question first, at most 50 a second by Argon2id.

    Ask it only about a peer whose address is proved by a cookie or a session, and once for each
    place in a table.
    """

    __slots__ = ("_bucket", "_network", "_private", "counts")

    def __init__(self, *, network: bytes, private_network: bool) -> None:
        self._network, self._private = network, private_network
        rate = float(PROOFS_PER_S_MAX)
        self._bucket = TokenBuckets(rate=rate, burst=rate, table_max=2)
        self.counts = dict.fromkeys(ProofVerdict, 0)

    def verify(
        self, proof: Proof | None, *, peer_key: bytes, packed: bytes, mono_s: float, unix_s: float
    ) -> ProofVerdict:
        """Return what the proof of `peer_key` at this address is worth."""
        verdict = self._judge(proof, peer_key, packed, mono_s, unix_s)
        self.counts[verdict] += 1
        return verdict

    def _judge(
        self, proof: Proof | None, peer_key: bytes, packed: bytes, mono_s: float, unix_s: float
    ) -> ProofVerdict:
        if not needs_proof(packed, private_network=self._private):
            return ProofVerdict.NOT_NEEDED
        if proof is None:
            return ProofVerdict.MISSING
        if proof.epoch not in _acceptable(unix_s):
            return ProofVerdict.STALE
        salt = _salt(self._network, packed, proof.epoch)
        head = _gate_head(peer_key, salt, proof.nonce)
        if not is_solved(head, nonce=proof.gate, bits=GATE_BITS):
            return ProofVerdict.BAD_GATE
        if not self._bucket.take(b"", mono_s):
            return ProofVerdict.BUSY
        holds = _is_proof(peer_key, salt, proof.nonce)
        return ProofVerdict.VALID if holds else ProofVerdict.WRONG


def _acceptable(unix_s: float) -> tuple[int, ...]:
    now = proof_epoch(unix_s)
    return now, now - 1, epoch_to_prove(unix_s)


def _salt(network: bytes, packed: bytes, epoch: int) -> bytes:
    return network + address_prefix(packed) + epoch.to_bytes(4, "little")


def _gate_head(peer_key: bytes, salt: bytes, nonce: bytes) -> bytes:
    return peer_key + salt + nonce


def _is_proof(peer_key: bytes, salt: bytes, nonce: bytes) -> bool:
    digest = argon2id(peer_key + nonce, salt=salt, memory_kib=MEMORY_KIB, size=_DIGEST_SIZE)
    return digest < target_of(PROOF_BITS)
