"""Nodes of the same network on the local one, found by a beacon. Off unless `dht.lan` is set.

A beacon says which network, which key and which port; the address is the sender's. It is a hint
that gets probed, never more. Source: docs/reference/dht-node.md, "Local network".
"""

import asyncio
import contextlib
import socket
import struct
from collections.abc import Callable
from typing import Final, NamedTuple

import structlog

from molia.base.ids import PeerKey, network_label
from molia.wire.addresses import Address

log = structlog.get_logger(__name__)

GROUP: Final = "239.192.109.108"
"""In the range that RFC 2365 sets aside for an organisation; packets live for one hop."""
PORT: Final = 7072
INTERVAL_S: Final = 30.0
HINTS_PER_S: Final = 16
"""More beacons than this in a second are left unread."""
_BEACON: Final = struct.Struct(">8s8s32sH")
_MAGIC: Final = b"molialan"


class Beacon(NamedTuple):
    """What a node says of itself to its neighbours."""

    label: bytes
    """Of the network; it gives nothing away about a secret."""
    key: bytes
    port: int

    def encode(self) -> bytes:
        """Return the packet's bytes."""
        return _BEACON.pack(_MAGIC, self.label, self.key, self.port)

    @classmethod
    def decode(cls, data: bytes) -> "Beacon | None":
        """Return what a packet says; None when it is no beacon."""
        if len(data) != _BEACON.size:
            return None
        magic, label, key, port = _BEACON.unpack(data)
        return cls(label, key, port) if magic == _MAGIC and port else None


class Lan:
    """Calls to the local network, and hears who calls."""

    def __init__(
        self, *, network: bytes, key: PeerKey, port: int, hint: Callable[[PeerKey, Address], None]
    ) -> None:
        """port: of our UDP socket that others reach. hint: told who may be where."""
        self._own = Beacon(bytes.fromhex(network_label(network)), key.key, port)
        self._hint = hint
        self._second, self._heard = 0, 0

    async def run(self) -> None:
        """Call and hear until cancelled; without multicast only say so."""
        try:
            sock = _socket()
        except OSError as error:
            log.warning("lan_not_searched", reason=error.strerror or "no multicast")
            return
        loop = asyncio.get_running_loop()
        loop.add_reader(sock.fileno(), self._on_readable, sock)
        try:
            while True:
                with contextlib.suppress(OSError):  # no route at present
                    sock.sendto(self._own.encode(), (GROUP, PORT))
                await asyncio.sleep(INTERVAL_S)
        finally:
            loop.remove_reader(sock.fileno())
            sock.close()

    def on_packet(self, data: bytes, address: Address, now_s: float) -> None:
        """Take one packet of the group."""
        beacon = Beacon.decode(data)
        if beacon is None or beacon.label != self._own.label or beacon.key == self._own.key:
            return
        if int(now_s) != self._second:
            self._second, self._heard = int(now_s), 0
        self._heard += 1
        if self._heard <= HINTS_PER_S:
            self._hint(PeerKey(beacon.key), (address[0], beacon.port))

    def _on_readable(self, sock: socket.socket) -> None:
        with contextlib.suppress(OSError):
            for _ in range(HINTS_PER_S):
                data, address = sock.recvfrom(_BEACON.size + 1)
                now_s = asyncio.get_running_loop().time()
                self.on_packet(data, (address[0], address[1]), now_s)


def _socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    try:
        sock.setblocking(False)  # noqa: FBT003 - the standard library's signature
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "SO_REUSEPORT"):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((GROUP, PORT))
        member = socket.inet_aton(GROUP) + socket.inet_aton("0.0.0.0")  # noqa: S104 - any interface
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 1)
    except OSError:
        sock.close()
        raise
    return sock
