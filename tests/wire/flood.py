"""A node under a flood, in virtual time: an admission core, a core's worth of time, honest peers.

Nothing here waits: a heap of events stands for the network. Honest peers do what an endpoint does:
they take a cookie, solve what is asked, try again after 5 s, and give up after three tries.
"""

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from molia.base.config import AdmissionConfig
from molia.base.now import Now
from molia.wire.admission import Admission
from molia.wire.gate import Verdict
from molia.wire.limiter import AsnOf
from molia.wire.puzzle import NO_PUZZLE, Effort, PuzzleSolver, PuzzleTrailer
from tests.wire.doubles import Seeded, at

HANDSHAKE_S = 150e-6
COOKIE_S = 10e-6
RETRY_S = 5.0
RTT_S = 0.1
RESPONDER = bytes(range(32))
HASH_S = 0.6e-6

Address = tuple[str, int]


@dataclass(eq=False)
class Honest:
    """A peer that wants a session."""

    address: Address
    seed: int
    tries: int = 0
    cookie: bool = False
    effort: Effort | None = None
    done: bool = False


@dataclass
class Tally:
    """What became of everything."""

    honest: int = 0
    honest_in: int = 0
    flood: int = 0
    flood_in: int = 0
    cookies: int = 0
    bits_max: int = 0
    lost: int = 0
    trace: list[tuple[float, str]] = field(default_factory=list)

    @property
    def success(self) -> float:
        """The share of honest peers that got in."""
        return self.honest_in / self.honest


class World:
    """One worker with one core, and what arrives at it."""

    def __init__(self, seed: int, *, asn_of: AsnOf | None = None) -> None:
        self.random = random.Random(seed)
        self.admission = Admission(
            AdmissionConfig(), network=bytes(32), private_network=False, asn_of=asn_of
        )
        self.tally = Tally()
        self.busy_until_s = 0.0
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = itertools.count()

    def at(self, when_s: float, what: Callable[[float], None]) -> None:
        """Let something happen."""
        heapq.heappush(self._events, (when_s, next(self._order), what))

    def run(self, until_s: float) -> Tally:
        """Play everything that happens until then."""
        while self._events and self._events[0][0] <= until_s:
            now_s, _, what = heapq.heappop(self._events)
            what(now_s)
        return self.tally

    def _spend(self, cost_s: float, now_s: float) -> bool:
        """Take time of the core; False when its socket's queue, 50 ms of work, is full."""
        if self.busy_until_s > now_s + 0.05:
            self.tally.lost += 1
            return False
        self.busy_until_s = max(self.busy_until_s, now_s) + cost_s
        return True

    def arrive(
        self, address: Address, *, cookie: bool, ephemeral: bytes, trailer: PuzzleTrailer,
        now_s: float,
    ) -> tuple[bool, Effort | None]:  # fmt: skip
        """Do what an endpoint does; return whether a session came, or what a cookie asks."""
        now = at(now_s)
        if self.admission.under_load(now_s) and not cookie:
            return False, self._cookie(address, now)
        verdict = self.admission.admit(address, ephemeral, trailer, RESPONDER, now)
        if verdict is Verdict.PUZZLE:
            return False, self._cookie(address, now)
        if verdict is Verdict.RATE or not self._spend(HANDSHAKE_S, now_s):
            return False, None
        self.admission.on_handshake(now, cost_s=HANDSHAKE_S)
        return True, None

    def _cookie(self, address: Address, now: Now) -> Effort | None:
        if not self._spend(COOKIE_S, now.mono_s):
            return None
        self.tally.cookies += 1
        effort = self.admission.effort(now, address)
        self.tally.bits_max = max(self.tally.bits_max, effort.bits)
        return effort

    # -- who comes

    def honest_peer(self, address: Address, start_s: float) -> None:
        """Let an honest peer come."""
        self.tally.honest += 1
        peer = Honest(address, self.random.getrandbits(32))
        self.at(start_s, lambda now_s: self._honest_try(peer, now_s))

    def _honest_try(self, peer: Honest, now_s: float) -> None:
        if peer.done or peer.tries > 2:
            return
        peer.tries += 1
        tries = peer.tries
        self._honest_send(peer, now_s)
        self.at(
            now_s + RETRY_S,
            lambda later_s: self._honest_try(peer, later_s) if peer.tries == tries else None,
        )

    def _honest_send(self, peer: Honest, now_s: float) -> None:
        entropy = Seeded(peer.seed)
        peer.seed += 1
        ephemeral, trailer, solving_s = entropy.token(32), NO_PUZZLE, 0.0
        if peer.effort is not None and peer.effort.bits:
            work = PuzzleSolver(
                responder_key=RESPONDER, ephemeral=ephemeral, effort=peer.effort, entropy=entropy
            )
            found = None
            while found is None:
                found = work.solve(1024)
            trailer, solving_s = found, work.tries * HASH_S

        def arrive(then_s: float) -> None:
            if peer.done:
                return
            admitted, effort = self.arrive(
                peer.address, cookie=peer.cookie, ephemeral=ephemeral, trailer=trailer,
                now_s=then_s,
            )  # fmt: skip
            if admitted:
                peer.done = True
                self.tally.honest_in += 1
                self.tally.trace.append((round(then_s, 6), peer.address[0]))
            elif effort is not None:
                peer.cookie, peer.effort = True, effort
                self.at(then_s + RTT_S / 2, lambda back_s: self._honest_send(peer, back_s))

        self.at(now_s + solving_s + RTT_S / 2, arrive)

    def flood_of(
        self, rate: float, start_s: float, stop_s: float, *, source: Callable[[int], Address],
        cookie: bool, trailer: Callable[[int], PuzzleTrailer] = lambda _: NO_PUZZLE,
    ) -> None:  # fmt: skip
        """Let initiations of nobody come at a rate; source: who it says it is."""

        def one(now_s: float, n: int = 0) -> None:
            self.tally.flood += 1
            admitted, _ = self.arrive(
                source(n), cookie=cookie, ephemeral=n.to_bytes(32, "little"), trailer=trailer(n),
                now_s=now_s,
            )  # fmt: skip
            self.tally.flood_in += admitted
            then_s = now_s + 1 / rate
            if then_s < stop_s:
                self.at(then_s, lambda later_s: one(later_s, n + 1))

        self.at(start_s, one)


def public_host(number: int) -> str:
    """Return a public IPv4 address for a number, spread over the whole space."""
    spread = number * 2_654_435_761 & 0xFFFF_FFFF
    first = 11 + spread % 88
    return f"{first}.{spread >> 8 & 255}.{spread >> 16 & 255}.{spread >> 24}"
