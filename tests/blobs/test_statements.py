"""Signed leases and claims: as the vectors have them, every bad one refused for its reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base.crypto import Identity
from molia.base.limits import CLAIM_LIFE_MAX_S, CLOCK_SKEW_S, LEASE_LIFE_MAX_S, LEASE_SIZE
from molia.blobs.statements import Fault, Kind, Statement, check, parse, signed_bytes, state
from tests.vectors.load import vectors

ANN, BOB = Identity(bytes(range(32))), Identity(bytes([7]) * 32)
NETWORK, OTHER = bytes(range(32)), bytes(32)
DIGEST = bytes(range(32, 64))
NOW = 1_800_000_000


def lease(*, issued: int = NOW, life_s: int = 1_000, signer: Identity = ANN) -> Statement:
    """A lease of Ann's."""
    return state(Kind.LEASE, signer, NETWORK, DIGEST, issued=issued, expires=issued + life_s)


def signed(body: bytes, *, kind: Kind = Kind.LEASE, signer: Identity = ANN) -> bytes:
    """Bytes with a good signature, whatever they say."""
    return body + signer.sign(signed_bytes(kind, NETWORK, body))


def body_of(
    *, version: int = 1, key: bytes = ANN.peer_key.key, issued: int = NOW, expires: int = NOW + 9
) -> bytes:
    """A lease's bytes before its signature."""
    times = issued.to_bytes(8, "big") + expires.to_bytes(8, "big")
    return bytes([version]) + DIGEST + key + times


@pytest.mark.parametrize("row", vectors("leases"))
def test_statements_are_those_of_the_vectors(row: dict[str, str]) -> None:
    kind, network = Kind[row["kind"]], bytes.fromhex(row["network"])
    encoded = bytes.fromhex(row["encoded"])
    identity, digest = Identity(bytes.fromhex(row["seed"])), bytes.fromhex(row["digest"])
    issued, expires = int(row["issued"]), int(row["expires"])
    made = state(kind, identity, network, digest, issued=issued, expires=expires)
    assert made.encoded == encoded
    assert signed_bytes(kind, network, encoded[:81]).hex() == row["signed"]
    assert check(kind, encoded, network, unix_s=issued) == made
    assert made.signer.key.hex() == row["signer"]


BAD: list[tuple[str, bytes, Fault]] = [
    ("empty", b"", Fault.MALFORMED),
    ("short", lease().encoded[:-1], Fault.MALFORMED),
    ("long", lease().encoded + b"x", Fault.MALFORMED),
    ("version 2", signed(body_of(version=2)), Fault.VERSION),
    ("issued beyond all time", signed(body_of(issued=2**35)), Fault.MALFORMED),
    ("ends beyond all time", signed(body_of(expires=2**35)), Fault.MALFORMED),
    ("for too long", signed(body_of(expires=NOW + LEASE_LIFE_MAX_S + 1)), Fault.FAR),
    ("from the future",
     signed(body_of(issued=NOW + CLOCK_SKEW_S + 1, expires=NOW + CLOCK_SKEW_S + 2)), Fault.FAR),
    ("low order", signed(body_of(key=b"\x01" + bytes(31))), Fault.KEY),
    ("no point", signed(body_of(key=b"\x02" + bytes(31))), Fault.KEY),
    ("another's key", signed(body_of(key=BOB.peer_key.key)), Fault.SIGNATURE),
    ("a claim", signed(body_of(), kind=Kind.CLAIM), Fault.SIGNATURE),
]  # fmt: skip


@pytest.mark.parametrize(("encoded", "fault"), [row[1:] for row in BAD], ids=[r[0] for r in BAD])
def test_a_bad_one_is_refused_for_its_reason(encoded: bytes, fault: Fault) -> None:
    assert check(Kind.LEASE, encoded, NETWORK, unix_s=NOW) is fault


def test_another_networks_is_refused() -> None:
    assert check(Kind.LEASE, lease().encoded, OTHER, unix_s=NOW) is Fault.SIGNATURE


def test_a_claim_is_short() -> None:
    body = body_of(expires=NOW + CLAIM_LIFE_MAX_S + 1)
    assert check(Kind.CLAIM, signed(body, kind=Kind.CLAIM), NETWORK, unix_s=NOW) is Fault.FAR
    with pytest.raises(AssertionError):
        state(Kind.CLAIM, ANN, NETWORK, DIGEST, issued=NOW, expires=NOW + CLAIM_LIFE_MAX_S + 1)


def test_one_that_has_run_out_is_still_read() -> None:
    assert check(Kind.LEASE, lease().encoded, NETWORK, unix_s=NOW + 10**7) == lease()
    assert not lease().lives(NOW + 1_000)
    assert lease().lives(NOW + 999)
    assert lease(life_s=0).is_release
    assert not lease().is_release


@given(st.integers(0, LEASE_SIZE - 1), st.integers(1, 255))
def test_no_damaged_byte_passes(at: int, flip: int) -> None:
    encoded = bytearray(lease().encoded)
    encoded[at] ^= flip
    assert isinstance(check(Kind.LEASE, bytes(encoded), NETWORK, unix_s=NOW), Fault)


@given(st.binary(max_size=200) | st.binary(min_size=LEASE_SIZE, max_size=LEASE_SIZE))
def test_any_bytes_are_a_statement_or_a_fault(data: bytes) -> None:
    found = parse(Kind.LEASE, data)
    assert isinstance(found, Fault) or found.encoded == data
    assert isinstance(check(Kind.LEASE, data, NETWORK, unix_s=NOW), Fault)


@given(st.tuples(st.integers(0, 3), st.integers(-2, 2)), st.tuples(st.integers(0, 3),
                                                                  st.integers(-2, 2)))  # fmt: skip
def test_of_two_one_wins_or_they_are_equal(one: tuple[int, int], two: tuple[int, int]) -> None:
    first, second = (lease(issued=NOW + a, life_s=b) for a, b in (one, two))
    assert first.beats(second) + second.beats(first) == (first.encoded != second.encoded)
    assert not (first.issued > second.issued) or first.beats(second)
