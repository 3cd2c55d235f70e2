"""One UDP port for many workers: a group of sockets, and the kernel chooses among them.

Message types 2, 3 and 4 go to the worker that the receiver index names (its low four bits modulo
the number of workers), type 1 goes by the kernel's hash of the addresses. The parent opens all
sockets of a group in the order of the workers and keeps them open for good: when one is closed the
kernel renumbers the group. Systems without this get one socket, the first worker's.
Source: socket(7), SO_REUSEPORT and SO_ATTACH_REUSEPORT_CBPF; docs/explanation/workers.md.
"""

import ctypes
import errno
import ipaddress
import os
import re
import socket
import struct
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain
from typing import Final

from molia.base.errors import BadConfig, CannotListen
from molia.wire.packet import WORKER_MASK

_ADDRESS: Final = re.compile(r"^(\[[0-9a-fA-F:.]+\]|[0-9.]+|localhost):([0-9]{1,5})$")
_ATTACH: Final = 51
_INSTRUCTION: Final = struct.Struct("=HBBI")
_LOAD_BYTE, _AND, _MODULO, _JUMP, _JUMP_IF_EQUAL = 0x30, 0x54, 0x94, 0x05, 0x15
_RETURN, _RETURN_A = 0x06, 0x16
_NOBODY: Final = 0xFFFF_FFFF
"""An index outside the group: the kernel then takes its own hash."""

Sockets = tuple[socket.socket, ...]


def owner_of(receiver_index: int, count: int) -> int:
    """Return the worker, of `count`, that gets packets for a receiver index.

    Each worker gives out indexes of its own only, also as the initiator's.
    """
    return (receiver_index & WORKER_MASK) % count


def program(count: int) -> bytes:
    """Return the classic-BPF program that steers among `count` sockets.

    It sees the UDP payload. The receiver index is little-endian: at offset 8 of a response (type
    2), at offset 4 of a cookie reply (3) and of data (4). A packet that is too short ends the
    program with 0, which is the first socket.
    """
    steps = (
        (_LOAD_BYTE, 0, 0, 0),
        (_JUMP_IF_EQUAL, 3, 0, 4),
        (_JUMP_IF_EQUAL, 2, 0, 3),
        (_JUMP_IF_EQUAL, 3, 0, 2),
        (_RETURN, 0, 0, _NOBODY),
        (_LOAD_BYTE, 0, 0, 4),
        (_JUMP, 0, 0, 1),
        (_LOAD_BYTE, 0, 0, 8),
        (_AND, 0, 0, WORKER_MASK),
        (_MODULO, 0, 0, count),
        (_RETURN_A, 0, 0, 0),
    )
    return b"".join(_INSTRUCTION.pack(*step) for step in steps)


@dataclass(frozen=True, slots=True)
class UdpGroup:
    """The sockets of a node, open since they were bound."""

    by_worker: tuple[Sockets, ...]
    """Of each worker, one socket an address; none for workers that the system cannot steer to."""
    addresses: tuple[str, ...]
    """`HOST:PORT` of each, with the port that was really taken."""
    locks: Sockets = ()

    def close(self) -> None:
        """Close everything; another node may have the port then."""
        _close_all(self.by_worker, self.locks)


def open_udp(listen: tuple[str, ...], count: int, *, plain: bool = False) -> UdpGroup:
    """Return bound, non-blocking UDP sockets of `count` workers for each address.

    plain: use nothing that not every system has, as tests do once.
    Raises BadConfig for what is no address, CannotListen for one that is taken.
    """
    steered = count > 1 and not plain and sys.platform.startswith("linux")
    by_worker: list[list[socket.socket]] = [[] for _ in range(count)]
    locks: Sockets = ()
    addresses = []
    try:
        for text in listen:
            host, port = _parse(text)
            if steered and port:  # before the bind: a socket of ours in their group takes packets
                locks = (*locks, _lock(host, port))
            first = _bind(host, port, shared=steered)
            by_worker[0].append(first)
            if steered and not port:
                locks = (*locks, _lock(host, first.getsockname()[1]))
            port = first.getsockname()[1]
            addresses.append(f"[{host}]:{port}" if ":" in host else f"{host}:{port}")
            if steered:
                _attach(first, count)
                for sockets in by_worker[1:]:
                    sockets.append(_bind(host, port, shared=True))
    except BaseException:
        _close_all(by_worker, locks)
        raise
    return UdpGroup(tuple(map(tuple, by_worker)), tuple(addresses), locks)


def _close_all(by_worker: Iterable[Iterable[socket.socket]], locks: Sockets) -> None:
    for sock in chain(*by_worker, locks):
        sock.close()


def _parse(text: str) -> tuple[str, int]:
    match = _ADDRESS.match(text)
    host = match.group(1).strip("[]").replace("localhost", "127.0.0.1") if match else ""
    port = int(match.group(2)) if match else 0
    try:
        ipaddress.ip_address(host)
    except ValueError:
        port = -1
    if not 0 <= port <= 65_535:
        raise BadConfig("udp.listen", f"{text!r} is no address like 127.0.0.1:7071 or [::]:7071")
    return host, port


def _bind(host: str, port: int, *, shared: bool) -> socket.socket:
    is_v6 = ":" in host
    try:
        sock = socket.socket(socket.AF_INET6 if is_v6 else socket.AF_INET, socket.SOCK_DGRAM)
        try:
            if is_v6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if shared:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind((host, port))
        except BaseException:
            sock.close()
            raise
    except OSError as error:
        raise _taken(host, port, error) from None
    sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
    return sock


def _lock(host: str, port: int) -> socket.socket:
    """Return what keeps another node of this user out of the group: it would take packets.

    An abstract Unix socket belongs to the network namespace, as the port does, and goes with the
    process.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    try:
        sock.bind(f"\0molia-udp-{os.geteuid()}-{host}-{port}")
    except OSError as error:
        sock.close()
        raise _taken(host, port, error) from None
    return sock


def _attach(sock: socket.socket, count: int) -> None:
    """Give the group its program; once, as long as nobody uses the group."""
    code = program(count)
    kept = ctypes.create_string_buffer(code, len(code))
    described = struct.pack("HL", len(code) // _INSTRUCTION.size, ctypes.addressof(kept))
    sock.setsockopt(socket.SOL_SOCKET, _ATTACH, described)


def _taken(host: str, port: int, error: OSError) -> CannotListen:
    reason = "another node has it" if error.errno == errno.EADDRINUSE else error.strerror
    return CannotListen(
        f"cannot listen on UDP {host} port {port}: {reason}",
        hint="stop the other program or choose another address with --listen",
    )
