"""Peer keys, networks, objects, jobs and the node's signature."""

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from multiformats import multibase, multicodec

from molia.base.crypto import SIGNATURE_SIZE, Identity, new_seed, signature_holds
from molia.base.errors import BadPeerKey
from molia.base.ids import PeerKey, network_id, network_label, new_job_id, new_object_id

keys = st.builds(PeerKey, st.binary(min_size=32, max_size=32))
GOOD = str(PeerKey(bytes(range(32))))

# RFC 8032, section 7.1, test 2
SEED = bytes.fromhex("4ccd089b28ff96da9db6c346ec114e0f5b8a319f35aba624da8cf6ed4fb8a6fb")
PUBLIC = bytes.fromhex("3d4017c3e843895a92b70aa74d1b7ebc9c982ccf2ec4968cc0cd55f12af4660c")
SIGNATURE = bytes.fromhex(
    "92a009a9f0d4cab8720e820b5f642540a2b27b5416503f8fb3762223ebdb69da"
    "085ac1e43e15996e458f3613d0f11d8c387b2eaeb4302aeeb00d291612bb0c00"
)


class Counting:
    """An Entropy whose bytes are known."""

    def token(self, size: int) -> bytes:
        """0, 1, 2…"""
        return bytes(range(size))


@given(keys)
def test_a_peer_key_reads_the_same_in_the_multiformats_library(key: PeerKey) -> None:
    codec, body = multicodec.unwrap(multibase.decode(str(key)))
    assert (codec.name, body) == ("ed25519-pub", key.key)
    assert multibase.get("base32").encode(multicodec.wrap("ed25519-pub", key.key)) == str(key)
    assert PeerKey.parse(str(key)) == key
    assert str(key).endswith(key.short)


@given(st.text(max_size=80))
@example("")
@example("b")
@example(GOOD.upper())
@example("z" + GOOD[1:])
@example(GOOD + "\n")
@example(GOOD + "a")
@example("b" + "é" * 55)
@example("\ud800" * 56)
@example("b" + "=" * 55)
def test_any_text_is_a_peer_key_or_a_bad_one(text: str) -> None:
    try:
        key = PeerKey.parse(text)
    except BadPeerKey as error:
        error.message.encode()
        return
    assert str(key) == text


@given(st.integers(0, len(GOOD) - 1), st.characters())
def test_a_peer_key_has_one_spelling(at: int, char: str) -> None:
    text = GOOD[:at] + char + GOOD[at + 1 :]
    with contextlib.suppress(BadPeerKey):
        assert str(PeerKey.parse(text)) == text


def test_networks_differ_by_name_and_by_secret() -> None:
    ids = {network_id("a"), network_id("b"), network_id("a", b"s"), network_id("a", b"t")}
    assert len(ids) == 4
    assert network_id("molia") == network_id("molia", b"")


def test_a_network_that_does_not_bind_ids_is_another_one() -> None:
    names = [("a", b""), ("a", b"s" * 32)]
    ids = {network_id(*name, bind_ids=bound) for name in names for bound in (True, False)}
    assert len(ids) == 4


def test_a_networks_label_is_short_and_not_its_id() -> None:
    network = network_id("molia", b"secret")
    assert len(network_label(network)) == 16
    assert not network.hex().startswith(network_label(network))


def test_ids_are_drawn_from_the_given_entropy() -> None:
    assert new_object_id(Counting()) == bytes(range(16))
    job = new_job_id(Counting())
    assert len(job) == 26
    assert job == job.lower()


def test_an_identity_signs_as_rfc_8032_says() -> None:
    identity = Identity(SEED)
    assert identity.peer_key.key == PUBLIC
    assert identity.sign(b"\x72") == SIGNATURE
    assert signature_holds(identity.peer_key, b"\x72", SIGNATURE)


@given(st.integers(0, SIGNATURE_SIZE - 1), st.integers(1, 255))
def test_a_changed_signature_does_not_hold(at: int, change: int) -> None:
    changed = bytearray(SIGNATURE)
    changed[at] ^= change
    assert not signature_holds(PeerKey(PUBLIC), b"\x72", bytes(changed))


@pytest.mark.parametrize("signature", [b"", SIGNATURE[:-1], SIGNATURE + b"\0", bytes(64)])
def test_a_signature_of_another_kind_does_not_hold(signature: bytes) -> None:
    assert not signature_holds(PeerKey(PUBLIC), b"\x72", signature)


@given(st.binary(min_size=32, max_size=32))
def test_any_32_bytes_as_a_key_verify_nothing_and_break_nothing(key: bytes) -> None:
    assert not signature_holds(PeerKey(key), b"message", SIGNATURE)


def test_an_identity_never_shows_its_seed() -> None:
    assert len(new_seed(Counting())) == 32
    identity = Identity(SEED)
    assert SEED.hex() not in repr(identity)
    assert identity.peer_key.short in repr(identity)
