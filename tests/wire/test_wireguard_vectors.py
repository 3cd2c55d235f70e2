"""What a real wireguard-go said is understood, and what we said to it is said again."""

from typing import Any

import pytest

from molia.base.crypto import ExchangeKey
from molia.wire.cookies import CookieSecret, MacChecker, mac1_key, stamp
from molia.wire.noise import WIREGUARD, Initiator, Responder, TransportKeys
from molia.wire.packet import (
    Response,
    encode_response,
    parse_initiation,
    parse_response,
    size_fits,
)
from tests.vectors.load import vectors
from tests.wire.noise_oracle import HandshakeState, public_of
from tests.wire.test_noise import session_of


def parts(vector: dict[str, Any]) -> dict[str, bytes]:
    """Return the bytes of a recorded exchange."""
    return {name: bytes.fromhex(v) for name, v in vector.items() if isinstance(v, str)}


def opens(keys: TransportKeys, raw: dict[str, bytes]) -> None:
    session = session_of(keys, is_initiator=True)
    assert session.open(raw["data"], 0.0) == raw["plaintext"]
    assert session.open(raw["data"], 0.0) is None


@pytest.mark.parametrize("vector", [v for v in vectors("wireguard") if v["we_initiate"]])
def test_its_answer_to_us_gives_the_keys_of_its_packets(vector: dict[str, Any]) -> None:
    raw = parts(vector)
    ours, theirs = ExchangeKey(raw["our_private"]), ExchangeKey(raw["their_private"])
    assert size_fits(raw["initiation"], WIREGUARD)
    assert size_fits(raw["response"], WIREGUARD)
    said = parse_initiation(raw["initiation"], WIREGUARD)
    timestamp = read_as(theirs, raw["initiation"])
    noise = Initiator(
        WIREGUARD, static=ours, responder=theirs.public, ephemeral=ExchangeKey(raw["our_ephemeral"])
    )
    assert noise.initiate(timestamp) == (said.sealed_static, said.sealed_payload)
    answer = parse_response(raw["response"])
    finished = noise.finish(answer.ephemeral, answer.sealed_payload, psk=raw["psk"])
    assert finished
    assert finished[0] == b""
    opens(finished[1], raw)


@pytest.mark.parametrize("vector", [v for v in vectors("wireguard") if not v["we_initiate"]])
def test_our_answer_to_it_is_the_same_again(vector: dict[str, Any]) -> None:
    raw = parts(vector)
    ours, theirs = ExchangeKey(raw["our_private"]), ExchangeKey(raw["their_private"])
    said = parse_initiation(raw["initiation"], WIREGUARD)
    noise = Responder(WIREGUARD, static=ours)
    assert noise.read_static(said.ephemeral, said.sealed_static) == theirs.public
    timestamp = noise.read_payload(said.sealed_payload)
    assert timestamp
    assert timestamp[:2] == b"\x40\0"
    fresh = ExchangeKey(raw["our_ephemeral"])
    done = noise.respond(b"", ephemeral=fresh, psk=raw["psk"])
    assert done
    body = encode_response(
        Response(raw["response"][4:8], said.sender, fresh.public, done[0])
    )  # fmt: skip
    key = mac1_key(WIREGUARD, theirs.public)
    assert stamp(body, key=key, cookie=b"") == raw["response"]
    opens(done[1], raw)


@pytest.mark.parametrize("vector", vectors("wireguard"))
def test_the_slow_oracle_reads_it_too(vector: dict[str, Any]) -> None:
    raw = parts(vector)
    first, second = ("our", "their") if vector["we_initiate"] else ("their", "our")
    oracle = HandshakeState(
        initiator=False, prologue=WIREGUARD.prologue, s=raw[f"{second}_private"],
        e=raw["our_ephemeral"], psk=raw["psk"],
    )  # fmt: skip
    assert len(oracle.read(raw["initiation"][8:116])) == 12
    assert oracle.rs == public_of(raw[f"{first}_private"])
    if not vector["we_initiate"]:
        assert oracle.write(b"") == raw["response"][12:60]


@pytest.mark.parametrize("vector", vectors("wireguard"))
def test_its_macs_hold_for_whom_they_were_made(vector: dict[str, Any]) -> None:
    raw = parts(vector)
    for owner, packet in (("our", "response"), ("their", "initiation")):
        to = owner if vector["we_initiate"] else {"our": "their", "their": "our"}[owner]
        public = public_of(raw[f"{to}_private"])
        checker = MacChecker(WIREGUARD, public, CookieSecret(bytes(32)))
        assert checker.mac1_holds(raw[packet])
        assert not MacChecker(WIREGUARD, bytes(32), CookieSecret(bytes(32))).mac1_holds(raw[packet])


def read_as(owner: ExchangeKey, packet: bytes) -> bytes:
    """Return the payload of an initiation to `owner`."""
    said = parse_initiation(packet, WIREGUARD)
    noise = Responder(WIREGUARD, static=owner)
    assert noise.read_static(said.ephemeral, said.sealed_static)
    payload = noise.read_payload(said.sealed_payload)
    assert payload
    return payload
