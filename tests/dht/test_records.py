"""Mutable records: what is published is read, and every bad one is refused for its reason."""

import dataclasses

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molia.base import limits
from molia.base.crypto import Identity
from molia.base.ids import PeerKey
from molia.dht import blinding, records
from molia.dht.records import Fault, Opened, RecordAddress, SignedRecord
from molia.wire import messages
from molia.wire.dht_messages import Put, PutCode, PutReply, SignedParts, encode_signed
from tests.dht.record_samples import (
    ANN,
    DAY,
    NETWORK,
    NOW,
    OTHER_NETWORK,
    PERIOD,
    SALT,
    record,
    someone,
)
from tests.dht.test_blinding import IMPROPER
from tests.vectors.load import vectors

ADDRESS = RecordAddress(ANN.peer_key, SALT)
PLACE = blinding.place(NETWORK, ANN.peer_key, SALT, PERIOD)
assert PLACE is not None


def resigned(**change: object) -> bytes:
    """Return a record with some fields changed, then signed as if they were right."""
    good = record()
    fields = {"version": 1, "blinded_key": good.blinded_key, "seq": 1, "expires": good.expires,
              "sealed": good.sealed, "signature": b"", **change}  # fmt: skip
    parts = SignedParts(**fields)  # type: ignore[arg-type]
    if parts.signature == b"" and parts.expires < 2**64:
        value_hash = dataclasses.replace(good, sealed=parts.sealed).value_hash
        message = records.signed_bytes(
            NETWORK, parts.blinded_key, value_hash, seq=parts.seq, expires=parts.expires
        )
        signer = blinding.blinded_identity(ANN, SALT, PERIOD)
        parts = dataclasses.replace(parts, signature=signer.sign(message))
    return encode_signed(parts)


def checked(encoded: bytes, *, unix_s: float = NOW) -> SignedRecord | Fault:
    return records.check(encoded, NETWORK, unix_s=unix_s)


@pytest.mark.parametrize("row", vectors("records"))
def test_records_are_those_of_the_vectors(row: dict[str, str]) -> None:
    identity, network = Identity(bytes.fromhex(row["seed"])), bytes.fromhex(row["network"])
    salt, encoded = bytes.fromhex(row["salt"]), bytes.fromhex(row["encoded"])
    period, unix_s = int(row["period"]), int(row["unix_s"])
    made = records.publish(
        identity, network, salt, bytes.fromhex(row["value"]), seq=int(row["seq"]),
        expires=int(row["expires"]), period=period,
    )  # fmt: skip
    signed = records.signed_bytes(
        network, made.blinded_key, made.value_hash, seq=made.seq, expires=made.expires
    )
    assert (made.encoded, signed.hex()) == (encoded, row["signed"])
    assert records.loc_of(made, network).hex() == row["loc"]
    assert records.check(encoded, network, unix_s=unix_s) == made
    place = blinding.place(network, identity.peer_key, salt, period)
    assert place is not None
    address = RecordAddress(identity.peer_key, salt)
    opened = records.read(encoded, network, address, place, unix_s=unix_s)
    assert isinstance(opened, Opened)
    assert opened.value.hex() == row["value"]


@settings(max_examples=40)
@given(
    seed=st.binary(min_size=32, max_size=32), salt=st.binary(max_size=64),
    value=st.binary(max_size=limits.RECORD_VALUE_MAX), seq=st.integers(1, 2**64 - 1),
    ahead_s=st.integers(1, DAY),
)  # fmt: skip
def test_what_is_published_is_kept_by_anyone_and_read_by_who_knows_the_address(
    seed: bytes, salt: bytes, value: bytes, seq: int, ahead_s: int
) -> None:
    identity = Identity(seed)
    for place in blinding.locations(NETWORK, identity.peer_key, salt, NOW):
        made = records.publish(
            identity, NETWORK, salt, value, seq=seq, expires=NOW + ahead_s, period=place.period
        )
        assert checked(made.encoded) == made
        assert records.loc_of(made, NETWORK) == place.loc
        address = RecordAddress(identity.peer_key, salt)
        opened = records.read(made.encoded, NETWORK, address, place, unix_s=NOW)
        assert opened == Opened(value, seq, NOW + ahead_s, made)


def test_the_longest_record_fits_put_with_cas_and_its_reply() -> None:
    longest = record(2**64 - 1, bytes(limits.RECORD_VALUE_MAX)).encoded
    assert len(longest) == limits.RECORD_SIZE_MAX
    put = messages.encode(Put(longest, 2**64 - 1))
    reply = messages.encode(PutReply(PutCode.CONFLICT, longest))
    assert max(len(put), len(reply)) <= limits.DATAGRAM_BODY_MAX


GOOD = record()
BAD: dict[str, tuple[bytes, Fault]] = {
    "nothing": (b"", Fault.VERSION),
    "no protobuf": (b"\x08", Fault.MALFORMED),
    "larger than any": (GOOD.encoded + b"\x7a" + bytes(limits.RECORD_SIZE_MAX), Fault.OVERSIZED),
    "oversized value": (resigned(sealed=bytes(records.SEALED_MAX + 1)), Fault.OVERSIZED),
    "value without seal": (resigned(sealed=bytes(23)), Fault.MALFORMED),
    "another version": (resigned(version=2), Fault.VERSION),
    "seq 0": (resigned(seq=0), Fault.MALFORMED),
    "short key": (resigned(blinded_key=GOOD.blinded_key[1:]), Fault.MALFORMED),
    "short signature": (resigned(signature=bytes(63)), Fault.MALFORMED),
    "end of all time": (resigned(expires=2**35), Fault.MALFORMED),
    "just expired": (resigned(expires=NOW), Fault.EXPIRED),
    "25 hours and 6 minutes ahead": (resigned(expires=NOW + DAY + 3_901), Fault.FAR),
    "another network's": (record(network=OTHER_NETWORK).encoded, Fault.SIGNATURE),
    "forged": (resigned(signature=bytes(64)), Fault.SIGNATURE),
    "another's key": (resigned(blinded_key=someone(5).peer_key.key), Fault.SIGNATURE),
    "replayed with a higher seq": (resigned(seq=9, signature=GOOD.signature), Fault.SIGNATURE),
    "replayed with more time": (
        resigned(expires=GOOD.expires + 1, signature=GOOD.signature), Fault.SIGNATURE
    ),
    "with another value": (
        resigned(sealed=record(1, b"other").sealed, signature=GOOD.signature), Fault.SIGNATURE
    ),
    **{f"improper key {point.hex()[:8]}": (resigned(blinded_key=point), Fault.KEY)
       for point in IMPROPER},
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_record_is_refused_for_its_reason_by_storers_and_readers(name: str) -> None:
    encoded, fault = BAD[name]
    assert checked(encoded) is fault
    assert PLACE is not None
    read = records.read(encoded, NETWORK, ADDRESS, PLACE, unix_s=NOW)
    of_another = name == "another's key" or fault is Fault.KEY
    assert read is (Fault.PLACE if of_another else fault)


def test_the_maker_of_bad_records_makes_good_ones_too() -> None:
    assert checked(resigned()) == GOOD


def test_clocks_an_hour_apart_agree_about_a_fresh_record() -> None:
    fresh = record(expires=NOW + DAY).encoded
    assert isinstance(checked(fresh, unix_s=NOW - 3_600), SignedRecord)
    assert isinstance(checked(fresh, unix_s=NOW + 3_600), SignedRecord)
    assert checked(fresh, unix_s=NOW - 3_901) is Fault.FAR
    assert checked(fresh, unix_s=NOW + DAY) is Fault.EXPIRED


@pytest.mark.parametrize("other", [
    blinding.place(NETWORK, ANN.peer_key, SALT, PERIOD + 1),
    blinding.place(NETWORK, ANN.peer_key, b"other", PERIOD),
    blinding.place(NETWORK, someone(5).peer_key, SALT, PERIOD),
])  # fmt: skip
def test_a_reader_refuses_a_record_blinded_for_another_day_name_or_publisher(
    other: blinding.Place,
) -> None:
    assert records.read(GOOD.encoded, NETWORK, ADDRESS, other, unix_s=NOW) is Fault.PLACE


def test_a_reader_is_told_when_the_publisher_sealed_badly() -> None:
    unsealed = resigned(sealed=bytes(30))
    assert isinstance(checked(unsealed), SignedRecord), "who stores cannot tell"
    assert PLACE is not None
    assert records.read(unsealed, NETWORK, ADDRESS, PLACE, unix_s=NOW) is Fault.SEAL


@given(st.binary(max_size=1_300))
def test_any_bytes_are_refused(data: bytes) -> None:
    assert isinstance(checked(data), Fault)


@given(st.data())
def test_a_damaged_record_is_refused_or_means_the_same(data: st.DataObject) -> None:
    body = bytearray(GOOD.encoded)
    for _ in range(data.draw(st.integers(1, 3))):
        body[data.draw(st.integers(0, len(body) - 1))] = data.draw(st.integers(0, 255))
    found = checked(bytes(body[: data.draw(st.integers(len(body) - 3, len(body)))]))
    assert isinstance(found, Fault) or dataclasses.replace(found, encoded=GOOD.encoded) == GOOD


# ---------------------------------------------------------------------------- addresses

names = st.text(st.characters(exclude_categories=["C", "Z"]), max_size=16)


@given(name=names | st.just("molia/addr"))
def test_an_address_has_one_text(name: str) -> None:
    address = RecordAddress(ANN.peer_key, name.encode())
    assert RecordAddress.parse(str(address)) == address
    assert str(address) == (f"{ANN.peer_key}/{name}" if name else str(ANN.peer_key))


KEY_TEXT = str(ANN.peer_key)


@pytest.mark.parametrize("text", ["", "name", KEY_TEXT[:-1], KEY_TEXT.upper(), KEY_TEXT + "/",
                                  KEY_TEXT + "/a\n", KEY_TEXT + "/" + "a" * 65,
                                  KEY_TEXT + "/\ud800", "/" + KEY_TEXT])  # fmt: skip
def test_another_text_is_no_address(text: str) -> None:
    assert RecordAddress.parse(text) is None


def test_a_name_that_is_no_text_can_still_be_shown() -> None:
    assert str(RecordAddress(PeerKey(bytes(32)), b"\xff")).endswith("/\\xff")
