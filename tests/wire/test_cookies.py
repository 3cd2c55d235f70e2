"""The two MACs: who knows whom, and who is where."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base.crypto import ExchangeKey
from molia.base.ids import network_id
from molia.sim.entropy import SeededEntropy
from molia.wire.cookies import (
    Address,
    CookieSecret,
    MacChecker,
    address_bytes,
    mac1_key,
    open_cookie,
    stamp,
)
from molia.wire.noise import WIREGUARD, Profile, molia_profile
from molia.wire.packet import COOKIE, parse_cookie, size_fits
from molia.wire.puzzle import NO_EFFORT, Effort

OURS = molia_profile(network_id("molia"))
PRIVATE = molia_profile(network_id("mine", b"s" * 32), b"s" * 32)
PUBLIC = ExchangeKey(b"1" * 32).public
HERE: Address = ("192.0.2.1", 7)
EFFORT = Effort(17, 4, b"tag")
BODY = b"\1\0\0\0send" + b"b" * 150


def checker(profile: Profile = OURS, root: bytes = b"r" * 32) -> MacChecker:
    return MacChecker(profile, PUBLIC, CookieSecret(root))


def cookie_from(packet: bytes, address: Address, unix_s: float, profile: Profile = OURS) -> bytes:
    """Return the cookie that a node under load gives for `packet`."""
    raw = checker(profile).reply(packet, address, unix_s, effort=EFFORT, nonce=b"n" * 24)
    assert size_fits(raw, profile)
    assert len(raw) < len(packet)
    opened = open_cookie(profile, PUBLIC, parse_cookie(raw), packet[-32:-16])
    assert opened
    assert opened[1] == (EFFORT if profile.is_molia else NO_EFFORT)
    return opened[0]


@given(at=st.integers(0, len(BODY) + 15), bit=st.integers(0, 7))
def test_mac1_covers_every_bit_before_it(at: int, bit: int) -> None:
    packet = stamp(BODY, key=mac1_key(OURS, PUBLIC), cookie=b"")
    assert checker().mac1_holds(packet)
    changed = bytearray(packet)
    changed[at] ^= 1 << bit
    assert not checker().mac1_holds(bytes(changed))


def test_mac1_needs_the_receivers_key_and_in_a_private_network_its_id() -> None:
    for profile, public in ((OURS, b"x" * 32), (PRIVATE, PUBLIC)):
        packet = stamp(BODY, key=mac1_key(profile, public), cookie=b"")
        assert not checker().mac1_holds(packet)
    assert checker(PRIVATE).mac1_holds(stamp(BODY, key=mac1_key(PRIVATE, PUBLIC), cookie=b""))
    assert mac1_key(OURS, PUBLIC) == mac1_key(WIREGUARD, PUBLIC)


@pytest.mark.parametrize("profile", [OURS, PRIVATE, WIREGUARD], ids=["open", "private", "wg"])
def test_a_cookie_proves_its_address_for_two_to_four_minutes(profile: Profile) -> None:
    key, start_s = mac1_key(profile, PUBLIC), 120.0 * 1000
    first = stamp(BODY, key=key, cookie=b"")
    assert not checker(profile).mac2_holds(first, HERE, start_s)
    again = stamp(BODY, key=key, cookie=cookie_from(first, HERE, start_s, profile))
    door = checker(profile)
    for unix_s, holds in ((start_s, True), (start_s + 239, True), (start_s + 240, False),
                          (start_s - 1, False)):  # fmt: skip
        assert door.mac2_holds(again, HERE, unix_s) == holds, unix_s
    for other in (("192.0.2.1", 8), ("192.0.2.2", 7)):
        assert not door.mac2_holds(again, other, start_s)
    assert not checker(profile, root=b"o" * 32).mac2_holds(again, HERE, start_s)


def test_a_cookie_reply_counts_for_the_message_it_answers_and_from_its_maker() -> None:
    packet = stamp(BODY, key=mac1_key(OURS, PUBLIC), cookie=b"")
    raw = checker().reply(packet, HERE, 0.0, effort=NO_EFFORT, nonce=b"n" * 24)
    assert raw[:8] == COOKIE + b"send"
    reply, mac1 = parse_cookie(raw), packet[-32:-16]
    assert open_cookie(OURS, PUBLIC, reply, mac1)
    assert open_cookie(OURS, PUBLIC, reply, bytes(16)) is None
    assert open_cookie(OURS, b"x" * 32, reply, mac1) is None
    assert open_cookie(PRIVATE, PUBLIC, reply, mac1) is None
    assert open_cookie(OURS, PUBLIC, reply._replace(nonce=b"m" * 24), mac1) is None


def test_workers_that_share_a_root_share_their_cookies() -> None:
    one, two = CookieSecret(b"r" * 32), CookieSecret(b"r" * 32)
    assert one.cookies(HERE, 5.0) == two.cookies(HERE, 100.0) != one.cookies(HERE, 120.0)
    fresh = [CookieSecret.fresh(SeededEntropy(seed)).cookies(HERE, 0.0) for seed in (1, 1, 2)]
    assert fresh[0] == fresh[1] != fresh[2]


@given(
    left=st.tuples(st.text("01.:ab", max_size=5), st.integers(0, 65535)),
    right=st.tuples(st.text("01.:ab", max_size=5), st.integers(0, 65535)),
)
def test_two_addresses_never_look_alike(left: tuple[str, int], right: tuple[str, int]) -> None:
    assert (address_bytes(left) == address_bytes(right)) == (left == right)
