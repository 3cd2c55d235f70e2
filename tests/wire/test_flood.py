"""A shipped endpoint behind the shipped door, under a flood of spoofed initiations."""

import random
import struct
import tracemalloc
from collections.abc import Callable

from hypothesis import settings

from molia.base.config import AdmissionConfig
from molia.base.hashing import blake2s_mac
from molia.base.now import Now
from molia.sim.entropy import SeededEntropy
from molia.wire.admission import Admission
from molia.wire.cookies import Address, mac1_key
from molia.wire.effects import SolvePuzzle
from molia.wire.messages import Number
from molia.wire.packet import INITIATION, INITIATION_SIZE_MIN, MACS
from molia.wire.peer import Peer
from molia.wire.puzzle import PuzzleSolver
from molia.wire.requests import Ended, Outcome
from molia.wire.transport import Answer, TransportEvent
from tests.wire.net import OURS, Host, Net

FLOOD_PER_S = 16_667
"""A million a minute."""
Record = Callable[[str, object], None]
FUZZING = settings.default.max_examples > 100  # type: ignore[union-attr]
SECONDS = 60 if FUZZING else 2
HONEST = 20


def pong(peer: Peer, request_id: int, body: bytes, now: Now) -> Answer | None:
    """Answer."""
    return Number.PONG, b""


class Honest(Host):
    """Solves what it is asked, at once."""

    def solve(self, net: Net, events: list[TransportEvent]) -> None:
        self.events += events
        for event in events:
            if isinstance(event, SolvePuzzle):
                solver = PuzzleSolver(
                    responder_key=event.peer.static, ephemeral=event.ephemeral.public,
                    effort=event.effort, entropy=SeededEntropy(1),
                )  # fmt: skip
                trailer = None
                while trailer is None:
                    trailer = solver.solve(100_000)
                self.transport.endpoint.on_solved(event.peer, event.ephemeral, trailer, net.now)


def spoofed(rng: random.Random, key: bytes) -> tuple[bytes, Address]:
    """Return an initiation that only lacks a right to be: its mac1 holds, its source is anyone."""
    body = INITIATION + rng.randbytes(INITIATION_SIZE_MIN - 4 - MACS)
    packet = body + blake2s_mac(key, body) + bytes(16)
    host = ".".join(map(str, struct.unpack("4B", rng.randbytes(4))))
    return packet, (host, rng.randrange(1, 65_536))


def test_honest_peers_get_through_a_flood_memory_is_flat_and_nothing_is_amplified(
    record_property: Record,
) -> None:
    rng = random.Random(7)
    door = Admission(AdmissionConfig(), network=bytes(32), private_network=False)
    node = Host(1, {Number.PING: pong}, admission=door, address=("192.0.2.1", 7071))
    key = mac1_key(OURS, node.identity.exchange_key.public)
    peers = [Honest(n + 2, address=(f"198.51.{n}.7", 7071)) for n in range(HONEST)]
    net = Net([node, *peers])
    for peer in peers:
        peer.on_events = lambda events, peer=peer: peer.solve(net, events)  # type: ignore[misc]
    sent = got = 0
    start = net.now
    tracemalloc.start()
    level = 0
    for tick in range(SECONDS * 20):
        for _ in range(FLOOD_PER_S // 20):
            packet, address = spoofed(rng, key)
            answer = node.transport.datagram(packet, address, net.now)
            sent += len(packet)
            got += len(answer) if answer is not None else 0
        if tick == 19:
            level = tracemalloc.get_traced_memory()[0]
        for peer in peers[tick * HONEST // (SECONDS * 20) : (tick + 1) * HONEST // (SECONDS * 20)]:
            asked = net.connect(peer, node)
            peer.transport.ask(asked, Number.PING, b"", net.now, timeout_s=15.0)
        net.run(0.05)
    grown = tracemalloc.get_traced_memory()[0] - level
    tracemalloc.stop()
    net.run(15.0)
    outcomes = [e.outcome for p in peers for e in p.events if isinstance(e, Ended)]
    through = outcomes.count(Outcome.REPLIED)
    counters = node.transport.endpoint.counters
    record_property(
        "summary",
        f"flood: {SECONDS * FLOOD_PER_S:,} spoofed initiations in "
        f"{net.now.mono_s - start.mono_s - 15:.0f} s, {counters.bad_initiation:,} cost a "
        f"Diffie-Hellman, {through} of {HONEST} honest peers through, memory "
        f"{grown / 1e6:+.2f} MB, {got / sent:.2f} bytes out for a byte in",
    )
    assert len(outcomes) == HONEST
    assert through >= 0.95 * HONEST
    assert grown < 8_000_000
    assert got <= sent
    assert node.transport.endpoint.peer_count <= HONEST + 1_024
