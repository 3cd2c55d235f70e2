"""Transports on a simulated network, driven as by the pump: virtual time, seeded faults."""

import heapq
from collections.abc import Callable, Mapping, Sequence

from molia.base.crypto import Identity
from molia.base.ids import network_id
from molia.base.now import Now
from molia.sim.entropy import SeededEntropy
from molia.wire.channel import ChannelConfig
from molia.wire.cookies import Address
from molia.wire.gate import Admission
from molia.wire.noise import molia_profile
from molia.wire.peer import Peer
from molia.wire.transport import Handler, Transport, TransportEvent

OURS = molia_profile(network_id("molia"))
START = Now(1_000.0, 1_700_000_000.0)


class Host:
    """A transport, its address, and what it was told."""

    def __init__(
        self, number: int, handlers: Mapping[int, Handler] | None = None, *, seed: int = 0,
        channels: ChannelConfig | None = None, admission: Admission | None = None,
        address: Address | None = None,
    ) -> None:  # fmt: skip
        self.identity = Identity(number.to_bytes(32, "big"))
        self.address: Address = address or (f"192.0.2.{number}", 7071)
        self.transport = Transport(
            OURS, identity=self.identity, entropy=SeededEntropy(f"{seed}/{number}"),
            handlers=handlers or {}, channels=channels, admission=admission,
        )  # fmt: skip
        self.events: list[TransportEvent] = []
        self.on_events: Callable[[list[TransportEvent]], None] = self.events.extend


class Net:
    """The hosts, and the datagrams under way."""

    def __init__(
        self, hosts: Sequence[Host], *, seed: int = 0, loss: float = 0.0, copies: float = 0.0,
        delay_s: tuple[float, float] = (0.01, 0.01),
    ) -> None:  # fmt: skip
        self.hosts, self.loss, self.copies, self.delay_s = list(hosts), loss, copies, delay_s
        self.now = START
        self.random = SeededEntropy(seed).random
        self.sent_bytes = 0
        self._flying: list[tuple[float, int, Address, Address, bytes]] = []
        self._count = 0

    def settle(self) -> None:
        """Send what the hosts have to say, until they have nothing."""
        for host in self.hosts:
            for packets, target in host.transport.take_sends(self.now):
                for packet in packets:
                    self._post(host.address, target, packet)
            host.on_events(host.transport.take_events())

    def run(self, seconds: float, until: Callable[[], bool] = lambda: False) -> bool:
        """Let that much time pass, or less when `until` holds; return whether it holds."""
        end_s = self.now.mono_s + seconds
        self.settle()
        while not until():
            at_s = self._next_s()
            if at_s > end_s:
                self.now = self.now.after(end_s - self.now.mono_s)
                return until()
            self.now = self.now.after(max(0.0, at_s - self.now.mono_s))
            for host in self.hosts:
                due_s = host.transport.next_deadline_s()
                if due_s is not None and due_s <= self.now.mono_s:
                    host.transport.on_deadline(self.now)
            while self._flying and self._flying[0][0] <= self.now.mono_s:
                self._deliver(*heapq.heappop(self._flying)[2:])
            self.settle()
        return True

    def _post(self, source: Address, target: Address, packet: bytes) -> None:
        self.sent_bytes += len(packet)
        if self.random.random() < self.loss:
            return
        for _ in range(1 + (self.random.random() < self.copies)):
            self._count += 1
            at_s = self.now.mono_s + self.random.uniform(*self.delay_s)
            heapq.heappush(self._flying, (at_s, self._count, source, target, packet))

    def _deliver(self, source: Address, target: Address, packet: bytes) -> None:
        for host in self.hosts:
            if host.address == target:
                answer = host.transport.datagram(packet, source, self.now)
                if answer is not None:
                    self._post(target, source, answer)

    def _next_s(self) -> float:
        dues = [host.transport.next_deadline_s() for host in self.hosts]
        times = [due_s for due_s in dues if due_s is not None]
        times += [self._flying[0][0]] if self._flying else []
        return min(times, default=float("inf"))

    def connect(self, one: Host, other: Host) -> Peer:
        """Return `other` as a peer of `one`; there need not be a session yet."""
        peer = one.transport.connect(other.identity.peer_key, other.address, self.now)
        assert peer is not None
        return peer
