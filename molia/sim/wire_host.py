"""A host of the simulated network that talks through a transport, real or null.

Does what `node/network.py` does around the same core: datagrams in, sends out, events to the owner,
the next deadline kept.
"""

from collections.abc import Callable, Collection, Mapping
from typing import Final

from molia.base.crypto import Identity
from molia.base.now import Now
from molia.sim.entropy import SeededEntropy
from molia.sim.net import Net, Seat
from molia.sim.null_wire import NullTransport
from molia.wire.addresses import Address
from molia.wire.gate import Admission
from molia.wire.handshake import EndpointConfig
from molia.wire.noise import Profile
from molia.wire.peer import Peer
from molia.wire.requests import Ended
from molia.wire.transport import Handler, Transport, TransportEvent

NEVER: Final = float("inf")
REAL_NODES_MAX: Final = 200
"""Up to so many nodes a run has real ciphers unless it is told otherwise."""


def transport_type(wire: str, nodes: int) -> type[Transport]:
    """Return the transport for `wire`: "real", "null", or "auto" by the number of nodes."""
    assert wire in ("real", "null", "auto"), "there are two wires"
    is_real = wire == "real" or (wire == "auto" and nodes <= REAL_NODES_MAX)
    return Transport if is_real else NullTransport


class WireHost:
    """One node's end of the wire. Its owner gives handlers and takes what ended."""

    def __init__(
        self, net: Net, seat: Seat, *, wire: type[Transport], profile: Profile,
        identity: Identity, entropy: SeededEntropy, handlers: Mapping[int, Handler],
        once: Collection[int] = (), admission: Admission | None = None,
        config: EndpointConfig | None = None,
    ) -> None:  # fmt: skip
        self.net, self.world, self.seat, self.identity = net, net.world, seat, identity
        self.transport = wire(
            profile, identity=identity, entropy=entropy, handlers=handlers, once=once,
            admission=admission, config=config,
        )  # fmt: skip
        self.on_ended: Callable[[Ended[Peer], Now], None] = lambda _ended, _now: None
        self.on_event: Callable[[TransportEvent, Now], None] = lambda _event, _now: None
        self.due_s: Callable[[], float | None] = lambda: None
        """When the owner wants `on_due`, which is called after the transport's own."""
        self.on_due: Callable[[Now], None] = lambda _now: None
        self.after: Callable[[], None] = lambda: None
        """Called after each datagram, for what handlers left to do."""
        self.is_touched = True
        """Whether the owner's deadline may have moved."""
        self._own_s: float | None = None
        self._armed_s = NEVER
        seat.host = self

    @property
    def is_up(self) -> bool:
        """Tell whether the host runs."""
        return self.seat.host is self

    def on_datagram(self, data: bytes, source: Address) -> None:
        """Take a datagram, now."""
        now = self.world.now
        answer = self.transport.datagram(data, source, now)
        if answer is not None:
            self.net.send(self.seat, (answer,), source)
        self.after()
        self.settle()

    def settle(self) -> None:
        """Send what there is to send, tell what happened, and arm the alarm."""
        now, transport = self.world.now, self.transport
        while transport.has_output:
            for packets, address in transport.take_sends(now):
                self.net.send(self.seat, packets, (address[0], address[1]))
            for event in transport.take_events():
                if type(event) is Ended:
                    self.on_ended(event, now)
                else:
                    self.on_event(event, now)
        self._arm()

    def stop(self, *, goodbye: bool) -> None:
        """Leave. goodbye: tell the peers; else they find out."""
        if goodbye:
            self.transport.close_all(self.world.now)
            for packets, address in self.transport.take_sends(self.world.now):
                self.net.send(self.seat, packets, (address[0], address[1]))
        self.seat.host = None
        self._armed_s = NEVER
        if self.seat.nat is not None:
            self.seat.nat.close()

    def forget(self) -> None:
        """Let go of everything, after `stop`: parts that know each other are not freed else."""
        seat = self.seat
        for part in (self.transport.endpoint, self.transport, self):
            vars(part).clear()
        self.seat = seat

    def _arm(self) -> None:
        if self.is_touched:
            self.is_touched, self._own_s = False, self.due_s()
        due_s, own_s = self.transport.next_deadline_s(), self._own_s
        if due_s is None or (own_s is not None and own_s < due_s):
            due_s = own_s
        if due_s is not None and due_s < self._armed_s:
            self._armed_s = due_s
            self.world.at(self.world.ns_of(due_s), self._wake, due_s)

    def _wake(self, armed_s: float) -> None:
        if not self.is_up or armed_s != self._armed_s:
            return  # it was armed anew for an earlier time, or the node is gone
        self._armed_s = NEVER
        now = self.world.now
        self.transport.on_deadline(now)
        if self.is_touched:
            self.is_touched, self._own_s = False, self.due_s()
        if self._own_s is not None and self._own_s <= now.mono_s:
            self.is_touched = True
            self.on_due(now)
        self.settle()
