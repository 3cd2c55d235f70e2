"""The identity proof: found in slices, good for one identity, place, network and month."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base.crypto import argon2id
from molia.wire import proof
from molia.wire.proof import Proof, ProofGate, ProofSolver, ProofVerdict
from tests.vectors.load import vectors
from tests.wire.doubles import UNIX_S, Seeded

VECTOR = vectors("proof")[0]
KEY, NETWORK = bytes.fromhex(VECTOR["peer_key"]), bytes.fromhex(VECTOR["network"])
HOST = bytes.fromhex(VECTOR["host"])
EPOCH = VECTOR["epoch"]
START_S = float(EPOCH * proof.PROOF_EPOCH_S)
GOOD = Proof(EPOCH, bytes.fromhex(VECTOR["nonce"]), bytes.fromhex(VECTOR["gate"]))


def gate(**change: object) -> ProofGate:
    """A gate of the vector's network."""
    return ProofGate(**{"network": NETWORK, "private_network": False, **change})  # type: ignore[arg-type]


def judge(it: Proof | None, *, of: ProofGate | None = None, **change: object) -> ProofVerdict:
    """What a gate says of a proof, where the tests do not care about the rest."""
    asked: dict[str, object] = {
        "peer_key": KEY, "packed": HOST, "mono_s": 1.0, "unix_s": START_S + 5, **change,
    }  # fmt: skip
    return (of or gate()).verify(it, **asked)  # type: ignore[arg-type]


# The reference implementation's own tests (phc-winner-argon2, src/test.c, Argon2id, version 0x13).
PUBLISHED = [
    (b"password", b"somesalt", 65536, 2,
     "09316115d5cf24ed5a15a31a3ba326e5cf32edc24702987c02b6566f61913cf7"),
    (b"password", b"somesalt", 256, 2,
     "9dfeb910e80bad0311fee20f9c0e2b12c17987b4cac90c2ef54d5b3021c68bfe"),
    (b"password", b"somesalt", 65536, 1,
     "f6a5adc1ba723dddef9b5ac1d464e180fcd9dffc9d1cbf76cca2fed795d9ca98"),
]  # fmt: skip


@pytest.mark.parametrize(("password", "salt", "memory", "passes", "expected"), PUBLISHED)
def test_argon2id_gives_the_published_digests(
    password: bytes, salt: bytes, memory: int, passes: int, expected: str
) -> None:
    digest = argon2id(password, salt=salt, memory_kib=memory, passes=passes)
    assert digest.hex() == expected


def test_the_vectors_hold_in_every_step() -> None:
    for row in vectors("proof"):
        one = {name: bytes.fromhex(row[name]) for name in ("peer_key", "nonce", "gate", "salt")}
        digest = argon2id(one["peer_key"] + one["nonce"], salt=one["salt"], memory_kib=1024, size=8)
        assert digest.hex() == row["digest"]
        assert int.from_bytes(digest, "big") >> (64 - 12) == 0
        text = one["peer_key"] + one["salt"] + one["nonce"] + one["gate"]
        gate_digest = hashlib.blake2b(text, digest_size=8).digest()
        assert gate_digest.hex() == row["gate_digest"]
        made = Proof(row["epoch"], one["nonce"], one["gate"])
        assert made.encode().hex() == row["proof"]
        judged = gate(network=bytes.fromhex(row["network"])).verify(
            made, peer_key=one["peer_key"], packed=bytes.fromhex(row["host"]), mono_s=0.0,
            unix_s=row["epoch"] * proof.PROOF_EPOCH_S + 1,
        )  # fmt: skip
        assert judged is ProofVerdict.VALID


def test_a_solver_finds_a_proof_in_slices(monkeypatch: pytest.MonkeyPatch) -> None:
    """With 3 bits: 12 take about two seconds; the vectors were found with all of them."""
    monkeypatch.setattr(proof, "PROOF_BITS", 3)
    work = ProofSolver(
        peer_key=KEY, network=NETWORK, packed=HOST, epoch=EPOCH, entropy=Seeded(1)
    )  # fmt: skip
    found, slices = None, 0
    while found is None:
        found = work.solve(4)
        slices += 1
        assert work.tries <= slices * 4
    assert judge(found) is ProofVerdict.VALID
    assert Proof.parse(found.encode()) == found


@given(st.binary(max_size=40))
def test_any_bytes_are_a_proof_or_none(data: bytes) -> None:
    it = Proof.parse(data)
    if it is not None:
        assert it.encode() == data
        judge(it)


def test_a_proof_is_for_one_identity_place_network_and_month() -> None:
    assert judge(GOOD) is ProofVerdict.VALID
    bad = ProofVerdict.BAD_GATE  # the gate is over the same things, and comes first
    assert judge(GOOD, peer_key=bytes(32)) is bad
    assert judge(GOOD, packed=b"\x08\x08\x08\x08") is bad
    assert judge(GOOD, of=gate(network=bytes(32))) is bad
    assert judge(GOOD._replace(epoch=EPOCH - 1)) is bad
    assert judge(GOOD._replace(epoch=EPOCH + 1)) is ProofVerdict.STALE
    assert judge(None) is ProofVerdict.MISSING
    same_network = HOST[:3] + bytes([HOST[3] ^ 0xFF])
    assert judge(GOOD, packed=same_network) is ProofVerdict.VALID


def test_a_gate_without_its_proof_is_wrong() -> None:
    """Who pays for the gate alone costs the verifier one Argon2id, 50 times a second."""
    forged, n = None, 0
    salt = bytes.fromhex(VECTOR["salt"])
    while forged is None:
        nonce = n.to_bytes(8, "little")
        digest = hashlib.blake2b(KEY + salt + bytes(8) + nonce, digest_size=8).digest()
        if int.from_bytes(digest, "big") >> (64 - 12) == 0:
            forged = Proof(EPOCH, bytes(8), nonce)
        n += 1
    assert judge(forged) is ProofVerdict.WRONG


@pytest.mark.parametrize(
    ("day", "valid"), [(-2, False), (-1, True), (0, True), (29, True), (31, True), (59, True),
                       (60, False), (90, False)],
)  # fmt: skip
def test_a_proof_holds_from_a_day_early_to_the_end_of_the_next_epoch(day: int, valid: bool) -> None:
    unix_s = START_S + day * 86_400 + 60
    expected = ProofVerdict.VALID if valid else ProofVerdict.STALE
    assert judge(GOOD, unix_s=unix_s) is expected


def test_a_proof_is_renewed_a_day_early() -> None:
    assert proof.epoch_to_prove(START_S - 86_401) == EPOCH - 1
    assert proof.epoch_to_prove(START_S - 86_399) == EPOCH
    assert proof.proof_epoch(UNIX_S) == int(UNIX_S) // (30 * 86_400)


def test_fifty_proofs_a_second_are_verified() -> None:
    it = gate()
    verdicts = [judge(GOOD, of=it, mono_s=5.0) for _ in range(60)]
    assert verdicts == [ProofVerdict.VALID] * 50 + [ProofVerdict.BUSY] * 10
    assert [judge(GOOD, of=it, mono_s=5.11) for _ in range(6)].count(ProofVerdict.VALID) == 5
    assert it.counts[ProofVerdict.BUSY] == 11


def test_junk_is_refused_before_it_costs_anything() -> None:
    it = gate()
    for n in range(1000):
        assert judge(GOOD._replace(gate=n.to_bytes(8, "big")), of=it) is ProofVerdict.BAD_GATE
    assert judge(GOOD, of=it) is ProofVerdict.VALID


@pytest.mark.parametrize("host", ["7f000001", "0a000001", "c0a80101", "fd" + "00" * 15])
def test_local_addresses_need_no_proof(host: str) -> None:
    assert judge(None, packed=bytes.fromhex(host)) is ProofVerdict.NOT_NEEDED


def test_private_networks_need_no_proof() -> None:
    assert judge(None, of=gate(private_network=True)) is ProofVerdict.NOT_NEEDED
