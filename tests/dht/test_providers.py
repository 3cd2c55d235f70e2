"""Provider records: what is announced is read by who knows the CID; bad ones have their reasons."""

import struct
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molia.base import limits
from molia.base.cid import Cid
from molia.base.crypto import Identity
from molia.dht import providers
from molia.dht.contact import Space
from molia.dht.providers import Kind, Provided, ProviderRecord
from molia.dht.records import Fault
from molia.dht.sealing import provider_key, seal_provider
from molia.sim.entropy import SeededEntropy
from molia.wire import messages
from molia.wire.dht_messages import AddProvider, Providers
from tests.dht.record_samples import (
    CID,
    DAY,
    LOCAL,
    NETWORK,
    NOW,
    OTHER_NETWORK,
    PREFIX,
    RAW,
    provider,
    someone,
)
from tests.dht.test_blinding import IMPROPER
from tests.vectors.load import vectors
from tests.wire.dht_samples import addresses

HEAD = struct.Struct(">BB32s32sQQB")
SIX_PREFIX = bytes.fromhex("0620010db80303")
NARROWEST = [PREFIX, SIX_PREFIX, LOCAL, bytes(15) + b"\x01\x0f\xa1"]


class Fixed:
    """An Entropy that gives one thing."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def token(self, size: int) -> bytes:
        """Return it."""
        assert size == len(self.data)
        return self.data


def checked(encoded: bytes, *, unix_s: float = NOW, local: bool = True) -> ProviderRecord | Fault:
    return providers.check(encoded, NETWORK, unix_s=unix_s, allow_local=local)


@pytest.mark.parametrize("row", vectors("providers"))
def test_provider_records_are_those_of_the_vectors(row: dict[str, Any]) -> None:
    network, encoded = bytes.fromhex(row["network"]), bytes.fromhex(row["encoded"])
    cid = Cid.from_bytes(bytes.fromhex(row["cid"]))
    hints = [messages.unpack_address(bytes.fromhex(hint)) for hint in row["hints"]]
    manifest = Cid.from_bytes(bytes.fromhex(row["manifest"])) if row["manifest"] else None
    shares = bytes.fromhex(row["bitmap"])
    provided = Provided(shares, tuple(hint for hint in hints if hint is not None), manifest)
    made = providers.announce(
        Identity(bytes.fromhex(row["seed"])), network, cid, Kind(row["kind"]), provided,
        prefix=bytes.fromhex(row["prefix"]), issued=row["issued"], expires=row["expires"],
        entropy=Fixed(bytes.fromhex(row["nonce"])),
    )  # fmt: skip
    assert made.encoded == encoded
    assert made.loc.hex() == row["loc"]
    found = providers.check(encoded, network, unix_s=row["issued"], allow_local=True)
    assert found == made
    assert providers.read(made, network, cid) == provided


kinds = st.sampled_from([kind for kind in Kind if kind is not Kind.BINDING])
shares = st.lists(st.integers(0, 254), max_size=20, unique=True)


@settings(max_examples=40)
@given(kind=kinds, some=shares, hints=st.lists(addresses, max_size=2),
       prefix=st.sampled_from(NARROWEST), ahead_s=st.integers(1, DAY))  # fmt: skip
def test_what_is_announced_is_kept_by_anyone_and_read_by_who_knows_the_cid(
    kind: Kind, some: list[int], hints: list[tuple[str, int]], prefix: bytes, ahead_s: int
) -> None:
    provided = Provided(providers.share_bitmap(some), tuple(hints))
    made = provider(kind=kind, provided=provided, prefix=prefix, expires=NOW + ahead_s)
    assert checked(made.encoded) == made
    assert providers.read(made, NETWORK, CID) == provided
    assert providers.shares_in(provided.shares) == sorted(some)
    assert providers.read(made, NETWORK, RAW) is Fault.PLACE
    assert providers.read(made, OTHER_NETWORK, CID) is Fault.PLACE


def test_four_of_the_longest_fit_a_message() -> None:
    hints = (("2001:db8::1", 1), ("2001:db8::2", 2))
    longest = provider(provided=Provided(b"\xff" * 32, hints), prefix=NARROWEST[3]).encoded
    assert len(longest) <= limits.PROVIDER_RECORD_SIZE_MAX
    four = (longest.ljust(limits.PROVIDER_RECORD_SIZE_MAX, b"x"),) * 4
    for message in (AddProvider(four), Providers(records=four, total=64, page=15)):
        assert len(messages.encode(message)) <= limits.DATAGRAM_BODY_MAX


def test_a_prefix_is_what_contacts_are_grouped_by() -> None:
    space = Space(NETWORK)
    for host in ("192.0.2.77", "2001:db8:1234::1", "127.0.0.1", "::1", "10.1.2.3", "fd00::7"):
        contact = space.contact(someone(1).peer_key.key, (host, 4001))
        assert contact is not None
        found = checked(provider(prefix=contact.group).encoded)
        assert isinstance(found, ProviderRecord)
        assert (found.prefix, found.is_local) == (contact.group, contact.is_local)


def resigned(*, identity: Identity | None = None, **change: Any) -> bytes:
    """Return a provider record with some fields changed, then signed as if they were right."""
    good = provider()
    fields: dict[str, Any] = {"version": 1, "kind": 2, "loc": good.loc, "issued": NOW,
                              "expires": NOW + DAY, "prefix": PREFIX, "sealed": good.sealed,
                              "signer": good.signer.key, **change}  # fmt: skip
    body: bytes = HEAD.pack(fields["version"], fields["kind"], fields["loc"], fields["signer"],
                     fields["issued"], fields["expires"], len(fields["prefix"]))  # fmt: skip
    body += fields["prefix"] + fields["sealed"]
    return body + (identity or someone(1)).sign(providers.signed_bytes(NETWORK, body))


GOOD = resigned()
BAD: dict[str, tuple[bytes, Fault]] = {
    "nothing": (b"", Fault.MALFORMED),
    "cut": (GOOD[:180], Fault.MALFORMED),
    "oversized": (GOOD + bytes(200), Fault.OVERSIZED),
    "another version": (resigned(version=2), Fault.VERSION),
    "an unknown kind": (resigned(kind=9), Fault.MALFORMED),
    "issued after its end": (resigned(issued=NOW + DAY), Fault.MALFORMED),
    "expired": (resigned(issued=NOW - DAY, expires=NOW), Fault.EXPIRED),
    "25 hours and 6 minutes ahead": (resigned(expires=NOW + DAY + 3_901), Fault.FAR),
    "issued two hours from now": (resigned(issued=NOW + 7_200), Fault.FAR),
    "no prefix": (resigned(prefix=b""), Fault.PREFIX),
    "a prefix of 5 bytes": (resigned(prefix=PREFIX + b"\0"), Fault.PREFIX),
    "a prefix of no family": (resigned(prefix=b"\x05\xc0\0\x02"), Fault.PREFIX),
    "a /48 not masked": (resigned(prefix=b"\x06" + b"\xff" * 6), Fault.PREFIX),
    "a public address as local": (resigned(prefix=b"\x08\x08\x08\x08\0\x01"), Fault.PREFIX),
    "forged": (GOOD[:-64] + bytes(64), Fault.SIGNATURE),
    "signed by another": (resigned(identity=someone(2)), Fault.SIGNATURE),
    "of another location": (
        resigned(loc=bytes(32))[:-64] + GOOD[-64:], Fault.SIGNATURE
    ),
    **{f"improper key {point.hex()[:8]}": (resigned(signer=point), Fault.KEY)
       for point in IMPROPER},
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_bad_provider_record_is_refused_for_its_reason(name: str) -> None:
    encoded, fault = BAD[name]
    assert checked(encoded) is fault


def test_the_maker_of_bad_records_makes_good_ones_too() -> None:
    assert isinstance(checked(GOOD), ProviderRecord)


def test_another_networks_provider_record_is_refused() -> None:
    found = providers.check(GOOD, OTHER_NETWORK, unix_s=NOW, allow_local=True)
    assert found is Fault.SIGNATURE


def test_a_node_at_a_public_address_takes_no_local_providers() -> None:
    local = provider(prefix=LOCAL).encoded
    assert isinstance(checked(local), ProviderRecord)
    assert checked(local, local=False) is Fault.PREFIX
    assert isinstance(checked(provider(prefix=PREFIX).encoded, local=False), ProviderRecord)


def test_clocks_an_hour_apart_agree_about_a_fresh_record() -> None:
    for unix_s in (NOW - 3_600, NOW + 3_600):
        assert isinstance(checked(provider().encoded, unix_s=unix_s), ProviderRecord)


@given(st.binary(max_size=400))
def test_any_bytes_are_refused(data: bytes) -> None:
    assert isinstance(checked(data), Fault)
    assert isinstance(checked(b"\x01" + data), Fault)


@given(st.data())
def test_a_damaged_provider_record_is_refused(data: st.DataObject) -> None:
    body = bytearray(GOOD)
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(len(body) - 3, len(body)))
    assert isinstance(checked(bytes(body[:cut])), Fault)


def sealed_as(plaintext: bytes, kind: Kind = Kind.WHOLE) -> ProviderRecord:
    """Return a good record whose sealed part says just this."""
    loc, expires = provider().loc, NOW + DAY
    sealed = seal_provider(provider_key(NETWORK, CID), bytes(24), plaintext, loc=loc,
                           expires=expires)  # fmt: skip
    found = checked(resigned(sealed=sealed, kind=kind))
    assert isinstance(found, ProviderRecord)
    return found


@pytest.mark.parametrize("plaintext", [
    b"", b"\0", b"\x01", b"\x01\x00\x00", b"\0\x03" + b"\x06\x7f\0\0\x01\0\x01" * 3,
    b"\x21" + b"\xff" * 33 + b"\0", b"\0\x01\x06\x7f\0\0\x01\0",
    b"\0\x01\x06\xff\xff\xff\xff\0\x01",
    b"\0\0x", b"\0\0" + bytes(RAW), b"\0\0" + bytes(CID),
])  # fmt: skip
def test_a_sealed_part_that_makes_no_sense_is_refused(plaintext: bytes) -> None:
    assert providers.read(sealed_as(plaintext), NETWORK, CID) is Fault.MALFORMED


def test_a_binding_names_a_manifest_and_nothing_else_does() -> None:
    bare = sealed_as(b"\0\0", Kind.BINDING)
    assert providers.read(bare, NETWORK, CID) is Fault.MALFORMED
    bound = sealed_as(b"\0\0" + bytes(CID), Kind.BINDING)
    assert providers.read(bound, NETWORK, CID) == Provided(manifest=CID)


@given(st.binary(max_size=90), st.sampled_from(Kind))
def test_any_sealed_part_is_read_or_refused(plaintext: bytes, kind: Kind) -> None:
    found = providers.read(sealed_as(plaintext, kind), NETWORK, CID)
    assert found is Fault.MALFORMED or isinstance(found, Provided)


def test_what_does_not_open_is_refused() -> None:
    found = checked(resigned(sealed=bytes(41)))
    assert isinstance(found, ProviderRecord)
    assert providers.read(found, NETWORK, CID) is Fault.SEAL


def test_two_announcements_of_the_same_do_not_look_alike() -> None:
    made = [
        providers.announce(
            someone(1), NETWORK, CID, Kind.WHOLE, Provided(), prefix=PREFIX, issued=NOW,
            expires=NOW + DAY, entropy=SeededEntropy(seed),
        ).sealed
        for seed in (1, 2)
    ]  # fmt: skip
    assert made[0][:24] != made[1][:24]


def test_the_outline_of_a_record_is_its_outside() -> None:
    made = provider(prefix=SIX_PREFIX)
    seen = providers.outline(made.encoded)
    assert seen == (
        made.kind,
        made.signer.key,
        made.issued,
        made.expires,
        made.prefix,
        made.encoded,
    )
    assert providers.outline(b"\x01" * 50) is None
