"""A process that serves packets on loopback, for the benches of the transport.

Its argument: `find-node` is the shipped transport and pump; `echo` is a bare loop over one socket,
the limit. On each line of its input it prints the CPU time that it has used, user and system, and
how much it served; it ends with its input.
"""

import asyncio
import json
import os
import resource
import select
import socket
import sys

from molia.base.config import AdmissionConfig
from molia.base.crypto import Identity
from molia.base.ids import network_id
from molia.base.now import Now
from molia.node.system import SystemClock, SystemEntropy, calm_collector
from molia.node.udp import UdpDriver, prepare
from molia.wire.admission import Admission
from molia.wire.messages import Number, encode_contact, encode_nodes, find_node_target
from molia.wire.noise import molia_profile
from molia.wire.peer import Peer
from molia.wire.transport import Answer, Transport

SERVER_SEED = b"s" * 32
NETWORK = network_id("bench")
NODES = int(Number.NODES)
ECHO_SIZE = 947
"""A sealed reply with 20 contacts."""


def pin(core: int) -> None:
    """Stay on one core, where the system lets us say so."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[core % len(cores)]})


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


async def serve_transport(sock: socket.socket) -> None:
    """Serve until the input ends."""
    table, clock = Table(), SystemClock()
    transport = Transport(
        molia_profile(NETWORK), identity=Identity(SERVER_SEED), entropy=SystemEntropy(),
        handlers={Number.FIND_NODE: table.find_node},
        admission=Admission(AdmissionConfig(), network=NETWORK, private_network=False),
    )  # fmt: skip
    driver = UdpDriver(transport, clock)
    driver.add(sock)
    ended = asyncio.Event()

    def on_line() -> None:
        if not sys.stdin.readline():
            ended.set()
            return
        report(table.served)

    asyncio.get_running_loop().add_reader(sys.stdin.fileno(), on_line)
    calm_collector()
    await ended.wait()
    driver.close()


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
    pin(0)
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    print(sock.getsockname()[1], flush=True)
    if sys.argv[1] == "echo":
        serve_echo(sock)
    else:
        asyncio.run(serve_transport(sock))


if __name__ == "__main__":
    main()
