"""Requests over the encrypted transport: what a served one costs, beside a bare echo loop.

The server is a process of its own on one core, the asker another on the other: it seals its
requests beforehand, so that it never is what is measured.
"""

import json
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from molia.base.crypto import Identity
from molia.node.system import SystemClock, SystemEntropy
from molia.wire.messages import FindNode, Number, decode, encode
from molia.wire.noise import molia_profile
from molia.wire.peer import Peer
from molia.wire.requests import HEAD, REPLY, REQUEST, pack
from molia.wire.transport import Transport
from tests.bench.report import Figure, against_number, alternate_many
from tests.bench.wire_server import NETWORK, SERVER_SEED, pin

ROOT = Path(__file__).parents[2]
OUTSTANDING = 256
SESSIONS = 64
WAVE = 64
HANDSHAKE_GAP_S = 0.06
"""One address gets 20 handshakes a second."""
REPLY_S = 10.0


class Served:
    """A server process, asked for its counters over its input."""

    def __init__(self, mode: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.wire_server", mode], cwd=ROOT,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def used(self) -> dict[str, Any]:
        """Return the CPU seconds used and the packets served so far."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(file=self.process.stdin, flush=True)
        line: dict[str, Any] = json.loads(self.process.stdout.readline())
        return line

    def stop(self) -> None:
        """End it."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait(30)


@contextmanager
def served(mode: str) -> Iterator[Served]:
    """Serve while the block runs."""
    server = Served(mode)
    try:
        yield server
    finally:
        server.stop()


def connected(sock: socket.socket, port: int, number: int) -> tuple[Transport, Peer]:
    """Return an asker with a session to the server."""
    clock, seed = SystemClock(), number.to_bytes(32, "big")
    asker = Transport(
        molia_profile(NETWORK), identity=Identity(seed), entropy=SystemEntropy(), handlers={}
    )
    peer = asker.connect(Identity(SERVER_SEED).peer_key, ("127.0.0.1", port), clock.now())
    assert peer is not None
    deadline_s = time.monotonic() + REPLY_S
    while peer.current is None or peer.waiting:
        for packets, address in asker.take_sends(clock.now()):
            for packet in packets:
                sock.sendto(packet, address)
        if peer.current is not None:
            break
        assert time.monotonic() < deadline_s, "no session"
        asker.datagram(sock.recvfrom(2048)[0], ("127.0.0.1", port), clock.now())
    return asker, peer


def sealed_requests(
    askers: list[tuple[Transport, Peer]], count: int
) -> tuple[list[bytes], dict[bytes, tuple[Transport, Peer]]]:
    """Return sealed FIND_NODE requests, the sessions in turn, and who opens the replies."""
    entropy = SystemEntropy()
    packets = []
    for number in range(count):
        _, peer = askers[number % len(askers)]
        assert peer.current is not None
        body = encode(FindNode(entropy.token(32)))
        packets.append(peer.current.seal(pack(REQUEST, number, Number.FIND_NODE, body)))
    by_index = {peer.current.index: (asker, peer) for asker, peer in askers if peer.current}
    return packets, by_index


def ask_all(sock: socket.socket, packets: list[bytes], port: int) -> tuple[float, list[bytes]]:
    """Send all with OUTSTANDING under way; return the seconds and the replies.

    New ones go out in waves, so that the server never waits for one: it is to be saturated.
    """
    address = ("127.0.0.1", port)
    replies: list[bytes] = []
    left = iter(packets)
    send, receive, keep = sock.sendto, sock.recv, replies.append
    started_s = time.perf_counter()
    for packet in islice(left, OUTSTANDING):
        send(packet, address)
    while len(replies) < len(packets):
        for _ in range(min(WAVE, len(packets) - len(replies))):
            keep(receive(2048))
        for packet in islice(left, WAVE):
            send(packet, address)
    return time.perf_counter() - started_s, replies


def asking_socket() -> socket.socket:
    """Return a socket with room for all that may be under way."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    sock.bind(("127.0.0.1", 0))
    # not settimeout: that asks the kernel twice for each packet, and it is not the asker's turn
    wait = struct.pack("@ll", int(REPLY_S), 0)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, wait)
    return sock


def check(replies: list[bytes], by_index: dict[bytes, tuple[Transport, Peer]]) -> None:
    """Open some of the replies: they must be NODES with 20 contacts."""
    for packet in replies[:: max(1, len(replies) // 500)]:
        _, peer = by_index[packet[4:8]]
        assert peer.current is not None
        plaintext = peer.current.open(packet, time.monotonic())
        assert plaintext is not None
        assert HEAD.unpack_from(plaintext)[0] == REPLY
        nodes = decode(HEAD.unpack_from(plaintext)[3], plaintext[HEAD.size :])
        assert nodes is not None
        assert len(nodes.contacts) == 20  # type: ignore[union-attr]


def bench_requests(folder: Path, scale: float) -> Iterator[Figure]:
    """FIND_NODE with 20 contacts in the reply, sealed, over real UDP; 256 outstanding."""
    count = max(2_000, int(100_000 * scale))
    pin(1)

    def requests() -> tuple[float, ...]:
        with served("find-node") as server, asking_socket() as sock:
            askers = []
            for number in range(SESSIONS):
                time.sleep(HANDSHAKE_GAP_S)
                askers.append(connected(sock, server.port, number + 1))
            warm, _ = sealed_requests(askers, 1_000)
            packets, by_index = sealed_requests(askers, count)
            ask_all(sock, warm, server.port)
            before = server.used()
            took_s, replies = ask_all(sock, packets, server.port)
            after = server.used()
            check(replies, by_index)
            return cost(before, after, took_s)

    def echoes() -> tuple[float, ...]:
        with served("echo") as server, asking_socket() as sock:
            packets = [bytes(78)] * count
            before = server.used()
            took_s, _ = ask_all(sock, packets, server.port)
            after = server.used()
            return cost(before, after, took_s)

    ours, bare = alternate_many(3, requests, echoes)
    yield against_number("served FIND_NODE, sealed, CPU", ours[0], "us", bare[0], at_most=12.0)
    yield against_number("of it user, per packet", ours[1] / 2, "us", bare[1] / 2, at_most=6.0)
    yield against_number("of it system, per packet", ours[2] / 2, "us", bare[2] / 2, at_most=6.0)
    yield against_number(
        "served FIND_NODE per core", 1e6 / ours[0], "/s", 1e6 / bare[0], at_least=80_000.0
    )
    yield against_number("the same, on the clock", ours[3], "/s", bare[3], at_least=80_000.0)


def cost(before: dict[str, Any], after: dict[str, Any], took_s: float) -> tuple[float, ...]:
    """Return microseconds of CPU a request, of it user and system, and requests a second."""
    count = after["served"] - before["served"]
    user_s = after["user_s"] - before["user_s"]
    system_s = after["system_s"] - before["system_s"]
    return (
        (user_s + system_s) / count * 1e6, user_s / count * 1e6, system_s / count * 1e6,
        count / took_s,
    )  # fmt: skip
