"""The handshake is the published Noise pattern, in both profiles, and forgers change nothing."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base.crypto import ExchangeKey
from molia.base.ids import network_id
from molia.wire.noise import (
    NO_PSK,
    WIREGUARD,
    Initiator,
    Profile,
    Responder,
    TransportKeys,
    molia_profile,
)
from molia.wire.session import Session
from tests.vectors.load import vectors
from tests.wire.noise_oracle import HandshakeState, public_of

keys = st.binary(min_size=32, max_size=32)
LOW_ORDER = (
    bytes(32), b"\1" + bytes(31),
    bytes.fromhex("e0eb7a7c3b41b8ae1656e3faf19fc46ada098deb9c32b1fd866205165f49b800"),
    bytes.fromhex("5f9c95bca3508c24b1d0b1559c83ef5b04445cc4581c8e86d8224eddd09f1157"),
    (2**255 - 20).to_bytes(32, "little"), (2**255 - 19).to_bytes(32, "little"),
    (2**255 - 18).to_bytes(32, "little"),
)  # fmt: skip
OURS = molia_profile(network_id("molia"))
PRIVATE = molia_profile(network_id("mine", b"s" * 32), b"s" * 32)
PROFILES = {"wireguard": WIREGUARD, "molia": OURS, "private": PRIVATE}


def talk(
    profile: Profile, *, statics: tuple[bytes, bytes], ephemerals: tuple[bytes, bytes],
    payloads: tuple[bytes, bytes], psk: bytes,
) -> tuple[bytes, bytes, TransportKeys, TransportKeys]:  # fmt: skip
    """Return both messages and both sides' keys."""
    ours, theirs = (ExchangeKey(key) for key in statics)
    first = Initiator(
        profile, static=ours, responder=theirs.public, ephemeral=ExchangeKey(ephemerals[0])
    )
    sealed = first.initiate(payloads[0])
    assert sealed
    second = Responder(profile, static=theirs)
    assert second.read_static(first.ephemeral.public, sealed[0]) == ours.public
    assert second.read_payload(sealed[1]) == payloads[0]
    answer = second.respond(payloads[1], ephemeral=ExchangeKey(ephemerals[1]), psk=psk)
    assert answer
    finished = first.finish(public_of(ephemerals[1]), answer[0], psk=psk)
    assert finished
    assert finished[0] == payloads[1]
    message1 = first.ephemeral.public + sealed[0] + sealed[1]
    return message1, public_of(ephemerals[1]) + answer[0], finished[1], answer[1]


@pytest.mark.parametrize("vector", vectors("noise"))
def test_the_published_vector_comes_out_byte_by_byte(vector: dict[str, Any]) -> None:
    texts = [bytes.fromhex(message["payload"]) for message in vector["messages"]]
    sealed = [bytes.fromhex(message["ciphertext"]) for message in vector["messages"]]
    profile = Profile(prologue=bytes.fromhex(vector["init_prologue"]), is_molia=True)
    one, two, ours, theirs = talk(
        profile,
        statics=(bytes.fromhex(vector["init_static"]), bytes.fromhex(vector["resp_static"])),
        ephemerals=(
            bytes.fromhex(vector["init_ephemeral"]), bytes.fromhex(vector["resp_ephemeral"])
        ),
        payloads=(texts[0], texts[1]), psk=bytes.fromhex(vector["init_psks"][0]),
    )  # fmt: skip
    assert [one, two] == sealed[:2]
    assert ours.digest.hex() == theirs.digest.hex() == vector["handshake_hash"]
    sides = [session_of(ours, is_initiator=True), session_of(theirs, is_initiator=False)]
    for number, (text, expected) in enumerate(zip(texts[2:], sealed[2:], strict=True)):
        assert sides[number % 2].seal(text)[16:] == expected


def session_of(keys_: TransportKeys, *, is_initiator: bool) -> Session:
    """Return a session that belongs to no peer."""
    return Session(
        keys_, index=b"mine", remote=b"your", is_initiator=is_initiator, peer=None, now_s=0.0  # type: ignore[arg-type]
    )  # fmt: skip


@pytest.mark.parametrize("name", PROFILES)
@given(data=st.data())
def test_each_profile_is_the_frameworks_computation(name: str, data: st.DataObject) -> None:
    profile = PROFILES[name]
    statics = (data.draw(keys), data.draw(keys))
    ephemerals = (data.draw(keys), data.draw(keys))
    payloads = (data.draw(st.binary(max_size=64)), data.draw(st.binary(max_size=64)))
    psk = data.draw(keys)
    one, two, ours, theirs = talk(
        profile, statics=statics, ephemerals=ephemerals, payloads=payloads, psk=psk
    )
    ends = [
        HandshakeState(
            initiator=first, prologue=profile.prologue, s=statics[not first], psk=psk,
            e=ephemerals[not first], rs=public_of(statics[1]) if first else b"",
        )
        for first in (True, False)
    ]  # fmt: skip
    assert ends[0].write(payloads[0]) == one
    assert ends[1].read(one) == payloads[0]
    assert ends[1].write(payloads[1]) == two
    assert ends[0].read(two) == payloads[1]
    assert (ours.send, ours.receive) == (theirs.receive, theirs.send) == ends[0].split()
    assert ours.digest == theirs.digest == ends[1].h


def test_the_profile_of_wireguard_starts_as_its_paper_says() -> None:
    started = WIREGUARD.chaining.hex(), WIREGUARD.digest.hex()
    assert started == (  # published: the constants of the kernel and of other implementations
        "60e26daef327efc02ec335e2a025d2d016eb4206f87277f52d38d1988b78cd36",
        "2211b361081ac566691243db458ad5322d9c6c662293e8b70ee19c65ba079ef3",
    )


@pytest.mark.parametrize("point", LOW_ORDER)
def test_a_point_of_low_order_is_dropped_wherever_it_stands(point: bytes) -> None:
    ours, theirs, fresh = (ExchangeKey(bytes((n,)) * 32) for n in (1, 2, 3))
    assert Initiator(OURS, static=ours, responder=point, ephemeral=fresh).initiate(b"") is None
    first = Initiator(OURS, static=ours, responder=theirs.public, ephemeral=fresh)
    sealed = first.initiate(b"")
    assert sealed
    assert first.finish(point, bytes(16), psk=NO_PSK) is None
    assert Responder(OURS, static=theirs).read_static(point, sealed[0]) is None


@pytest.mark.parametrize(
    ("ours", "theirs"), [(OURS, PRIVATE), (OURS, WIREGUARD), (OURS, molia_profile(bytes(32)))]
)
def test_two_networks_never_meet(ours: Profile, theirs: Profile) -> None:
    static, other, fresh = (ExchangeKey(bytes((n,)) * 32) for n in (1, 2, 3))
    sealed = Initiator(ours, static=static, responder=other.public, ephemeral=fresh).initiate(b"")
    assert sealed
    assert Responder(theirs, static=other).read_static(fresh.public, sealed[0]) is None


def test_a_forged_or_keyless_response_leaves_the_handshake_as_it_was() -> None:
    static, other, fresh, answer = (ExchangeKey(bytes((n,)) * 32) for n in (1, 2, 3, 4))
    first = Initiator(OURS, static=static, responder=other.public, ephemeral=fresh)
    sealed = first.initiate(b"hello")
    assert sealed
    second = Responder(OURS, static=other)
    second.read_static(fresh.public, sealed[0])
    second.read_payload(sealed[1])
    done = second.respond(b"welcome", ephemeral=answer, psk=NO_PSK)
    assert done
    forged = bytes((done[0][0] ^ 1,)) + done[0][1:]
    assert first.finish(answer.public, forged, psk=NO_PSK) is None
    assert first.finish(fresh.public, done[0], psk=NO_PSK) is None
    assert first.finish(answer.public, done[0], psk=b"p" * 32) is None
    finished = first.finish(answer.public, done[0], psk=NO_PSK)
    assert finished
    assert finished[0] == b"welcome"


def test_nothing_that_holds_a_key_shows_it() -> None:
    _, _, ours, theirs = talk(
        PRIVATE, statics=(b"1" * 32, b"2" * 32), ephemerals=(b"3" * 32, b"4" * 32),
        payloads=(b"", b""), psk=PRIVATE.psk,
    )  # fmt: skip
    texts = [repr(thing) for thing in (ours, theirs, PRIVATE, ExchangeKey(b"1" * 32),
                                       session_of(ours, is_initiator=True))]  # fmt: skip
    for secret in (ours.send, ours.receive, PRIVATE.psk, PRIVATE.mac_salt, b"1" * 32):
        for text in texts:
            assert repr(secret)[2:-1] not in text.replace(repr(PRIVATE.prologue), "")
            assert secret.hex() not in text
