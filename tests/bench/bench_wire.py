"""The transport over real sockets: what a served request and a bulk stream cost, beside bare loops.

The server is a process of its own on one core, the asker another on the other: it seals its
requests beforehand, so that it never is what is measured.
"""

import asyncio
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

from molia.base.crypto import Aead, Identity
from molia.node.steering import open_udp
from molia.node.system import SystemClock, SystemEntropy, calm_collector, usable_cores
from molia.wire.channel import SEAL_OVERHEAD
from molia.wire.dht_messages import Get
from molia.wire.messages import FindNode, Message, Nodes, Number, decode, encode
from molia.wire.noise import molia_profile
from molia.wire.peer import Peer
from molia.wire.requests import HEAD, REPLY, REQUEST, Ended, pack
from molia.wire.stream_frames import STREAM_OVERHEAD
from molia.wire.transport import Transport
from tests.bench.report import Figure, against_limit, against_number, alternate_many
from tests.bench.wire_server import (
    FRAME_SIZE,
    NETWORK,
    SERVER_SEED,
    SINK,
    bench_network,
    pinned,
    usable,
)

ROOT = Path(__file__).parents[2]
OUTSTANDING = 256
SESSIONS = 64
WAVE = 64
REPLY_S = 10.0
BULK_PACKET = 1_376
CORES = usable()
"""What there is before anybody is pinned: a child inherits where its parent stays."""


class Served:
    """A server process, asked for its counters over its input."""

    def __init__(
        self, mode: str, handed: int = -1, worker: int = 0, *, module: str = "wire_server"
    ) -> None:
        arguments = [mode, str(handed), str(worker), *map(str, CORES)]
        command = [sys.executable, "-m", f"tests.bench.{module}", *arguments]
        self.process = subprocess.Popen(
            command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            pass_fds=[handed] if handed >= 0 else [],
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
        assert self.process.stdout is not None
        self.process.stdout.close()


@contextmanager
def served(mode: str, *, module: str = "wire_server") -> Iterator[Served]:
    """Serve while the block runs."""
    server = Served(mode, module=module)
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


def move(asker: Transport, peer: Peer, sock: socket.socket, port: int) -> None:
    """Let a session follow its asker to another socket; that address is proved afterwards."""
    clock, address = SystemClock(), ("127.0.0.1", port)

    def ask() -> int:
        body = encode(FindNode(bytes(32)))
        return asker.ask(peer, Number.FIND_NODE, body, clock.now(), timeout_s=REPLY_S)

    def exchange() -> None:
        for packets, _ in asker.take_sends(clock.now()):
            for packet in packets:
                sock.sendto(packet, address)
        answer = asker.datagram(sock.recv(2048), address, clock.now())
        if answer is not None:
            sock.sendto(answer, address)

    first = ask()
    exchange()  # too much for an unproved address: it is asked to prove itself instead, and does
    asker.requests.cancel(first)
    ask()
    while not any(isinstance(event, Ended) for event in asker.take_events()):
        exchange()


def random_node() -> FindNode:
    """Return a request for what is near a random target."""
    return FindNode(SystemEntropy().token(32))


def sealed_requests(
    askers: list[tuple[Transport, Peer]], count: int,
    make: Callable[[], FindNode | Get] = random_node,
) -> tuple[list[bytes], dict[bytes, tuple[Transport, Peer]]]:  # fmt: skip
    """Return sealed requests, the sessions in turn, and who opens the replies."""
    packets = []
    for number in range(count):
        _, peer = askers[number % len(askers)]
        assert peer.current is not None
        message = make()
        packets.append(peer.current.seal(pack(REQUEST, number, message.number, encode(message))))
    by_index = {peer.current.index: (asker, peer) for asker, peer in askers if peer.current}
    return packets, by_index


def ask_all(sock: socket.socket, packets: list[bytes], port: int) -> tuple[float, list[bytes]]:
    """Send all with OUTSTANDING under way; return the seconds and the replies.

    The asker never sleeps: on loopback waking it would be charged to the server's sends, which
    no network card does. New requests go out in waves, so that the server never waits for one.
    """
    address = ("127.0.0.1", port)
    replies: list[bytes] = []
    left = iter(packets)
    send, receive, keep = sock.sendto, sock.recv, replies.append
    started_s = time.perf_counter()
    for packet in islice(left, OUTSTANDING):
        send(packet, address)
    while len(replies) < len(packets):
        wave = min(len(replies) + WAVE, len(packets))
        last_s = time.perf_counter()
        while len(replies) < wave:
            try:
                keep(receive(2048, socket.MSG_DONTWAIT))
            except BlockingIOError:
                assert time.perf_counter() - last_s < REPLY_S, "a reply is missing"
        for packet in islice(left, WAVE):
            send(packet, address)
    return time.perf_counter() - started_s, replies


def asking_socket() -> socket.socket:
    """Return a socket with room for all that may be under way."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
    sock.bind(("127.0.0.1", 0))
    sock.settimeout(REPLY_S)
    return sock


def has_contacts(message: Message | None) -> bool:
    """Tell whether an answer is NODES with 20 contacts."""
    return isinstance(message, Nodes) and len(message.contacts) == 20


def check(
    replies: list[bytes], by_index: dict[bytes, tuple[Transport, Peer]],
    is_good: Callable[[Message | None], bool] = has_contacts,
) -> None:  # fmt: skip
    """Open some of the replies: they must be good."""
    for packet in replies[:: max(1, len(replies) // 500)]:
        _, peer = by_index[packet[4:8]]
        assert peer.current is not None
        plaintext = peer.current.open(packet, time.monotonic())
        assert plaintext is not None
        assert HEAD.unpack_from(plaintext)[0] == REPLY
        assert is_good(decode(HEAD.unpack_from(plaintext)[3], plaintext[HEAD.size :]))


def serving_cost(
    count: int, *, module: str = "wire_server", make: Callable[[], FindNode | Get] = random_node,
    is_good: Callable[[Message | None], bool] = has_contacts,
) -> tuple[float, ...]:  # fmt: skip
    """Return what `cost` says of so many requests to a server that has served some before."""
    with served("find-node", module=module) as server, asking_socket() as sock:
        askers = [connected(sock, server.port, number + 1) for number in range(SESSIONS)]
        warm, _ = sealed_requests(askers, 1_000, make)
        packets, by_index = sealed_requests(askers, count, make)
        ask_all(sock, warm, server.port)
        before = server.used()
        took_s, replies = ask_all(sock, packets, server.port)
        after = server.used()
        check(replies, by_index, is_good)
        return cost(before, after, took_s)


def bench_requests(folder: Path, scale: float) -> Iterator[Figure]:
    """FIND_NODE with 20 contacts in the reply, sealed, over real UDP; 256 outstanding."""
    count = max(20_000, int(100_000 * scale))

    def echoes() -> tuple[float, ...]:
        with served("echo") as server, asking_socket() as sock:
            packets = [bytes(78)] * count
            before = server.used()
            took_s, _ = ask_all(sock, packets, server.port)
            after = server.used()
            return cost(before, after, took_s)

    with pinned(CORES, 1):
        ours, bare = alternate_many(3 if scale >= 0.1 else 1, lambda: serving_cost(count), echoes)
    yield against_number("served FIND_NODE, sealed, CPU", ours[0], "us", bare[0], at_most=12.0)
    yield against_number("of it user, per packet", ours[1] / 2, "us", bare[1] / 2, at_most=6.0)
    yield against_number("of it system, per packet", ours[2] / 2, "us", bare[2] / 2, at_most=6.0)
    yield against_number(
        "served FIND_NODE per core", 1e6 / ours[0], "/s", 1e6 / bare[0], at_least=80_000.0
    )
    yield against_number("the same, on the clock", ours[3], "/s", bare[3], at_least=80_000.0)


def bench_workers(folder: Path, scale: float) -> Iterator[Figure]:
    """The same requests to one port that two workers serve, beside one worker.

    The sessions begin on sockets of their own, so that the kernel spreads them, and then move to
    the one that asks. Where no core is left for the asker, the clock says nothing of two workers:
    there the CPU of a request is compared, which must not rise.
    """
    count = max(20_000, int(100_000 * scale))

    def requests(workers: int) -> tuple[float, ...]:
        with closing(open_udp(("127.0.0.1:0",), workers)) as group, ExitStack() as held:
            servers = []
            for worker, (sock,) in enumerate(group.by_worker):
                servers.append(Served("find-node", sock.fileno(), worker))
                held.callback(servers[-1].stop)
            port, asking = servers[0].port, held.enter_context(asking_socket())
            askers = []
            for number in range(SESSIONS):
                with asking_socket() as first:
                    askers.append(connected(first, port, number + 1))
                move(*askers[-1], asking, port)
            packets, by_index = sealed_requests(askers, count)
            before = [server.used() for server in servers]
            took_s, replies = ask_all(asking, packets, port)
            after = [server.used() for server in servers]
            check(replies, by_index)
            shares = [b["served"] - a["served"] for a, b in zip(before, after, strict=True)]
            assert min(shares) > 0, "the kernel spreads the sessions"
            return cost(summed(before), summed(after), took_s)

    with pinned(CORES, 2):
        rounds = 3 if scale >= 0.1 else 1
        one, two = alternate_many(rounds, lambda: requests(1), lambda: requests(2))
    yield against_limit(
        "two workers: CPU of a request, beside one worker's", two[0], "us", one[0], at_most=2 / 1.8
    )
    if usable_cores() > 2:
        yield against_limit(
            "two workers: requests on the clock", two[3], "/s", one[3], at_least=1.8
        )
    else:
        print("two workers on the clock: not measured, 2 cores leave none for who asks")


def summed(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the sums of what several servers used."""
    return {name: sum(row[name] for row in rows) for name in rows[0]}


def bench_bulk(folder: Path, scale: float) -> Iterator[Figure]:
    """One stream between two processes over loopback, beside TCP with sealed frames of 64 KiB."""
    size = max(8 << 20, int((400 << 20) * scale))

    def ours() -> tuple[float, ...]:
        with served("sink") as server:
            return asyncio.run(send_stream(server, size))

    def tcp() -> tuple[float, ...]:
        with served("tcp-sink") as server:
            return send_frames(server, size)

    with pinned(CORES, 1):
        stream, bare = alternate_many(3 if scale >= 0.1 else 1, ours, tcp)
    # a packet's worth of TCP is what 1,376 bytes of UDP payload carry of a stream
    for at, side in ((0, "sending"), (1, "receiving")):
        yield against_number(
            f"bulk stream, {side}, CPU per packet", stream[at], "us", bare[at], at_most=3.5
        )
    yield against_number("bulk stream, a core each", stream[2], "MB/s", bare[2], at_least=200.0)


async def send_stream(server: Served, size: int) -> tuple[float, ...]:
    """Send `size` bytes; return us of CPU per packet of 1,376 bytes on both sides, and MB/s."""
    network = bench_network(b"c" * 32, {})
    piece = os.urandom(1 << 20)
    with asking_socket() as sock:
        running = asyncio.ensure_future(network.run([sock]))
        await asyncio.sleep(0)
        calm_collector()
        (pump,) = network.driver.pumps
        key, address = Identity(SERVER_SEED).peer_key, ("127.0.0.1", server.port)
        async with network.open_stream(key, address, SINK) as stream:
            for _ in range(32):  # out of slow start
                await stream.send(piece)
            before, used, sent = server.used(), own_cpu_s(), pump.counters.bytes_out
            started_s = time.perf_counter()
            for _ in range(size // len(piece)):
                await stream.send(piece)
            await stream.finish()
            took_s = time.perf_counter() - started_s
            packets = (pump.counters.bytes_out - sent) / BULK_PACKET
            ours_us = (own_cpu_s() - used) / packets * 1e6
            after = server.used()
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
    theirs_s = after["user_s"] + after["system_s"] - before["user_s"] - before["system_s"]
    return ours_us, theirs_s / packets * 1e6, size / took_s / 1e6


def send_frames(server: Served, size: int) -> tuple[float, ...]:
    """The same over TCP, in sealed frames of 64 KiB; a packet's worth is 1,310 bytes of content."""
    key, piece = Aead(bytes(32)), os.urandom(FRAME_SIZE)
    before, used = server.used(), own_cpu_s()
    started_s = time.perf_counter()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        for number in range(size // FRAME_SIZE):
            connection.sendall(key.encrypt(number.to_bytes(12, "little"), piece, None))
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1)
    took_s = time.perf_counter() - started_s
    ours_s, after = own_cpu_s() - used, server.used()
    packets = size / (BULK_PACKET - STREAM_OVERHEAD - SEAL_OVERHEAD)
    theirs_s = after["user_s"] + after["system_s"] - before["user_s"] - before["system_s"]
    return ours_s / packets * 1e6, theirs_s / packets * 1e6, size / took_s / 1e6


def own_cpu_s() -> float:
    """Return the CPU seconds of this process, user and system."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def cost(before: dict[str, Any], after: dict[str, Any], took_s: float) -> tuple[float, ...]:
    """Return microseconds of CPU a request, of it user and system, and requests a second."""
    count = after["served"] - before["served"]
    user_s = after["user_s"] - before["user_s"]
    system_s = after["system_s"] - before["system_s"]
    return (
        (user_s + system_s) / count * 1e6, user_s / count * 1e6, system_s / count * 1e6,
        count / took_s,
    )  # fmt: skip
