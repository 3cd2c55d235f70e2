"""Layouts, the handshake's payload and frames: what is written is read, what is hostile is not."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base.ids import PeerKey, network_id
from molia.base.limits import (
    EARLY_DATA_SIZE_MIN,
    HANDSHAKE_SIZE_MAX,
    PROOF_SIZE_MAX,
    PUZZLE_BITS_MAX,
)
from molia.wire import frames, hello, packet
from molia.wire.features import features_agree
from molia.wire.hello import Hello, Welcome
from molia.wire.noise import WIREGUARD, molia_profile
from molia.wire.puzzle import NO_EFFORT, Effort, PuzzleTrailer
from tests.test_formats import layout

OURS = molia_profile(network_id("molia"))
KEY = PeerKey(b"k" * 32)
STAMP = hello.tai64n(1_700_000_000.0)
hellos = st.builds(
    Hello, timestamp=st.just(STAMP), identity=st.just(KEY), features=st.integers(0, 2**64 - 1),
    proof=st.binary(max_size=PROOF_SIZE_MAX),
    request=st.none() | st.binary(max_size=hello.REQUEST_SIZE_MAX),
)  # fmt: skip
welcomes = st.builds(
    Welcome, features=st.integers(0, 2**64 - 1), reply=st.none() | st.binary(max_size=900),
    effort=st.just(NO_EFFORT)
    | st.builds(Effort, st.integers(1, PUZZLE_BITS_MAX), st.integers(0, 2**32 - 1),
                st.binary(min_size=3, max_size=3)),
)  # fmt: skip


def initiation(payload: bytes, *, is_molia: bool) -> bytes:
    """Return an initiation whose parts can be told apart."""
    trailer = PuzzleTrailer(7, 13, 99, b"nonce678") if is_molia else None
    parts = packet.Initiation(b"send", b"e" * 32, b"s" * 48, payload + b"t" * 16, trailer)
    return packet.encode_initiation(parts) + b"1" * 16 + b"2" * 16


def test_the_page_places_every_field() -> None:
    ours, theirs = initiation(b"p" * 50, is_molia=True), initiation(b"p" * 12, is_molia=False)
    answer = packet.Response(b"send", b"recv", b"e" * 32, b"t" * 16)
    cookie = packet.CookieReply(b"recv", b"n" * 24, b"c" * 32)
    data = {
        "Initiation": theirs,
        "Response": packet.encode_response(answer) + bytes(32),
        "Cookie reply": packet.encode_cookie(cookie),
        "Trailer": ours[-46:-32],
    }
    expected = {
        "Initiation": {"type": b"\1\0\0\0", "sender index": b"send", "ephemeral key": b"e" * 32,
                       "static key": b"s" * 48},
        "Response": {"type": b"\2\0\0\0", "sender index": b"send", "receiver index": b"recv",
                     "ephemeral key": b"e" * 32},
        "Cookie reply": {"type": b"\3\0\0\0", "receiver index": b"recv", "nonce": b"n" * 24},
        "Trailer": {"puzzle": b"\7", "bits": b"\15", "epoch": b"\x63\0\0\0", "nonce": b"nonce678"},
    }  # fmt: skip
    for heading, fields in expected.items():
        places = layout("packets.md", heading)
        found = {name: data[heading][at : at + size] for name, (at, size) in places.items()}
        assert found == fields, heading


def test_sizes_are_wireguards_in_its_profile() -> None:
    assert len(initiation(bytes(12), is_molia=False)) == 148
    for kind, size in ((packet.INITIATION, 148), (packet.RESPONSE, 92), (packet.COOKIE, 64)):
        for length in (0, 4, size - 1, size, size + 1, 1200):
            assert packet.size_fits(kind.ljust(length, b"x"), WIREGUARD) == (length == size)


def test_sizes_in_our_profile_have_bounds() -> None:
    for kind, low, high in (
        (packet.INITIATION, 162, HANDSHAKE_SIZE_MAX), (packet.RESPONSE, 92, HANDSHAKE_SIZE_MAX),
        (packet.COOKIE, 72, 72),
    ):  # fmt: skip
        for length in (low - 1, low, high, high + 1):
            fits = packet.size_fits(kind.ljust(length, b"x"), OURS)
            assert fits == (low <= length <= high), (kind, length)


@given(payload=st.binary(min_size=12, max_size=900), is_molia=st.booleans())
def test_an_initiation_is_read_as_it_was_written(payload: bytes, is_molia: bool) -> None:
    raw = initiation(payload, is_molia=is_molia)
    parts = packet.parse_initiation(raw, OURS if is_molia else WIREGUARD)
    assert packet.encode_initiation(parts) == raw[:-32]
    assert parts.sealed_payload[:-16] == payload


# ---------------------------------------------------------------------------- payload


@given(said=hellos)
def test_a_hello_is_read_as_it_was_written_whatever_its_padding(said: Hello) -> None:
    assert hello.decode_hello(hello.encode_hello(said)) == said
    padded = hello.encode_hello(said, packet_size_min=EARLY_DATA_SIZE_MIN)
    assert len(padded) + packet.INITIATION_OVERHEAD == EARLY_DATA_SIZE_MIN <= HANDSHAKE_SIZE_MAX
    assert hello.decode_hello(padded) == said


@given(said=welcomes, room=st.integers(92, HANDSHAKE_SIZE_MAX))
def test_a_welcome_never_outgrows_its_packet_and_loses_nothing_but_its_reply(
    said: Welcome, room: int
) -> None:
    raw = hello.encode_welcome(said, packet_size_max=room)
    assert len(raw) + packet.RESPONSE_OVERHEAD <= room
    read = hello.decode_welcome(raw)
    assert read is not None
    if raw:
        assert (read.features, read.effort) == (said.features, said.effort)
        assert read.reply in (said.reply, None)


@given(data=st.binary(max_size=200))
def test_no_payload_makes_the_reader_raise(data: bytes) -> None:
    hello.decode_hello(data)
    hello.decode_welcome(data)


@pytest.mark.parametrize(
    ("tail", "is_read"),
    [
        (b"", True),
        (b"\x0b\2\0ab", True),  # an unknown odd type
        (b"\x0a\2\0ab", False),  # an unknown even one
        (b"\x02\x20\0" + b"k" * 32, False),  # the identity twice
        (b"\x0b\2\0a", False),  # cut off
        (b"\x0b\2", False),
        (b"\0garbage", True),  # padding to the end
    ],
)
def test_unknown_fields_are_judged_by_their_parity(tail: bytes, is_read: bool) -> None:
    raw = hello.encode_hello(Hello(timestamp=STAMP, identity=KEY)) + tail
    assert (hello.decode_hello(raw) is not None) == is_read


def test_a_hello_needs_its_timestamp_and_identity_and_a_proof_of_a_fair_size() -> None:
    assert hello.decode_hello(STAMP) is None
    assert hello.decode_hello(STAMP[:11]) is None
    long = hello.encode_hello(Hello(timestamp=STAMP, identity=KEY, proof=bytes(129)))
    assert hello.decode_hello(long) is None


@pytest.mark.parametrize(
    ("theirs", "known", "agree"),
    [(0, 0, True), (1, 0, False), (2, 0, True), (1, 1, True), (1 << 62, 1, False),
     (1 << 63, 0, True), (2**64 - 1, 0x5555_5555_5555_5555, True)],
)  # fmt: skip
def test_unknown_even_features_refuse(theirs: int, known: int, agree: bool) -> None:
    assert features_agree(theirs, known) == agree


@given(times=st.lists(st.floats(0, 4e9), min_size=2, max_size=20))
def test_timestamps_rise_whatever_the_clock_does(times: list[float]) -> None:
    stamps = [b""]
    for unix_s in times:
        stamps.append(hello.tai64n(unix_s, stamps[-1]))
    assert stamps == sorted(set(stamps))
    assert all(int.from_bytes(stamp[8:], "big") < 10**9 for stamp in stamps[1:])


def test_a_timestamp_is_tai64n() -> None:
    assert hello.tai64n(0.0).hex() == "400000000000000a" + "00000000"
    assert hello.tai64n(1.5) == (2**62 + 11).to_bytes(8, "big") + (29 << 24).to_bytes(4, "big")


# ---------------------------------------------------------------------------- frames


@given(said=st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=50)), max_size=8))
def test_frames_are_read_as_they_were_written(said: list[tuple[int, bytes]]) -> None:
    raw = frames.encode_frames(said)
    assert raw == b"".join(frames.encode_frame(*frame) for frame in said)
    assert frames.decode_frames(raw) == [frame for frame in said if frame[0] != frames.PADDING]


@given(data=st.binary(max_size=100))
def test_frames_that_do_not_fill_their_packet_are_refused(data: bytes) -> None:
    read = frames.decode_frames(data)
    if read is not None and frames.PADDING not in data:
        assert frames.encode_frames(read) == data


def test_frames_say_who_must_know_them() -> None:
    assert [frames.must_be_known(kind) for kind in (4, 15, 16, 47)] == [True, False, True, False]


def test_the_vectors_say_how_they_were_made() -> None:
    folder = Path(__file__).parents[1] / "vectors"
    for name in ("noise", "xchacha", "wireguard", "packets"):
        assert json.loads((folder / f"{name}.json").read_text())["made"]
