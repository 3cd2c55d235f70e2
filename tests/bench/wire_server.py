"""A process that serves packets on loopback, for the benches of the transport.

Its arguments are a mode, the number of a socket that it was handed or -1, which worker it is, and
the cores to choose from.
`find-node` serves requests and `sink` takes streams, both with the shipped transport
and pump; their limits are `echo`, a bare loop over one socket, and `tcp-sink`, which opens sealed
frames of 64 KiB. On each line of its input it prints the CPU time that it has used, user and
system, and how much it served; it ends with its input.
"""

import asyncio
import json
import logging
import os
import resource
import select
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import structlog

from molia.base.config import AdmissionConfig
from molia.base.crypto import TAG_SIZE, Aead, Identity
from molia.base.ids import network_id
from molia.base.now import Now
from molia.node.network import Network, NetworkSettings, StreamHandler
from molia.node.offload import Offload
from molia.node.peer_streams import PeerStream
from molia.node.system import SystemClock, SystemEntropy, calm_collector
from molia.node.udp import UdpDriver, prepare
from molia.wire.admission import Admission
from molia.wire.handshake import EndpointConfig
from molia.wire.messages import Number, encode_contact, encode_nodes, find_node_target
from molia.wire.noise import molia_profile
from molia.wire.peer import Peer
from molia.wire.transport import Answer, Transport

SERVER_SEED = b"s" * 32
NETWORK = network_id("bench")
NODES = int(Number.NODES)
SINK = 200
FRAME_SIZE = 64 * 1024
ECHO_SIZE = 947
"""A sealed reply with 20 contacts."""


def usable() -> list[int]:
    """Return the cores that this process may use; none where the system does not say."""
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []


@contextmanager
def pinned(cores: Sequence[int], place: int) -> Iterator[None]:
    """Stay on one of some cores while the block runs."""
    if not cores:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {cores[place % len(cores)]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def contacts_of(count: int) -> list[bytes]:
    """Return encoded contacts."""
    return [
        encode_contact(os.urandom(32), (f"10.1.{n >> 8}.{n & 255}", 7071)) for n in range(count)
    ]


class Table:
    """Stands where the routing table will: 1,000 contacts, any 20 of them answer a target."""

    def __init__(self) -> None:
        self.served = 0
        self._contacts = contacts_of(1_000)

    def find_node(self, peer: Peer, request_id: int, body: bytes, now: Now) -> Answer | None:
        target = find_node_target(body)
        if target is None:
            return None
        self.served += 1
        first = target[0] * 3
        return NODES, encode_nodes(self._contacts[first : first + 20])


def report(served: int) -> None:
    """Print what was used so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    line = {"user_s": used.ru_utime, "system_s": used.ru_stime, "served": served}
    print(json.dumps(line), flush=True)


async def serve_transport(sock: socket.socket, worker: int) -> None:
    """Serve until the input ends."""
    table, clock = Table(), SystemClock()
    transport = Transport(
        molia_profile(NETWORK), identity=Identity(SERVER_SEED), entropy=SystemEntropy(),
        handlers={Number.FIND_NODE: table.find_node},
        admission=Admission(AdmissionConfig(), network=NETWORK, private_network=False),
        config=EndpointConfig(worker=worker),
    )  # fmt: skip
    driver = UdpDriver(transport, clock)
    driver.add(sock)
    calm_collector()
    await answer_lines(lambda: table.served)
    driver.close()


async def answer_lines(served: Callable[[], int]) -> None:
    """Report on each line of the input, to its end."""
    ended = asyncio.Event()

    def on_line() -> None:
        if not sys.stdin.readline():
            ended.set()
            return
        report(served())

    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), on_line)
    await ended.wait()


async def serve_sink(sock: socket.socket) -> None:
    """Read every stream to its end; what is served are packets."""

    async def sink(stream: PeerStream) -> None:
        while await stream.receive():
            pass

    network = bench_network(SERVER_SEED, {SINK: sink})
    serving = asyncio.ensure_future(network.run([sock]))
    calm_collector()
    await asyncio.sleep(0)
    (pump,) = network.driver.pumps
    await answer_lines(lambda: pump.counters.packets_in)
    serving.cancel()


def bench_network(seed: bytes, handlers: Mapping[int, StreamHandler]) -> Network:
    """Return the network of a node of the bench."""
    settings = NetworkSettings(
        identity=Identity(seed), name="bench", admission=AdmissionConfig()
    )  # fmt: skip
    return Network(settings, Offload(1), clock=SystemClock(), stream_handlers=handlers)


def serve_tcp_sink(listener: socket.socket) -> None:
    """Open the sealed frames of one connection after another; what is served are frames."""
    served = 0
    key = Aead(bytes(32))
    buffer = memoryview(bytearray(FRAME_SIZE + TAG_SIZE))
    while True:
        readable, _, _ = select.select([listener, sys.stdin], [], [])
        if sys.stdin in readable:
            if not sys.stdin.readline():
                return
            report(served)
            continue
        with listener.accept()[0] as connection:
            number = 0
            while connection.recv_into(buffer, len(buffer), socket.MSG_WAITALL) == len(buffer):
                key.decrypt(number.to_bytes(12, "little"), buffer, None)
                number += 1
            served += number
            connection.sendall(b"x")


def serve_echo(sock: socket.socket) -> None:
    """Answer every datagram with one of the size of a reply, with nothing in between."""
    served = 0
    answer = bytes(ECHO_SIZE)
    prepare(sock)
    while True:
        readable, _, _ = select.select([sock, sys.stdin], [], [])
        if sys.stdin in readable:
            if not sys.stdin.readline():
                return
            report(served)
        try:
            while True:
                _, address = sock.recvfrom(2048)
                sock.sendto(answer, address)
                served += 1
        except BlockingIOError:
            pass


def main() -> None:
    """Serve on a port that is printed first."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    mode, handed, worker = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    with pinned([int(core) for core in sys.argv[4:]], worker):
        serve(mode, socket.socket(fileno=handed) if handed >= 0 else bound(mode), worker)


def bound(mode: str) -> socket.socket:
    """Return a socket of the mode's kind."""
    kind = socket.SOCK_STREAM if mode == "tcp-sink" else socket.SOCK_DGRAM
    sock = socket.socket(socket.AF_INET, kind)
    sock.bind(("127.0.0.1", 0))
    if mode == "tcp-sink":
        sock.listen()
    return sock


def serve(mode: str, sock: socket.socket, worker: int) -> None:
    """Serve in one of the modes until the input ends."""
    print(sock.getsockname()[1], flush=True)
    if mode == "echo":
        serve_echo(sock)
    elif mode == "tcp-sink":
        serve_tcp_sink(sock)
    else:
        asyncio.run(serve_sink(sock) if mode == "sink" else serve_transport(sock, worker))


if __name__ == "__main__":
    main()
