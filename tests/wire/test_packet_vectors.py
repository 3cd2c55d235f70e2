"""Every packet of an exchange comes out byte for byte as the golden vectors have it."""

import json
from typing import Any

import pytest

from molia.base.crypto import ExchangeKey
from molia.base.ids import PeerKey
from molia.wire import hello as payloads
from molia.wire import packet
from molia.wire.cookies import CookieSecret, MacChecker, mac1_key, open_cookie, stamp
from molia.wire.hello import Hello, Welcome
from molia.wire.noise import WIREGUARD, Initiator, Responder, molia_profile
from molia.wire.puzzle import Effort, PuzzleTrailer
from tests.vectors import make_packets
from tests.vectors.load import vectors
from tests.wire.test_noise import session_of

VECTORS = {vector["profile"]: vector for vector in vectors("packets")}
ADDRESS, ROOT, UNIX_S = make_packets.ADDRESS, make_packets.ROOT, float(make_packets.UNIX_S)
TRAILER, EFFORT = PuzzleTrailer(1, 14, 77, b"nonce678"), Effort(14, 77, b"tag")


@pytest.mark.parametrize("profile", VECTORS)
def test_the_vectors_are_what_their_maker_makes(profile: str) -> None:
    assert json.loads(json.dumps(make_packets.one(profile))) == VECTORS[profile]


@pytest.mark.parametrize("name", VECTORS)
def test_both_sides_of_an_exchange_say_exactly_this(name: str) -> None:
    vector: dict[str, Any] = VECTORS[name]
    network, secret = bytes.fromhex(vector["network"]), bytes.fromhex(vector["secret"])
    profile = WIREGUARD if name == "wireguard" else molia_profile(network, secret)
    ours, theirs, fresh, answer = (
        ExchangeKey(bytes.fromhex(key)) for key in (*vector["statics"], *vector["ephemerals"])
    )
    hello = Hello(
        timestamp=bytes.fromhex(vector["timestamp"]), features=6, proof=b"proof",
        identity=PeerKey(bytes.fromhex(vector["identity"])), request=b"find", life=b"our life",
    )  # fmt: skip
    welcome = Welcome(reply=b"found", effort=EFFORT, life=b"its life")
    payload, back = hello.timestamp, b""
    if profile.is_molia:
        payload = payloads.encode_hello(hello, packet_size_min=1200)
        back = payloads.encode_welcome(welcome, packet_size_max=1200)
    first = Initiator(profile, static=ours, responder=theirs.public, ephemeral=fresh)
    sealed = first.initiate(payload)
    assert sealed
    trailer = TRAILER if profile.is_molia else None
    parts = packet.Initiation(b"\x10abc", fresh.public, *sealed, trailer)
    body, key = packet.encode_initiation(parts), mac1_key(profile, theirs.public)
    initiation = stamp(body, key=key, cookie=b"")
    assert initiation.hex() == vector["initiation"]
    assert packet.parse_initiation(initiation, profile) == parts

    second = Responder(profile, static=theirs)
    assert second.read_static(parts.ephemeral, parts.sealed_static) == ours.public
    assert second.read_payload(parts.sealed_payload) == payload
    done = second.respond(back, ephemeral=answer, psk=profile.psk)
    assert done
    said = packet.Response(b"\x25def", b"\x10abc", answer.public, done[0])
    response = stamp(
        packet.encode_response(said), key=mac1_key(profile, ours.public), cookie=b""
    )  # fmt: skip
    assert response.hex() == vector["response"]

    door = MacChecker(profile, theirs.public, CookieSecret(ROOT))
    raw = door.reply(initiation, ADDRESS, UNIX_S, effort=EFFORT, nonce=b"n" * 24)
    assert raw.hex() == vector["cookie_reply"]
    opened = open_cookie(profile, theirs.public, packet.parse_cookie(raw), initiation[-32:-16])
    assert opened
    again = stamp(body, key=key, cookie=opened[0])
    assert again.hex() == vector["initiation_with_cookie"]
    assert door.mac2_holds(again, ADDRESS, UNIX_S)

    finished = first.finish(said.ephemeral, said.sealed_payload, psk=profile.psk)
    assert finished
    if profile.is_molia:
        assert payloads.decode_hello(payload) == hello
        assert payloads.decode_welcome(finished[0]) == welcome
    sides = [session_of(finished[1], is_initiator=True), session_of(done[1], is_initiator=False)]
    sides[0].remote, sides[1].remote = b"\x25def", b"\x10abc"
    packets = [side.seal(text) for side, text in zip(sides, (b"\2\4\0ping", b""), strict=True)]
    assert [data.hex() for data in packets] == vector["data"]
