"""Keys and sealing: published vectors, and the two forms of one key agree."""

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base.crypto import (
    ExchangeKey,
    Identity,
    exchange_public,
    hchacha20,
    maps_to,
    open_once,
    seal_once,
    xchacha_open,
    xchacha_seal,
)
from molia.base.ids import PeerKey
from tests.vectors.load import vectors

P = 2**255 - 19
seeds = st.binary(min_size=32, max_size=32)


@pytest.mark.parametrize("vector", [v for v in vectors("xchacha") if "subkey" in v])
def test_hchacha20_gives_the_published_subkey(vector: dict[str, Any]) -> None:
    key, nonce = bytes.fromhex(vector["key"]), bytes.fromhex(vector["nonce"])
    assert hchacha20(key, nonce).hex() == vector["subkey"]


@pytest.mark.parametrize("vector", [v for v in vectors("xchacha") if "sealed" in v])
def test_xchacha20_poly1305_gives_the_published_bytes(vector: dict[str, Any]) -> None:
    key, nonce, aad, text = (
        bytes.fromhex(vector[name]) for name in ("key", "nonce", "aad", "plaintext")
    )
    sealed = xchacha_seal(key, nonce, text, aad)
    assert sealed.hex() == vector["sealed"]
    assert xchacha_open(key, nonce, sealed, aad) == text
    assert xchacha_open(key, nonce, sealed, aad + b"x") is None
    assert xchacha_open(key, nonce, sealed[:15], aad) is None


@given(seed=seeds)
def test_both_ways_to_the_exchange_key_meet(seed: bytes) -> None:
    identity = Identity(seed)
    public = identity.exchange_key.public
    assert exchange_public(identity.peer_key) == public
    assert maps_to(identity.peer_key, public)
    assert ExchangeKey(hashlib.sha512(seed).digest()[:32]).public == public


@given(seed=seeds, other=seeds, bit=st.integers(0, 255))
def test_a_key_maps_to_no_other(seed: bytes, other: bytes, bit: int) -> None:
    key, public = Identity(seed).peer_key, Identity(other).exchange_key.public
    assert maps_to(key, public) == (seed == other)
    own = int.from_bytes(Identity(seed).exchange_key.public, "little")
    assert not maps_to(key, (own ^ 1 << bit).to_bytes(32, "little"))


@pytest.mark.parametrize("y", [1, P, P + 1, 2**255 - 1])
def test_a_key_that_is_no_number_of_the_field_or_the_neutral_point_maps_to_none(y: int) -> None:
    key = PeerKey(y.to_bytes(32, "little"))
    assert exchange_public(key) is None
    assert not any(maps_to(key, u.to_bytes(32, "little")) for u in (0, 1, y % P))


@given(one=seeds, two=seeds)
def test_an_exchange_gives_both_the_same(one: bytes, two: bytes) -> None:
    left, right = ExchangeKey(one), ExchangeKey(two)
    assert left.exchange(right.public) == right.exchange(left.public) is not None


@given(key=seeds, text=st.binary(max_size=100), aad=st.binary(max_size=40), at=st.integers(0, 99))
def test_what_was_sealed_opens_and_nothing_else(
    key: bytes, text: bytes, aad: bytes, at: int
) -> None:
    sealed = seal_once(key, text, aad)
    assert open_once(key, sealed, aad) == text
    at %= len(sealed)
    assert open_once(key, sealed[:at] + bytes((sealed[at] ^ 1,)) + sealed[at + 1 :], aad) is None
    assert open_once(key, sealed[:at], aad) is None
