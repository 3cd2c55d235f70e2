"""The one hash and its purposes, and the handshake's."""

import hmac
from hashlib import blake2s
from typing import get_args

from blake3 import blake3
from hypothesis import given
from hypothesis import strategies as st

from molia.base.hashing import (
    EMPTY_DIGEST,
    ContentHasher,
    Purpose,
    blake2s_digest,
    blake2s_hkdf,
    blake2s_mac,
    blake3_digest,
    purpose_digest,
)

# from the official BLAKE3 test vectors: https://github.com/BLAKE3-team/BLAKE3
OF_NOTHING = "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
OF_ONE_ZERO = "2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"


def test_the_hash_is_blake3() -> None:
    assert blake3_digest(b"").hex() == OF_NOTHING
    assert blake3_digest(b"\0").hex() == OF_ONE_ZERO
    assert EMPTY_DIGEST.hex() == OF_NOTHING


@given(st.binary(max_size=200))
def test_no_two_purposes_give_the_same_digest(data: bytes) -> None:
    digests = [purpose_digest(purpose, data) for purpose in get_args(Purpose)]
    assert len({*digests, blake3_digest(data)}) == len(digests) + 1
    assert digests[0] == blake3(data, derive_key_context="molia v1 network").digest()


@given(st.lists(st.binary(max_size=100)))
def test_a_stream_hashes_as_its_bytes_in_one(parts: list[bytes]) -> None:
    hasher = ContentHasher()
    for part in parts:
        hasher.update(memoryview(part))
        hasher.digest()
    assert hasher.digest() == blake3_digest(b"".join(parts))


@given(st.binary(min_size=32, max_size=32), st.binary(max_size=200))
def test_the_handshakes_hashes_are_the_librarys(key: bytes, data: bytes) -> None:
    root, last, expected = hmac.new(key, data, blake2s).digest(), b"", []
    for number in (b"\1", b"\2", b"\3"):
        last = hmac.new(root, last + number, blake2s).digest()
        expected.append(last)
    for count in (1, 2, 3):
        assert blake2s_hkdf(key, data, count) == expected[:count]
    assert blake2s_digest(data) == blake2s(data).digest()
    assert blake2s_mac(key, data) == blake2s(data, digest_size=16, key=key).digest()
