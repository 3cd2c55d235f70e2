"""Messages of the DHT: short ways equal protobuf's, all fit a datagram, bounds hold."""

from collections.abc import Callable

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from molia.base import limits
from molia.wire import dht_messages as dht
from molia.wire import messages
from molia.wire._pb import messages_pb as pb
from molia.wire.bodies import Number, pack_address
from tests.wire.dht_samples import DHT_EXPECTED, EIGHT, KEY, MINE, dht_messages, keys, u64


@given(dht_messages)
def test_every_message_fits_a_datagram(message: dht.DhtMessage) -> None:
    assert len(messages.encode(message)) <= limits.DATAGRAM_BODY_MAX


def test_the_longest_messages_fit_a_datagram() -> None:
    assert max(len(messages.encode(m)) for m in DHT_EXPECTED) <= limits.DATAGRAM_BODY_MAX


@given(st.binary(max_size=60) | keys.map(lambda key: b"\n " + key))
def test_the_short_way_to_a_location_equals_protobufs(body: bytes) -> None:
    try:
        loc = pb.Get.FromString(body).loc
    except DecodeError:
        loc = b""
    assert dht.get_loc(body) == (loc if len(loc) == 32 else None)


@given(keys, st.none() | u64)
def test_location_and_seq_come_out_of_a_get(loc: bytes, seq: int | None) -> None:
    body = messages.encode(dht.Get(loc, seq))
    assert (dht.get_loc(body), dht.get_have_seq(body)) == (loc, seq)


@given(st.binary(max_size=limits.RECORD_SIZE_MAX))
def test_a_joined_record_is_the_protobuf_of_it(record: bytes) -> None:
    assert dht.encode_record(record) == pb.Record(record=record).SerializeToString()
    assert record == b"" or dht.encode_record(record) == pb.Put(record=record).SerializeToString()


@given(u64, st.binary(max_size=90))
def test_the_fields_of_a_signed_record_are_kept(seq: int, data: bytes) -> None:
    parts = dht.SignedParts(version=1, blinded_key=data, seq=seq, expires=seq, sealed=data,
                            signature=data)  # fmt: skip
    assert dht.decode_signed(dht.encode_signed(parts)) == parts


@given(st.binary(max_size=300))
def test_any_bytes_are_a_signed_record_or_none(body: bytes) -> None:
    parts = dht.decode_signed(body)
    assert parts is None or dht.decode_signed(dht.encode_signed(parts)) == parts


def test_the_longest_signed_record_has_the_size_that_messages_leave_for_it() -> None:
    longest = dht.SignedParts(
        version=1, blinded_key=KEY, seq=2**64 - 1, expires=2**35 - 1,
        sealed=bytes(limits.RECORD_VALUE_MAX + 24), signature=bytes(64),
    )  # fmt: skip
    assert len(dht.encode_signed(longest)) == limits.RECORD_SIZE_MAX


def raw(kind: str, **fields: object) -> bytes:
    """Encode without the checks of `messages.encode`."""
    body: bytes = getattr(pb, kind)(**fields).SerializeToString()
    return body


def region(**change: object) -> bytes:
    """A good FIND_REGION with some fields changed."""
    return raw("FindRegion", **{"center": KEY, "radius_bits": 9, "salt": EIGHT, **change})


def dial(**change: object) -> bytes:
    """A good DIAL with some fields changed."""
    return raw("Dial", **{"key": KEY, "address": pack_address(MINE), "nonce": EIGHT, **change})


LONG_RECORD = bytes(limits.RECORD_SIZE_MAX + 1)
LONG_PROVIDER = bytes(limits.PROVIDER_RECORD_SIZE_MAX + 1)
OUT_OF_BOUNDS: list[tuple[str, Number, Callable[[], bytes]]] = [
    ("short center", Number.FIND_REGION, lambda: region(center=KEY[1:])),
    ("no radius", Number.FIND_REGION, lambda: region(radius_bits=0)),
    ("more than all", Number.FIND_REGION, lambda: region(radius_bits=257)),
    ("no salt", Number.FIND_REGION, lambda: region(salt=b"")),
    ("cursor too far", Number.FIND_REGION, lambda: region(cursor=limits.REGION_CURSOR_MAX + 1)),
    ("short location", Number.GET, lambda: raw("Get", loc=KEY[1:])),
    ("long record", Number.RECORD, lambda: raw("Record", record=LONG_RECORD)),
    ("bad contact", Number.MISS, lambda: raw("Miss", contacts=[pb.Contact(key=KEY)])),
    ("nothing put", Number.PUT, lambda: raw("Put", cas=0)),
    ("long put", Number.PUT, lambda: raw("Put", record=LONG_RECORD)),
    ("long held one", Number.PUT_REPLY, lambda: raw("PutReply", record=LONG_RECORD)),
    ("nothing added", Number.ADD_PROVIDER, lambda: b""),
    ("empty provider", Number.ADD_PROVIDER, lambda: raw("AddProvider", records=[b"a", b""])),
    ("five providers", Number.ADD_PROVIDER, lambda: raw("AddProvider", records=[b"a"] * 5)),
    ("long provider", Number.ADD_PROVIDER, lambda: raw("AddProvider", records=[LONG_PROVIDER])),
    ("no codes", Number.ADDED, lambda: b""),
    ("five codes", Number.ADDED, lambda: raw("Added", codes=[0] * 5)),
    ("short location of providers", Number.GET_PROVIDERS, lambda: raw("GetProviders", loc=b"x")),
    ("page beyond all", Number.GET_PROVIDERS, lambda: raw("GetProviders", loc=KEY, page=16)),
    ("7-byte salt", Number.GET_PROVIDERS, lambda: raw("GetProviders", loc=KEY, salt=b"7777777")),
    ("long reply", Number.PROVIDERS, lambda: raw("Providers", records=[b"a"] * 5, total=9)),
    ("more than in all", Number.PROVIDERS, lambda: raw("Providers", records=[b"a"] * 2, total=1)),
    ("total beyond all", Number.PROVIDERS, lambda: raw("Providers", total=65)),
    ("answer of page 16", Number.PROVIDERS, lambda: raw("Providers", page=16)),
    ("no entry", Number.DIGEST, lambda: b""),
    ("a part of an entry", Number.DIGEST, lambda: raw("Digest", entries=bytes(14))),
    ("81 entries", Number.DIGEST, lambda: raw("Digest", entries=bytes(13 * 81))),
    ("more bits than entries", Number.DIGEST_REPLY, lambda: raw("DigestReply", wanted=bytes(11))),
    ("nothing to pull", Number.PULL, lambda: b""),
    ("pull of more than all", Number.PULL, lambda: raw("Pull", radius_bits=257)),
    ("short nonce", Number.REACH, lambda: raw("Reach", nonce=EIGHT[1:])),
    ("dial without nonce", Number.DIAL, lambda: dial(nonce=b"")),
    ("dial of nobody", Number.DIAL, lambda: dial(key=KEY[1:])),
    ("dial to nowhere", Number.DIAL, lambda: dial(address=bytes(6))),
    ("dial to a group", Number.DIAL, lambda: dial(address=b"\xe0\0\0\x01\0\x01")),
    *[(f"cut {number.name}", number, lambda: b"\x0a") for number in Number if number >= 64],
]  # fmt: skip


@pytest.mark.parametrize(("number", "make"), [row[1:] for row in OUT_OF_BOUNDS],
                         ids=[row[0] for row in OUT_OF_BOUNDS])  # fmt: skip
def test_what_is_out_of_bounds_is_nothing(number: Number, make: Callable[[], bytes]) -> None:
    assert messages.decode(number, make()) is None


def test_the_makers_of_bad_messages_make_good_ones_too() -> None:
    assert messages.decode(Number.FIND_REGION, region()) is not None
    assert messages.decode(Number.DIAL, dial()) is not None


@pytest.mark.parametrize("bad", [dht.Put(LONG_RECORD), dht.Reach(b"x"), dht.Pull(0),
                                 dht.AddProvider(())])  # fmt: skip
def test_a_message_of_ours_that_is_out_of_bounds_is_our_mistake(bad: dht.DhtMessage) -> None:
    with pytest.raises(AssertionError):
        messages.encode(bad)
