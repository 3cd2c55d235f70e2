"""Transports on a simulated network, driven as by the pump: virtual time, seeded faults."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

from molia.base.crypto import Identity
from molia.base.ids import network_id
from molia.sim.entropy import SeededEntropy
from molia.wire.channel import ChannelConfig
from molia.wire.cookies import Address
from molia.wire.gate import Admission
from molia.wire.handshake import EndpointConfig
from molia.wire.noise import molia_profile
from molia.wire.peer import Peer
from molia.wire.transport import Handler, Transport, TransportEvent
from tests.wire.flight import START, Core, Flight, Take

__all__ = ["OURS", "START", "Host", "Net"]
OURS = molia_profile(network_id("molia"))


class Host:
    """A transport, its address, and what it was told."""

    def __init__(
        self, number: int, handlers: Mapping[int, Handler] | None = None, *, seed: int = 0,
        channels: ChannelConfig | None = None, admission: Admission | None = None,
        address: Address | None = None, once: Collection[int] = (), worker: int = 0,
    ) -> None:  # fmt: skip
        self.identity = Identity(number.to_bytes(32, "big"))
        self.address: Address = address or (f"192.0.2.{number}", 7071)
        self.transport = Transport(
            OURS, identity=self.identity, entropy=SeededEntropy(f"{seed}/{number}"),
            handlers=handlers or {}, once=once, channels=channels, admission=admission,
            config=EndpointConfig(worker=worker),
        )  # fmt: skip
        self.events: list[TransportEvent] = []
        self.on_events: Callable[[list[TransportEvent]], None] = self.events.extend


class Net(Flight):
    """The network between hosts."""

    def __init__(
        self, hosts: Sequence[Host], *, seed: int = 0, loss: float = 0.0, copies: float = 0.0,
        delay_s: tuple[float, float] = (0.01, 0.01),
    ) -> None:  # fmt: skip
        super().__init__(seed=seed, loss=loss, copies=copies, delay_s=delay_s)
        self.hosts = list(hosts)

    def cores(self) -> Iterable[tuple[Address, Core, Take]]:
        """Return the transports."""
        return [(host.address, host.transport, host.transport.datagram) for host in self.hosts]

    @property
    def sent_bytes(self) -> int:
        """Bytes of everything that was sent."""
        return sum(len(packet) for _, _, _, packet in self.trace)

    def settle(self) -> None:
        """Send what the hosts have to say, and tell them what happened."""
        for host in self.hosts:
            for packets, target in host.transport.take_sends(self.now):
                for packet in packets:
                    self.post(host.address, target, packet)
            host.on_events(host.transport.take_events())

    def connect(self, one: Host, other: Host) -> Peer:
        """Return `other` as a peer of `one`; there need not be a session yet."""
        peer = one.transport.connect(other.identity.peer_key, other.address, self.now)
        assert peer is not None
        return peer
