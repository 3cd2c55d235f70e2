"""One UDP port, several sockets: the receiver index says whose packet it is."""

import contextlib
import select
import socket
import struct
import sys
from collections.abc import Iterator

import pytest

from molia.base.errors import BadConfig, CannotListen
from molia.node.steering import UdpGroup, open_udp, owner_of

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="steering is Linux's")


@contextlib.contextmanager
def group(count: int, listen: str = "127.0.0.1:0", *, plain: bool = False) -> Iterator[UdpGroup]:
    opened = open_udp((listen,), count, plain=plain)
    try:
        yield opened
    finally:
        opened.close()


def packet(kind: int, index: int) -> bytes:
    """A packet of a type, padded, with the receiver index where that type has it."""
    head = bytes((kind, 0, 0, 0))
    if kind == 2:
        head += bytes(4)
    return (head + struct.pack("<I", index)).ljust(48, b"\0")


def arrivals(opened: UdpGroup, packets: list[bytes], *, clients: int = 1) -> list[set[bytes]]:
    """Send packets, and return which reached each worker."""
    host, _, port = opened.addresses[0].rpartition(":")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    senders = [socket.socket(family, socket.SOCK_DGRAM) for _ in range(clients)]
    sockets = [own[0] for own in opened.by_worker if own]
    got: list[set[bytes]] = [set() for _ in sockets]
    left = len(packets)
    for number, data in enumerate(packets):
        senders[number % clients].sendto(data, (host.strip("[]"), int(port)))
    while left:
        ready = select.select(sockets, [], [], 10)[0]
        assert ready, "packets are missing"
        for sock in ready:
            got[sockets.index(sock)].add(sock.recv(2048))
            left -= 1
    for sender in senders:
        sender.close()
    return got


@linux
@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_packets_reach_the_worker_that_their_receiver_index_names(count: int) -> None:
    with group(count) as opened:
        for kind in (2, 3, 4):
            indexes = [7, 0, 255, 256, 0xFFFF_FFFF, 0x0102_0304, *range(40, 40 + count)]
            got = arrivals(opened, [packet(kind, index) for index in indexes])
            for number in range(count):
                mine = {
                    packet(kind, index) for index in indexes if owner_of(index, count) == number
                }
                assert got[number] == mine


@linux
def test_initiations_are_spread_by_their_addresses() -> None:
    with group(4) as opened:
        packets = [bytes((1, 0, 0, 0)) + number.to_bytes(144, "little") for number in range(128)]
        got = arrivals(opened, packets, clients=64)
        assert sum(map(len, got)) == 128
        assert all(got), "every worker gets some"


@linux
def test_short_and_unknown_packets_are_lost_to_nobody_in_particular() -> None:
    with group(3) as opened:
        got = arrivals(opened, [b"\4", b"\2\0\0\0", b"\xff" * 9])
        assert sum(map(len, got)) == 3


@linux
def test_both_families_have_a_group_of_their_own() -> None:
    try:
        opened = open_udp(("127.0.0.1:0", "[::1]:0"), 2)
    except CannotListen:
        pytest.skip("this machine has no IPv6 loopback")
    assert [len(sockets) for sockets in opened.by_worker] == [2, 2]
    assert opened.addresses[1].startswith("[::1]:")
    opened.close()


@pytest.mark.parametrize(("first", "second"), [(2, 2), (2, 1), (1, 2), (1, 1)])
def test_a_second_node_does_not_join_the_group(first: int, second: int) -> None:
    with group(first) as opened:
        with pytest.raises(CannotListen, match="another node has it"):
            open_udp(opened.addresses, second)
        if first > 1:
            assert sum(map(len, arrivals(opened, [packet(4, 1)]))) == 1
    with group(second, opened.addresses[0]):
        pass  # the port is free again


def test_a_system_without_groups_gets_one_socket() -> None:
    with group(4, plain=True) as opened:
        assert [len(sockets) for sockets in opened.by_worker] == [1, 0, 0, 0]
        packets = [packet(4, index) for index in range(8)]
        assert arrivals(opened, packets) == [set(packets)]


@pytest.mark.parametrize("text", ["", "7071", "host:1", "127.0.0.1:65536", "[::1:7071", "1.2.3:9"])
def test_what_is_no_address_is_refused(text: str) -> None:
    with pytest.raises(BadConfig, match=r"udp\.listen"):
        open_udp((text,), 1)
