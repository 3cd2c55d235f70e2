"""Blinded keys and locations: as plain arithmetic has them, and nothing but proper points."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molia.base import curve
from molia.base.cid import Cid, Codec, ContentHash
from molia.base.crypto import Identity, signature_holds
from molia.base.ids import PeerKey
from molia.dht import blinding
from tests.dht import ed25519_oracle as oracle
from tests.dht.record_samples import ANN, CID, NETWORK, NOW, OTHER_NETWORK, SALT
from tests.vectors.load import vectors

VECTORS = vectors("records")
seeds = st.binary(min_size=32, max_size=32)
salts = st.binary(max_size=64)
periods = st.integers(0, 2**64 - 1)
LOW_ORDER = [  # a point of each order that divides 8, and two that are not canonical
    "0100000000000000000000000000000000000000000000000000000000000000",
    "ecffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "0000000000000000000000000000000000000000000000000000000000000080",
    "0000000000000000000000000000000000000000000000000000000000000000",
    "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
    "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
    "eeffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
    "edffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff7f",
]


def beside_the_subgroup() -> bytes:
    """Return a proper point plus one of order 2: on the curve, outside the subgroup."""
    point = oracle.unpack(ANN.peer_key.key)
    assert point is not None
    return oracle.pack(oracle.add(point, (0, oracle.FIELD - 1)))


IMPROPER = [*map(bytes.fromhex, LOW_ORDER), beside_the_subgroup(), b"\x02" + bytes(31)]


@pytest.mark.parametrize("row", VECTORS)
def test_every_step_to_a_location_is_the_vectors(row: dict[str, Any]) -> None:
    identity, salt = Identity(bytes.fromhex(row["seed"])), bytes.fromhex(row["salt"])
    network, key = bytes.fromhex(row["network"]), PeerKey(bytes.fromhex(row["peer_key"]))
    period = blinding.period_at(key, int(row["unix_s"]))
    assert identity.peer_key == key
    assert (blinding.period_offset_s(key), period) == (row["offset_s"], row["period"])
    assert blinding.blind_factor(key, salt, period).hex() == row["factor"]
    place = blinding.place(network, key, salt, period)
    assert place is not None
    assert (place.blinded_key.hex(), place.loc.hex()) == (row["blinded_key"], row["loc"])
    signer = blinding.blinded_identity(identity, salt, period)
    assert signer.sign(bytes.fromhex(row["signed"])).hex() == row["signature"]


@settings(max_examples=15)
@given(seed=seeds, salt=salts, period=periods, message=st.binary(max_size=80))
def test_blinding_equals_plain_arithmetic(
    seed: bytes, salt: bytes, period: int, message: bytes
) -> None:
    identity = Identity(seed)
    scalar, prefix = oracle.blinded(seed, salt, period)
    public = oracle.pack(oracle.times(scalar, oracle.BASE))
    assert blinding.blinded_key(identity.peer_key, salt, period) == public
    signer = blinding.blinded_identity(identity, salt, period)
    assert signer.public == public
    assert signer.sign(message) == oracle.sign(scalar, prefix, message)


@given(seed=seeds, salt=salts, period=periods, message=st.binary(max_size=80))
def test_plain_verification_takes_a_blinded_signature_for_its_key_alone(
    seed: bytes, salt: bytes, period: int, message: bytes
) -> None:
    identity = Identity(seed)
    signer = blinding.blinded_identity(identity, salt, period)
    signature = signer.sign(message)
    assert signature_holds(PeerKey(signer.public), message, signature), "OpenSSL's"
    assert curve.point_verifies(signer.public, message, signature), "libsodium's"
    assert not curve.point_verifies(signer.public, message + b"x", signature)
    assert not curve.point_verifies(identity.peer_key.key, message, signature)


@given(st.binary(min_size=32, max_size=32) | st.sampled_from(IMPROPER))
@settings(max_examples=60)
def test_only_points_of_prime_order_are_keys(data: bytes) -> None:
    assert curve.is_prime_order(data) == oracle.is_prime_order(data)


@pytest.mark.parametrize("point", IMPROPER, ids=lambda point: point.hex()[:8])
def test_an_improper_publishers_key_has_no_place(point: bytes) -> None:
    assert not curve.is_prime_order(point)
    assert blinding.blinded_key(PeerKey(point), SALT, 1) is None
    assert blinding.place(NETWORK, PeerKey(point), SALT, 1) is None
    assert blinding.locations(NETWORK, PeerKey(point), SALT, NOW) == []


@given(seed=seeds, unix_s=st.integers(86_400, 2**40))
def test_periods_are_days_that_begin_at_the_publishers_own_hour(seed: bytes, unix_s: int) -> None:
    key = Identity(seed).peer_key
    period = blinding.period_at(key, unix_s)
    assert (
        blinding.period_end_s(key, period) - 86_400 <= unix_s < blinding.period_end_s(key, period)
    )
    assert blinding.period_at(key, blinding.period_end_s(key, period)) == period + 1


def periods_of(places: list[blinding.Place]) -> list[int]:
    return [place.period for place in places]


def test_publishers_store_ahead_in_the_last_two_hours() -> None:
    key = ANN.peer_key
    period = blinding.period_at(key, NOW)
    end_s = blinding.period_end_s(key, period)
    for before_s, expected in ((7_201, [period]), (7_200, [period, period + 1]),
                               (1, [period, period + 1]), (0, [period + 1])):  # fmt: skip
        assert periods_of(blinding.locations(NETWORK, key, SALT, end_s - before_s)) == expected


def test_readers_within_an_hour_of_an_edge_ask_on_both_sides_the_present_first() -> None:
    key = ANN.peer_key
    period = blinding.period_at(key, NOW)
    end_s = blinding.period_end_s(key, period)
    for before_s, expected in ((3_601, [period]), (3_600, [period, period + 1]),
                               (0, [period + 1, period]), (-3_599, [period + 1, period]),
                               (-3_600, [period + 1])):  # fmt: skip
        assert periods_of(blinding.read_locations(NETWORK, key, SALT, end_s - before_s)) == expected


@given(st.integers(0, 2 * 86_400), st.integers(-3_600, 3_600))
def test_a_reader_an_hour_off_finds_what_was_stored_at_any_time_of_day(
    shift_s: int, skew_s: int
) -> None:
    key, at_s = ANN.peer_key, NOW + shift_s
    stored = blinding.locations(NETWORK, key, SALT, at_s)
    asked = blinding.read_locations(NETWORK, key, SALT, at_s + skew_s)
    assert set(stored) & set(asked)


def test_locations_tell_networks_names_days_and_contents_apart() -> None:
    key = ANN.peer_key
    places = [
        blinding.place(network, key, salt, period)
        for network in (NETWORK, OTHER_NETWORK) for salt in (b"", b"a") for period in (1, 2)
    ]  # fmt: skip
    locs = [place.loc for place in places if place is not None]
    raw = Cid(Codec.RAW, CID.digest)
    locs += [blinding.content_loc(n, c) for n in (NETWORK, OTHER_NETWORK) for c in (CID, raw)]
    assert len(set(locs)) == 12


def test_a_content_hash_lies_where_its_raw_cid_does() -> None:
    assert blinding.content_cid(ContentHash(CID.digest)) == Cid(Codec.RAW, CID.digest)
    assert blinding.content_cid(CID) == CID


def test_a_blinded_identity_shows_no_secret() -> None:
    assert repr(blinding.blinded_identity(ANN, SALT, 1)).startswith("BlindedIdentity(")
