"""Messages: what protoc encodes is read, what we encode protoc's runtime reads, junk is nothing."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given
from hypothesis import strategies as st

from molia.base import limits
from molia.wire import blob_messages, messages
from molia.wire._pb import messages_pb as pb
from molia.wire.dht_messages import DECODERS
from molia.wire.features import FEATURES, features_agree, negotiate_version
from molia.wire.messages import Contact, Hello, Message, Nodes, Number
from tests.vectors.load import vectors
from tests.wire import blob_samples
from tests.wire.blob_samples import BLOB_EXPECTED
from tests.wire.dht_samples import (
    DHT_EXPECTED,
    EIGHT,
    KEY,
    MINE,
    SIX,
    addresses,
    contacts,
    dht_messages,
    eights,
    keys,
    u32,
    u64,
)

ROOT = Path(__file__).parent.parent.parent
NETWORK = bytes(range(1, 9))

words = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=64)
hellos = st.tuples(u32.filter(bool), u32.filter(bool)).flatmap(
    lambda pair: st.builds(
        Hello, version_min=st.just(min(pair)), version_max=st.just(max(pair)), features=u64,
        software=words, workers=st.integers(1, limits.WORKERS_MAX),
        network=st.binary(min_size=8, max_size=8),
    )
)  # fmt: skip
all_messages: st.SearchStrategy[Message] = st.one_of(
    hellos,
    st.builds(messages.Ping, serves=st.booleans(), nonce=st.just(b"") | eights),
    st.builds(messages.Pong, seen=addresses, unix_ms=u64, serves=st.booleans()),
    st.builds(
        messages.Busy, retry_after_ms=st.integers(0, limits.BUSY_WAIT_MS_MAX),
        effort_bits=st.integers(0, limits.PUZZLE_BITS_MAX),
    ),
    st.builds(messages.Close, reason=u32),
    st.builds(messages.Error, code=u32, text=words),
    dht_messages,
    blob_samples.blob_messages,
)  # fmt: skip

EXPECTED: list[Message] = [
    Hello(version_min=1, version_max=1, features=1 << 63 | 2, software="molia/0.1.0", workers=2,
          network=NETWORK),
    Hello(version_min=1, version_max=2**32 - 1, features=0, software="", workers=16,
          network=b"abcdefgh"),
    messages.Ping(),
    messages.Ping(serves=True, nonce=EIGHT),
    messages.Pong(seen=MINE, unix_ms=1_700_000_000_123),
    messages.Pong(seen=SIX, unix_ms=0),
    messages.Pong(seen=MINE, unix_ms=1, serves=True),
    messages.Busy(retry_after_ms=3_600_000, effort_bits=24),
    messages.Busy(retry_after_ms=0, effort_bits=0),
    messages.Close(reason=messages.CloseReason.BROKEN_PROTOCOL),
    messages.Close(reason=2**32 - 1),
    messages.Error(code=messages.ErrorCode.NOT_HERE, text="not here é"),
    *DHT_EXPECTED,
    *BLOB_EXPECTED,
]  # fmt: skip


def test_the_vectors_are_read_and_written() -> None:
    for row, message in zip(vectors("messages"), EXPECTED, strict=True):
        body = bytes.fromhex(row["body"])
        assert messages.decode(row["number"], body) == message
        assert (message.number, messages.encode(message)) == (row["number"], body)


@given(all_messages)
def test_what_is_encoded_is_decoded(message: Message) -> None:
    assert messages.decode(message.number, messages.encode(message)) == message


@given(all_messages, st.integers(16, 500), st.binary(max_size=40))
def test_unknown_fields_are_ignored(message: Message, field: int, extra: bytes) -> None:
    tag = field << 3 | 2
    unknown = bytes([tag & 0x7F | 0x80, tag >> 7]) + bytes([len(extra)]) + extra
    assert messages.decode(message.number, messages.encode(message) + unknown) == message


@given(st.integers(0, 255), st.binary(max_size=300))
@example(255, b"")
def test_any_bytes_are_a_message_within_bounds_or_nothing(number: int, body: bytes) -> None:
    check_bounds(messages.decode(number, body))


@given(all_messages, st.data())
def test_a_damaged_message_is_a_message_within_bounds_or_nothing(
    message: Message, data: st.DataObject
) -> None:
    body = bytearray(messages.encode(message) or b"\0")
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.integers(0, len(body)))
    check_bounds(messages.decode(message.number, bytes(body[:cut])))
    check_bounds(messages.decode(data.draw(st.sampled_from(Number)), bytes(body)))


def check_bounds(message: Message | None) -> None:
    """Encode again what was decoded: encoding asserts every bound."""
    if message is not None:
        assert messages.decode(message.number, messages.encode(message)) == message


@given(st.binary(max_size=60) | keys.map(lambda key: b"\n " + key))
def test_the_short_way_to_a_target_equals_protobufs(body: bytes) -> None:
    try:
        target = pb.FindNode.FromString(body).target
    except DecodeError:
        target = b""
    assert messages.find_node_target(body) == (target if len(target) == 32 else None)


@given(st.lists(contacts, max_size=limits.NODES_CONTACTS_MAX))
def test_joined_contacts_are_the_protobuf_of_all(chosen: list[Contact]) -> None:
    packed = [(c.key, messages.pack_address(c.address)) for c in chosen]
    whole = pb.Nodes(contacts=[pb.Contact(key=key, address=at) for key, at in packed])
    parts = [messages.encode_contact(c.key, c.address) for c in chosen]
    assert messages.encode_nodes(parts) == whole.SerializeToString()


def test_twenty_contacts_fit_a_packet() -> None:
    over = 16 + 16 + 3 + 9  # data header, tag, frame header, number and request id
    for address, size in ((MINE, 44), (SIX, 56)):
        part = messages.encode_contact(KEY, address)
        assert len(part) == size
        assert len(messages.encode_nodes([part] * limits.NODES_CONTACTS_MAX)) + over <= 1200


def raw(kind: str, **fields: object) -> bytes:
    """Encode without the checks of `messages.encode`."""
    body: bytes = getattr(pb, kind)(**fields).SerializeToString()
    return body


def hello(**change: object) -> bytes:
    """A good HELLO with some fields changed."""
    good = {"version_min": 1, "version_max": 1, "workers": 1, "network": NETWORK, "software": "x"}
    return raw("Hello", **{**good, **change})


def contact(**change: object) -> bytes:
    """A NODES of one contact with some fields changed."""
    good = {"key": KEY, "address": messages.pack_address(MINE)}
    return raw("Nodes", contacts=[pb.Contact(**{**good, **change})])


OUT_OF_BOUNDS: list[tuple[str, Number, Callable[[], bytes]]] = [
    ("no version", Number.HELLO, lambda: hello(version_min=0)),
    ("versions the wrong way round", Number.HELLO, lambda: hello(version_min=2)),
    ("no worker", Number.HELLO, lambda: hello(workers=0)),
    ("too many workers", Number.HELLO, lambda: hello(workers=limits.WORKERS_MAX + 1)),
    ("short network check", Number.HELLO, lambda: hello(network=NETWORK[1:])),
    ("long label", Number.HELLO, lambda: hello(software="x" * (limits.SOFTWARE_LABEL_MAX + 1))),
    ("label with a line feed", Number.HELLO, lambda: hello(software="a\nb")),
    ("label beyond ASCII", Number.HELLO, lambda: hello(software="é")),
    ("label that is no UTF-8", Number.HELLO, lambda: hello() + b"\x22\x01\xff"),
    ("no address seen", Number.PONG, lambda: raw("Pong", unix_ms=1)),
    ("5-byte address", Number.PONG, lambda: raw("Pong", seen=b"12345")),
    ("long wait", Number.BUSY, lambda: raw("Busy", retry_after_ms=limits.BUSY_WAIT_MS_MAX + 1)),
    ("much effort", Number.BUSY, lambda: raw("Busy", effort_bits=limits.PUZZLE_BITS_MAX + 1)),
    ("7-byte nonce", Number.PING, lambda: raw("Ping", nonce=b"1234567")),
    ("long text", Number.ERROR, lambda: raw("Error", text="x" * (limits.ERROR_TEXT_MAX + 1))),
    ("text with an escape", Number.ERROR, lambda: raw("Error", text="\x1b[2J")),
    ("no target", Number.FIND_NODE, lambda: b""),
    ("short target", Number.FIND_NODE, lambda: raw("FindNode", target=KEY[1:])),
    ("long target", Number.FIND_NODE, lambda: raw("FindNode", target=KEY + b"x")),
    ("short key", Number.NODES, lambda: contact(key=KEY[1:])),
    ("port 0", Number.NODES, lambda: contact(address=b"\x08\x08\x08\x08\0\0")),
    ("multicast", Number.NODES, lambda: contact(address=b"\xe0\0\0\x01\0\x01")),
    ("broadcast", Number.NODES, lambda: contact(address=b"\xff\xff\xff\xff\0\x01")),
    ("nowhere", Number.NODES, lambda: contact(address=bytes(4) + b"\0\x01")),
    ("IPv6 nowhere", Number.NODES, lambda: contact(address=bytes(16) + b"\0\x01")),
    ("IPv6 multicast", Number.NODES, lambda: contact(address=b"\xff" * 16 + b"\0\x01")),
    ("IPv4 as IPv6", Number.NODES,
     lambda: contact(address=bytes(10) + b"\xff\xff\x08\x08\x08\x08\0\x01")),
    ("21 contacts", Number.NODES, lambda: contact() * (limits.NODES_CONTACTS_MAX + 1)),
    ("padded beyond all size", Number.PING, lambda: b"\x7a\x7f" + bytes(127)),
    ("a cut field", Number.CLOSE, lambda: b"\x08"),
]  # fmt: skip


@pytest.mark.parametrize(("number", "make"), [row[1:] for row in OUT_OF_BOUNDS],
                         ids=[row[0] for row in OUT_OF_BOUNDS])  # fmt: skip
def test_what_is_out_of_bounds_is_nothing(number: Number, make: Callable[[], bytes]) -> None:
    body = make()
    if number is Number.PING and len(body) > 100:
        body *= limits.MESSAGE_SIZE_MAX // len(body) + 1
    assert messages.decode(number, body) is None


def test_the_makers_of_bad_messages_make_good_ones_too() -> None:
    assert messages.decode(Number.HELLO, hello()) is not None
    assert messages.decode(Number.NODES, contact()) is not None
    assert messages.decode(Number.NODES, contact() * limits.NODES_CONTACTS_MAX) is not None
    assert messages.decode(Number.PING, b"\x7a\x7f" + bytes(127)) == messages.Ping()


@pytest.mark.parametrize("bad", [messages.FindNode(b"short"), messages.Busy(retry_after_ms=0,
                         effort_bits=99), Nodes((Contact(KEY, MINE),) * 21)])  # fmt: skip
def test_a_message_of_ours_that_is_out_of_bounds_is_our_mistake(bad: Message) -> None:
    with pytest.raises(AssertionError):
        messages.encode(bad)


def test_an_unknown_number_is_nothing() -> None:
    assert [n for n in range(256) if messages.is_known(n)] == sorted(Number)
    assert messages.decode(0, b"") is None


# ---------------------------------------------------------------------------- schema, negotiation


def schema_numbers() -> dict[str, int]:
    """Return the numbers that the schema gives, 0 left out."""
    text = (ROOT / "molia/wire/schema/transport.proto").read_text("utf-8")
    body = text.partition("enum Number {")[2].partition("}")[0]
    return {name: int(value) for name, value in re.findall(r"(\w+) = (\d+);", body) if value != "0"}


def test_numbers_are_those_of_the_schema_and_in_their_ranges() -> None:
    assert schema_numbers() == {number.name: number.value for number in Number}
    for number in Number:
        assert (64 <= number < 128) == (number in DECODERS)
        assert (128 <= number < 192) == (number in blob_messages.DECODERS)


@given(u64, u64)
def test_features_agree_when_even_bits_do(ours: int, theirs: int) -> None:
    lacking = [bit for bit in range(0, 64, 2) if theirs >> bit & 1 and not ours >> bit & 1]
    assert features_agree(theirs, ours) == (not lacking)


def test_an_unknown_odd_feature_is_ignored_and_an_unknown_even_one_refuses() -> None:
    assert features_agree(FEATURES | 1 << 63 | 1 << 1, FEATURES)
    assert not features_agree(FEATURES | 1 << 62, FEATURES)


@given(*[st.integers(1, 6)] * 4)
def test_the_highest_common_version_is_taken(a: int, b: int, c: int, d: int) -> None:
    ours, theirs = (min(a, b), max(a, b)), (min(c, d), max(c, d))
    both = set(range(ours[0], ours[1] + 1)) & set(range(theirs[0], theirs[1] + 1))
    assert negotiate_version(ours, theirs) == max(both, default=None)
