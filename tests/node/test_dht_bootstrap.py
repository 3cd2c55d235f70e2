"""Where a node begins: what is given, what is remembered, what the local network says."""

import asyncio
import os
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base import limits
from molia.base.errors import BadConfig, HomeUnsafe
from molia.base.ids import PeerKey, network_id, network_label
from molia.node.bootstrap import ContactsFile, read_bootstrap, resolve
from molia.node.lan import Beacon, Lan
from molia.wire.addresses import Address, PeerAddress

KEY = PeerKey(b"\1" * 32)
ADDRESS = f"molia://{KEY}@127.0.0.1:7071"
NETWORK = network_id("molia", b"")


def test_addresses_come_from_the_settings_and_then_from_the_file_each_once(tmp_path: Path) -> None:
    other = f"molia://{PeerKey(b'2' * 32)}@[::1]:7071"
    lines = ["# a comment", "", f"  {ADDRESS}  # ours", other, other]
    (tmp_path / "bootstrap").write_text("\n".join(lines))
    os.chmod(tmp_path / "bootstrap", 0o600)
    found = read_bootstrap(tmp_path, [ADDRESS])
    assert [str(address) for address in found] == [ADDRESS, other]


def test_without_a_file_there_is_what_the_settings_say(tmp_path: Path) -> None:
    assert read_bootstrap(tmp_path, []) == ()


@pytest.mark.parametrize("line", ["nonsense", "molia://x@127.0.0.1:1", ADDRESS + "0000"])
def test_a_bad_line_is_named_with_its_number(tmp_path: Path, line: str) -> None:
    (tmp_path / "bootstrap").write_text(f"# first\n{line}\n")
    os.chmod(tmp_path / "bootstrap", 0o600)
    with pytest.raises(BadConfig, match=r"bootstrap:2"):
        read_bootstrap(tmp_path, [])


def test_a_file_that_is_no_text_or_too_long_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "bootstrap"
    for content in (b"\xff\xfe", b"#" * (limits.BOOTSTRAP_FILE_BYTES_MAX + 1)):
        path.write_bytes(content)
        path.chmod(0o600)
        with pytest.raises(BadConfig):
            read_bootstrap(tmp_path, [])


def test_a_file_that_others_may_write_is_refused(tmp_path: Path) -> None:
    (tmp_path / "bootstrap").write_text(ADDRESS)
    os.chmod(tmp_path / "bootstrap", 0o622)
    with pytest.raises(HomeUnsafe):
        read_bootstrap(tmp_path, [])


def test_names_are_resolved_and_those_that_lead_nowhere_are_left_out() -> None:
    given = [
        PeerAddress(KEY, "127.0.0.1", 1), PeerAddress(KEY, "nowhere.invalid", 2),
        PeerAddress(KEY, "localhost", 3),
    ]  # fmt: skip
    seeds = asyncio.run(resolve(given, timeout_s=10.0))
    assert (KEY, ("127.0.0.1", 1)) in seeds
    assert {address[1] for _, address in seeds} == {1, 3}


def test_contacts_are_kept_as_a_whole_and_only_for_their_owner(tmp_path: Path) -> None:
    file = ContactsFile(tmp_path, 3)
    assert file.read() == b""
    for data in (b"first", b"second"):
        file.write(data)
        assert ContactsFile(tmp_path, 3).read() == data
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["contacts-03.bin"]


def test_contacts_that_cannot_be_kept_or_read_are_no_failure(tmp_path: Path) -> None:
    file = ContactsFile(tmp_path / "missing", 0)
    file.write(b"data")
    assert file.read() == b""
    whole = ContactsFile(tmp_path, 0)
    whole.write(bytes(limits.CONTACTS_FILE_BYTES_MAX + 1))
    assert not whole.path.exists()


def heard(packets: list[bytes]) -> list[tuple[PeerKey, Address]]:
    """Return what a node makes of packets on the local network, all within a second."""
    hints: list[tuple[PeerKey, Address]] = []
    lan = Lan(network=NETWORK, key=KEY, port=7071, hint=lambda key, at: hints.append((key, at)))
    for packet in packets:
        lan.on_packet(packet, ("192.168.0.9", 40_000), 5.0)
    return hints


def beacon(key: bytes, name: str = "molia", port: int = 7071) -> bytes:
    """Return the beacon of a node."""
    return Beacon(bytes.fromhex(network_label(network_id(name, b""))), key, port).encode()


def test_a_beacon_of_the_same_network_is_a_hint_at_the_senders_host() -> None:
    assert heard([beacon(b"2" * 32, port=9)]) == [(PeerKey(b"2" * 32), ("192.168.0.9", 9))]


def test_beacons_of_others_networks_of_ourselves_and_too_many_are_dropped() -> None:
    assert heard([beacon(b"2" * 32, "other"), beacon(KEY.key), beacon(b"2" * 32)[:-1]]) == []
    assert len(heard([beacon(bytes((n,)) * 32) for n in range(2, 60)])) == 16


@given(st.binary(max_size=80))
def test_noise_on_the_local_network_is_nothing(packet: bytes) -> None:
    assert heard([packet]) == []
