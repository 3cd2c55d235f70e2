"""Sealing: as libsodium seals, and nothing opens but what was sealed, there, for that."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nacl.bindings import crypto_aead_xchacha20poly1305_ietf_decrypt as sodium_open

from molia.base.cid import Cid
from molia.base.ids import PeerKey
from molia.dht import sealing
from tests.vectors.load import vectors

KEY = bytes(range(32))
LOC = bytes(range(32, 64))
values = st.binary(max_size=1000)
keys = st.binary(min_size=32, max_size=32)
u64 = st.integers(0, 2**64 - 1)


@pytest.mark.parametrize("row", vectors("records"))
def test_a_value_is_sealed_as_in_the_vectors(row: dict[str, str]) -> None:
    publisher, salt = PeerKey(bytes.fromhex(row["peer_key"])), bytes.fromhex(row["salt"])
    key = sealing.value_key(publisher, salt, period=int(row["period"]), seq=int(row["seq"]))
    assert key.hex() == row["value_key"]
    assert sealing.seal_value(key, bytes.fromhex(row["value"])).hex() == row["sealed"]
    assert sealing.open_value(key, bytes.fromhex(row["sealed"])) == bytes.fromhex(row["value"])


@pytest.mark.parametrize("row", vectors("providers"))
def test_a_provider_record_is_sealed_as_in_the_vectors(row: dict[str, str]) -> None:
    cid = Cid.from_bytes(bytes.fromhex(row["cid"]))
    key = sealing.provider_key(bytes.fromhex(row["network"]), cid)
    plaintext, loc = bytes.fromhex(row["plaintext"]), bytes.fromhex(row["loc"])
    assert key.hex() == row["provider_key"]
    sealed = sealing.seal_provider(
        key, bytes.fromhex(row["nonce"]), plaintext, loc=loc, expires=int(row["expires"])
    )
    assert sealed.hex() == row["sealed"]
    assert sealing.open_provider(key, sealed, loc=loc, expires=int(row["expires"])) == plaintext


@given(keys, values)
def test_libsodium_opens_a_sealed_value(key: bytes, value: bytes) -> None:
    sealed = sealing.seal_value(key, value)
    assert len(sealed) == len(value) + sealing.VALUE_OVERHEAD
    assert sodium_open(sealed[8:], None, sealed[:8] + bytes(16), key) == value


@given(values, values)
def test_equal_values_give_equal_bytes_and_others_another_nonce(one: bytes, other: bytes) -> None:
    first, second = sealing.seal_value(KEY, one), sealing.seal_value(KEY, other)
    assert (first == second) == (first[:8] == second[:8]) == (one == other)


@given(values, st.data())
def test_a_damaged_value_does_not_open(value: bytes, data: st.DataObject) -> None:
    sealed = bytearray(sealing.seal_value(KEY, value))
    sealed[data.draw(st.integers(0, len(sealed) - 1))] ^= data.draw(st.integers(1, 255))
    assert sealing.open_value(KEY, bytes(sealed)) is None
    assert sealing.open_value(KEY, bytes(sealed[: data.draw(st.integers(0, 24))])) is None


@given(keys, u64, u64, st.binary(max_size=64))
def test_each_seq_day_name_and_publisher_has_a_key_of_its_own(
    key: bytes, period: int, seq: int, salt: bytes
) -> None:
    def made(**change: int) -> bytes:
        numbers = {"period": period, "seq": seq, **change}
        return sealing.value_key(PeerKey(key), salt, **numbers)

    others = [made(period=period ^ 1), made(seq=seq ^ 1),
              sealing.value_key(PeerKey(key), salt + b"x", period=period, seq=seq),
              sealing.value_key(PeerKey(key[:31] + bytes([key[31] ^ 1])), salt, period=period,
                                seq=seq)]  # fmt: skip
    assert made() not in others


@given(st.binary(max_size=80), st.binary(min_size=24, max_size=24), u64)
def test_a_provider_record_opens_at_its_location_and_expiry_only(
    plaintext: bytes, nonce: bytes, expires: int
) -> None:
    sealed = sealing.seal_provider(KEY, nonce, plaintext, loc=LOC, expires=expires)
    assert sealing.open_provider(KEY, sealed, loc=LOC, expires=expires) == plaintext
    assert sealing.open_provider(KEY, sealed, loc=LOC, expires=expires ^ 1) is None
    assert sealing.open_provider(KEY, sealed, loc=KEY, expires=expires) is None
    assert sealing.open_provider(LOC, sealed, loc=LOC, expires=expires) is None
    assert sealing.open_provider(KEY, sealed[:39], loc=LOC, expires=expires) is None
