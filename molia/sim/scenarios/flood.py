"""A node is asked for a hundred times the handshakes that it has room for; others want in.

This one runs the real endpoint behind the real door, with its rates, cookies and puzzles, and the
real ciphers. The flood's initiations are as good as they can be without a key: their mac1 holds,
and their sources are whoever the attacker names. The network copies no packets here, so that every
byte that is answered is one that was sent.
"""

import random
import resource
import struct
from collections import defaultdict
from typing import Final

from molia.base.config import AdmissionConfig
from molia.base.crypto import Identity, new_seed
from molia.base.hashing import blake2s_mac
from molia.base.now import Now
from molia.sim.delays import PathConfig
from molia.sim.fleet import NETWORK
from molia.sim.net import HEADERS_BYTES, Net, Seat
from molia.sim.report import Bar, Report, at_least, at_most
from molia.sim.scenarios.base import Options
from molia.sim.tally import Tally
from molia.sim.wire_host import WireHost
from molia.sim.world import World
from molia.wire import messages
from molia.wire.addresses import Address
from molia.wire.admission import Admission
from molia.wire.cookies import mac1_key
from molia.wire.effects import SolvePuzzle
from molia.wire.messages import Number
from molia.wire.noise import molia_profile
from molia.wire.packet import INITIATION, INITIATION_SIZE_MIN, MACS
from molia.wire.peer import Peer
from molia.wire.puzzle import PuzzleSolver, PuzzleTrailer
from molia.wire.requests import Ended, Outcome
from molia.wire.transport import Answer, Transport, TransportEvent

TIMES: Final = 100
HANDSHAKE_PERCENT: Final = 1
"""Of a core for handshakes: 55 a second, so that a hundred times that is played in little time."""
HANDSHAKE_S: Final = 180e-6
"""What one costs, as the door reckons before it has measured."""
GUESTS_PER_S: Final = 2.0
FRIENDS: Final = 10
PATIENCE_S: Final = 15.0
_TICK_S: Final = 0.01
_HASH_S: Final = 0.6e-6
_WARM: Final = 0.25
_PROFILE = molia_profile(NETWORK)


class Guest:
    """An honest node that asks the flooded one something."""

    def __init__(self, flood: "Flood", index: int) -> None:
        self.flood = flood
        seeds = flood.world.seeds
        self.identity = Identity(new_seed(seeds.entropy(index, "identity")))
        self.seat = flood.net.seat(index)
        self.host = WireHost(
            flood.net, self.seat, wire=Transport, profile=_PROFILE, identity=self.identity,
            entropy=seeds.entropy(index, "wire"), handlers={},
        )  # fmt: skip
        self.host.on_ended, self.host.on_event = self._on_ended, self._on_event
        self._entropy = seeds.entropy(index, "puzzle")
        self._asked: dict[int, tuple[float, Tally]] = {}

    def ask(self, tally: Tally) -> None:
        """Ask, and put what becomes of it into a tally."""
        now, victim = self.flood.world.now, self.flood.victim
        request_id = self.host.transport.ask_at(
            victim.identity.peer_key, victim.seat.address, Number.PING, b"", now,
            timeout_s=PATIENCE_S,
        )  # fmt: skip
        if request_id is not None:
            self._asked[request_id] = (now.mono_s, tally)
        self.host.settle()

    def _on_ended(self, ended: Ended[Peer], now: Now) -> None:
        asked = self._asked.pop(ended.request_id, None)
        if asked is not None:
            cause = None if ended.outcome is Outcome.REPLIED else ended.outcome.value
            asked[1].add(took_s=now.mono_s - asked[0], deadline_s=PATIENCE_S, cause=cause)

    def _on_event(self, event: TransportEvent, _now: Now) -> None:
        """Solve a puzzle, in the time that the hashes take."""
        if isinstance(event, SolvePuzzle):
            solver = PuzzleSolver(
                responder_key=event.peer.static, ephemeral=event.ephemeral.public,
                effort=event.effort, entropy=self._entropy,
            )  # fmt: skip
            trailer = None
            while trailer is None:
                trailer = solver.solve(4_096)
            self.flood.world.after(solver.tries * _HASH_S, self._on_solved, (event, trailer))

    def _on_solved(self, solved: tuple[SolvePuzzle, PuzzleTrailer]) -> None:
        event, trailer = solved
        self.host.transport.endpoint.on_solved(
            event.peer,
            event.ephemeral,
            trailer,
            self.flood.world.now,
        )
        self.host.settle()


class Victim:
    """The node that is flooded."""

    def __init__(self, flood: "Flood") -> None:
        seeds = flood.world.seeds
        self.identity = Identity(new_seed(seeds.entropy("victim", "identity")))
        self.seat: Seat = flood.net.seat(0)
        self.admission = Admission(
            AdmissionConfig(handshake_percent=HANDSHAKE_PERCENT), network=NETWORK,
            private_network=False,
        )  # fmt: skip
        self.host = WireHost(
            flood.net, self.seat, wire=Transport, profile=_PROFILE, identity=self.identity,
            entropy=seeds.entropy("victim", "wire"), handlers={Number.PING: _pong},
            admission=self.admission,
        )  # fmt: skip

    @property
    def entries(self) -> int:
        """Entries of all that strangers can make it remember."""
        endpoint = self.host.transport.endpoint
        return self.admission.table_entries + endpoint.peer_count + endpoint.session_count


class Flood:
    """The world of this scenario."""

    def __init__(self, options: Options) -> None:
        self.world = World(options.seed)
        self.net = Net(
            self.world, PathConfig(rtt_median_s=options.rtt_ms / 1_000, copied=0.0), expected=500
        )
        self.victim = Victim(self)
        self.rng = self.world.seeds.entropy("flood", "packets").random
        self.key = mac1_key(_PROFILE, self.victim.identity.exchange_key.public)
        self.source = self.net.seat(1)
        self.per_tick = int(TIMES * HANDSHAKE_PERCENT / 100 / HANDSHAKE_S * _TICK_S)
        self.sent = 0
        self.balance: dict[Address, int] = defaultdict(int)
        """Bytes to each named source less bytes from it; guests are not among them."""
        self.net.tap = self._tap
        self.guests, self.friends = Tally(), Tally()

    def _tap(self, seat: Seat, target: Address, data: bytes) -> None:
        if seat is self.victim.seat and target in self.balance:
            self.balance[target] += len(data) + HEADERS_BYTES

    def tick(self, until_ns: int) -> None:
        """Send a hundredth of a second of flood."""
        for _ in range(self.per_tick):
            packet, source = spoofed(self.rng, self.key)
            self.balance[source] -= len(packet) + HEADERS_BYTES
            self.net.spoof(self.source, source, packet, self.victim.seat.address)
            self.sent += 1
        if self.world.t_ns < until_ns:
            self.world.after(_TICK_S, self.tick, until_ns)


def spoofed(rng: random.Random, key: bytes) -> tuple[bytes, Address]:
    """Return an initiation that only lacks a right to be: its mac1 holds, its source is anyone."""
    body = INITIATION + rng.randbytes(INITIATION_SIZE_MIN - 4 - MACS)
    packet = body + blake2s_mac(key, body) + bytes(16)
    first, *rest = struct.unpack("4B", rng.randbytes(4))
    host = ".".join(map(str, (100 + first % 100, *rest)))
    return packet, (host, rng.randrange(1, 65_536))


def _pong(peer: Peer, _request_id: int, _body: bytes, now: Now) -> Answer | None:
    if peer.address is None:
        return None
    seen = (peer.address[0], peer.address[1])
    return Number.PONG, messages.encode(messages.Pong(seen=seen, unix_ms=now.unix_ms, serves=True))


def run(options: Options) -> Report:
    """Measure the honest under a flood of `options.minutes`."""
    it, seconds = Flood(options), 60 * options.minutes
    friends = [Guest(it, 100 + n) for n in range(FRIENDS)]
    for friend in friends:
        friend.ask(Tally())  # they have sessions before it begins
    it.world.run(5.0)
    it.tick(it.world.t_ns + int(seconds * 1e9))
    for n in range(int(seconds * GUESTS_PER_S)):
        it.world.after((n + 0.5) / GUESTS_PER_S, lambda n: Guest(it, 1_000 + n).ask(it.guests), n)
    for n in range(int(seconds)):
        it.world.after(n + 0.25, lambda n: friends[n % FRIENDS].ask(it.friends), n)
    it.world.run(_WARM * seconds)
    entries, memory = it.victim.entries, _memory_bytes()
    it.world.run((1 - _WARM) * seconds)
    grown, held = _memory_bytes() - memory, it.victim.entries - entries
    bits = it.victim.admission.advertised_bits(it.world.now.mono_s)
    it.world.run(PATIENCE_S + 1)
    return _report(options, it, grown_bytes=grown, held=held, bits=bits)


def _report(options: Options, it: Flood, *, grown_bytes: float, held: int, bits: int) -> Report:
    counters = it.victim.host.transport.endpoint.counters
    owed = max(it.balance.values(), default=0)
    report = Report(
        scenario="flood", nodes=options.nodes, seed=options.seed, minutes=options.minutes,
        wire="real", defence=options.defence, trace=it.world.trace.hexdigest(),
        tallies={"strangers": it.guests, "friends": it.friends}, command=options.command,
    )  # fmt: skip
    report.facts = {
        "spoofed initiations": f"{it.sent}, {it.per_tick / _TICK_S:.0f}/s",
        "capacity": f"{HANDSHAKE_PERCENT / 100 / HANDSHAKE_S:.0f} handshakes/s",
        "cost a Diffie-Hellman": counters.bad_initiation,
        "cookie replies": counters.cookies_out,
        "puzzle bits at the end": bits,
        "entries grown after the first quarter": held,
        "memory grown, everything, MB": round(grown_bytes / 1e6, 2),
    }
    report.bars = [
        at_least("strangers that get a session", 0.95, it.guests.success),
        at_least("requests of peers with a session", 0.95, it.friends.success),
        at_most("entries that strangers made it keep, grown", 2_048, held),
        Bar("bytes out beyond bytes in, worst address", "<= 0", str(owed), owed <= 0),
    ]
    return report


def _memory_bytes() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
