"""The network between the hosts of a world: addresses to hosts, delay, loss, boxes, partitions.

Every datagram that is sent goes through `send`, which notes it in the trace before anything can
become of it.
Source: docs/reference/simulator.md, "The network".
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from molia.sim.delays import Bursts, Delays, PathConfig
from molia.sim.nat import Kind, Nat
from molia.sim.places import Places, Spot
from molia.sim.world import NS, World
from molia.wire.addresses import Address

HEADERS_BYTES = 28
"""IPv4 and UDP, which every datagram pays too."""
_CGNAT_GROUP = 8
_INNER = ("100.64.0.1", 7_071)


class Host(Protocol):
    """What is at an address."""

    def on_datagram(self, data: bytes, source: Address) -> None:
        """Take a datagram, now."""
        ...


@dataclass(slots=True)
class NetCounters:
    """What became of datagrams."""

    sent: int = 0
    lost: int = 0
    to_nobody: int = 0
    """To an address where no one is (any more)."""
    boxed: int = 0
    """Stopped by a box in front of the sender or the receiver."""
    parted: int = 0
    """Between two halves of a partition."""


class Seat:
    """Where a host sits: its address, its spot, its box, its link's bad moments."""

    __slots__ = ("address", "bursts", "bytes_in", "bytes_out", "charged_bytes", "host", "nat",
                 "packets_in", "packets_out", "side", "spot")  # fmt: skip

    def __init__(self, address: Address, spot: Spot, nat: Nat | None, bursts: Bursts) -> None:
        self.address, self.spot, self.nat, self.bursts = address, spot, nat, bursts
        self.host: Host | None = None
        """None while nobody is home."""
        self.side = 0
        """Of a partition."""
        self.bytes_in = self.bytes_out = self.packets_in = self.packets_out = 0
        self.charged_bytes = 0
        """Of `bytes_out`, what is on the account of operations."""


class Net:
    """All seats, and the paths between them."""

    def __init__(self, world: World, config: PathConfig, *, expected: int) -> None:
        self.world, self.config = world, config
        self.counters = NetCounters()
        self.places = Places(world.seeds.entropy("net", "places").random, expected=expected)
        self._rng = world.seeds.entropy("net", "fate").random
        sample = Places(world.seeds.entropy("net", "sample").random, expected=expected)
        delay_rng = world.seeds.entropy("net", "delay").random
        self.delays = Delays(config, delay_rng, [sample.spot() for _ in range(2_000)])
        self.seats: dict[Address, Seat] = {}
        """By public address; those behind boxes under each address that is open for them."""
        self.parted = False
        self.lossy = True
        self.tap: Callable[[Seat, Address, bytes], None] | None = None
        """Called with each datagram sent, for checkers."""
        self._shared: str | None = None
        self._shares = 0
        fate = config
        self._lost_below = fate.even_loss
        self._late_below = fate.even_loss + fate.reordered
        self._copied_below = self._late_below + fate.copied

    # ------------------------------------------------------------------ seats

    def seat(self, index: int, *, kind: Kind = Kind.PUBLIC, address: Address | None = None) -> Seat:
        """Return a new seat; nobody sits there yet. address: one's own choice of a public one."""
        bursts = Bursts(self.config, self.world.seeds.entropy(index, "bursts").random)
        spot = self.places.spot()
        if kind is Kind.PUBLIC:
            seat = Seat(address or self.places.address(), spot, None, bursts)
            self.seats[seat.address] = seat
            return seat
        seat = Seat(_INNER, spot, None, bursts)
        seat.nat = Nat(kind, self._public_host(), self.seats, seat)  # type: ignore[arg-type]
        return seat

    def _public_host(self) -> str:
        """Return the public side of a box: eight share one, as behind a carrier's."""
        if self._shared is None or self._shares == _CGNAT_GROUP:
            self._shared, self._shares = self.places.address()[0], 0
        self._shares += 1
        return self._shared

    def rtt_s(self, a: Seat, b: Seat) -> float:
        """Return the round trip of a pair, without jitter."""
        return 2 * self.delays.base_s(a.spot, b.spot)

    # ------------------------------------------------------------------ datagrams

    def send(self, seat: Seat, packets: Sequence[bytes], target: Address) -> None:
        """Send datagrams from a seat."""
        source: Address | None = seat.address
        if seat.nat is not None:
            source = seat.nat.outwards(target, self.world.time_s)
        for data in packets:
            seat.packets_out += 1
            seat.bytes_out += len(data) + HEADERS_BYTES
            self._send(seat, source, target, data)

    def spoof(self, seat: Seat, source: Address, data: bytes, target: Address) -> None:
        """Send a datagram from a seat under an address that is not its own."""
        seat.packets_out += 1
        seat.bytes_out += len(data) + HEADERS_BYTES
        self._send(seat, source, target, data)

    def _send(self, seat: Seat, source: Address | None, target: Address, data: bytes) -> None:
        world, counters = self.world, self.counters
        counters.sent += 1
        world.trace.note(world.t_ns, source or seat.address, target, data)
        if self.tap is not None:
            self.tap(seat, target, data)
        to = self.seats.get(target)
        if to is None or to.host is None:
            counters.to_nobody += 1
            return
        if source is None:
            counters.boxed += 1
            return
        if self.parted and seat.side != to.side:
            counters.parted += 1
            return
        self._fly(seat, to, source, target, data)

    def _fly(self, seat: Seat, to: Seat, source: Address, target: Address, data: bytes) -> None:
        world, copies = self.world, 1
        delay_s = self.delays.draw_s(seat.spot, to.spot)
        if self.lossy:
            fate = self._rng.random()
            if fate < self._copied_below:
                if fate < self._lost_below:
                    self.counters.lost += 1
                    return
                if fate < self._late_below:
                    delay_s *= 1 + self._rng.random() / 2
                else:
                    copies = 2
            struck = self.config.burst_loss and to.bursts.is_bad(world.t_ns / NS)
            if struck and self._rng.random() < self.config.burst_loss:
                self.counters.lost += 1
                return
        at_ns = world.t_ns + int(delay_s * NS)
        world.at(at_ns, self._arrive, (to, source, target, data))
        if copies == 2:
            world.at(at_ns + int(self._rng.random() * delay_s * NS), self._arrive,
                     (to, source, target, data))  # fmt: skip

    def _arrive(self, flight: tuple[Seat, Address, Address, bytes]) -> None:
        seat, source, target, data = flight
        host = seat.host
        if host is None:
            self.counters.to_nobody += 1
            return
        if seat.nat is not None and not seat.nat.lets_in(target[1], source, self.world.time_s):
            self.counters.boxed += 1
            return
        seat.packets_in += 1
        seat.bytes_in += len(data) + HEADERS_BYTES
        host.on_datagram(data, source)
