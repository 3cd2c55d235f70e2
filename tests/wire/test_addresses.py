"""Addresses: what is masked to what, and a text form with one spelling."""

import contextlib
import ipaddress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from molia.base.errors import BadAddress
from molia.base.ids import PeerKey
from molia.wire import addresses
from molia.wire.addresses import PeerAddress, pack_host, parse_addresses

Host = ipaddress.IPv4Address | ipaddress.IPv6Address
KEY = PeerKey(bytes(range(32)))
hosts = st.ip_addresses().filter(lambda host: not str(host).startswith("::ffff:"))


def packed(host: str) -> bytes:
    """The bytes of a host that is one."""
    found = pack_host(host)
    assert found is not None
    return found


@given(hosts)
def test_a_numeric_host_packs_as_the_standard_library_says(host: Host) -> None:
    assert pack_host(str(host)) == host.packed
    assert addresses.unpack_host(host.packed) == str(host)


@given(st.ip_addresses(v=4))
def test_ipv4_in_ipv6_is_ipv4(host: ipaddress.IPv4Address) -> None:
    assert pack_host(f"::ffff:{host}") == host.packed
    assert addresses.unpack_host(bytes(10) + b"\xff\xff" + host.packed) == str(host)


def test_a_scope_is_left_out() -> None:
    assert pack_host("fe80::1%eth0") == pack_host("fe80::1")


@given(st.text(max_size=300))
@example("localhost")
@example("1.2.3")
@example("01.2.3.4")
@example("1.2.3.4 ")
@example("١.2.3.4")
@example("%")
@example("::1::")
@example("1" * 10_000)
def test_any_other_text_packs_to_nothing(text: str) -> None:
    found = pack_host(text)
    assert found is None or len(found) in (4, 16)
    if found is not None:
        ipaddress.ip_address(text.partition("%")[0])


@given(st.binary(max_size=20).filter(lambda data: len(data) not in (4, 16)))
def test_bytes_of_another_length_are_no_host(data: bytes) -> None:
    assert addresses.unpack_host(data) is None


def test_hosts_are_counted_by_address_network_and_operator() -> None:
    four, six = packed("192.0.2.77"), packed("2001:db8:1:2:3:4:5:6")
    assert addresses.host_key(four) == four
    assert addresses.host_key(six) == packed("2001:db8:1:2::")[:8]
    assert (addresses.network_key(four), addresses.operator_key(four)) == (four[:3], four[:2])
    assert (addresses.network_key(six), addresses.operator_key(six)) == (six[:6], six[:4])


@pytest.mark.parametrize(("base", "free_bits", "prefixes"), [("2a02:2000::", 16, 16),
                         ("2a02:2000::", 8, 4), ("2a02:2000::", 19, 16)])  # fmt: skip
def test_a_wide_ipv6_range_buys_few_prefixes(base: str, free_bits: int, prefixes: int) -> None:
    start = int.from_bytes(packed(base)[:6], "big")
    found = {
        addresses.address_prefix((start + n).to_bytes(6, "big") + bytes(10))
        for n in range(1 << free_bits)
    }
    assert len(found) == prefixes


@given(hosts, st.data())
def test_a_prefix_does_not_move_within_a_network(host: Host, data: st.DataObject) -> None:
    keep = 3 if host.version == 4 else 6
    rest = len(host.packed) - keep
    other = host.packed[:keep] + data.draw(st.binary(min_size=rest, max_size=rest))
    assert addresses.address_prefix(other) == addresses.address_prefix(host.packed)
    assert addresses.source_tag(other) == addresses.source_tag(host.packed)
    assert addresses.address_prefix(other)[0] == host.version
    assert len(addresses.source_tag(other)) == 3


def test_prefixes_are_these_bytes() -> None:
    assert addresses.address_prefix(packed("192.0.2.77")).hex() == "04c00002"
    assert addresses.address_prefix(packed("2a02:2fff:ffff::1")).hex() == "062a022ff80303"
    assert addresses.source_tag(packed("192.0.2.77")).hex() == "c00002"
    assert addresses.source_tag(packed("2a02:2fff:ffff::1")).hex() == "23e7d9"  # b2sum -l 24


LOCAL = ("127.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.1.1",
         "169.254.0.1", "100.64.0.1", "100.127.255.255", "::1", "fd00::1", "fe80::1")  # fmt: skip
PUBLIC = ("9.255.255.255", "11.0.0.0", "172.15.0.1", "172.32.0.1", "192.167.1.1", "100.63.0.1",
          "100.128.0.0", "8.8.8.8", "::2", "2001:db8::1", "fbff::1", "fec0::1")  # fmt: skip


def test_local_addresses_are_told_from_public_ones() -> None:
    assert [host for host in LOCAL if not addresses.is_local(packed(host))] == []
    assert [host for host in PUBLIC if addresses.is_local(packed(host))] == []


def test_loopback_is_this_machine_alone() -> None:
    loops = [host for host in LOCAL + PUBLIC if addresses.is_loopback(packed(host))]
    assert loops == ["127.0.0.1", "::1"]


def test_only_a_unicast_address_is_one_host() -> None:
    bad = ("0.0.0.0", "0.1.2.3", "224.0.0.1", "255.255.255.255", "::", "ff02::1")
    assert [host for host in bad if addresses.is_unicast(packed(host))] == []
    assert all(addresses.is_unicast(packed(host)) for host in LOCAL + PUBLIC)


@given(hosts, st.integers(1, 65535))
def test_an_address_reads_as_it_was_written(host: Host, port: int) -> None:
    plain = addresses.unpack_host(host.packed)
    assert plain is not None
    address = PeerAddress(KEY, plain, port)
    assert PeerAddress.parse(str(address)) == address


@pytest.mark.parametrize("place", ["192.0.2.1:1", "[2001:db8::1]:65535", "boot.example.org:4001",
                                   "localhost:7", "a-1.example:1"])  # fmt: skip
def test_numbers_and_names_are_places(place: str) -> None:
    text = f"molia://{KEY}@{place}"
    assert str(PeerAddress.parse(text)) == text
    assert parse_addresses(f"{text}, {text}") == [PeerAddress.parse(text)] * 2


BAD_PLACES = ("", "192.0.2.1", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2.1:01",
              "192.0.2.1:+1", "2001:db8::1:1", "[192.0.2.1]:1", "[name]:1", "[2001:db8::1:1",
              "[fe80::1%eth0]:1", "fe80::1%eth0:1", "Name:1", "-a:1", "a..b:1", "1.2.3:1", "a b:1",
              "1.2.3.4.5:1", "ünder:1", "a@b:1", ":1", "[]:1", "x" * 254 + ":1")  # fmt: skip


@pytest.mark.parametrize("place", BAD_PLACES)
def test_what_is_no_place_is_refused(place: str) -> None:
    with pytest.raises(BadAddress):
        PeerAddress.parse(f"molia://{KEY}@{place}")


@given(st.text(max_size=120))
@example("molia://")
@example(f"molia://{str(KEY)[:-1]}@192.0.2.1:1")
@example(f"molia:{KEY}@192.0.2.1:1")
@example("molia://@" + "\ud800" * 30)
@example("," * 50)
@example("molia://" + "[" * 1000 + "]")
def test_any_text_is_addresses_or_a_bad_one(text: str) -> None:
    with contextlib.suppress(BadAddress):
        assert all(PeerAddress.parse(str(a)) == a for a in parse_addresses(text))


@given(st.integers(0, 200), st.characters())
def test_an_address_changed_anywhere_is_another_or_a_bad_one(at: int, char: str) -> None:
    text = f"molia://{KEY}@192.0.2.1:4001"
    at %= len(text)
    changed = text[:at] + char + text[at + 1 :]
    with contextlib.suppress(BadAddress):
        assert str(PeerAddress.parse(changed)) == changed
