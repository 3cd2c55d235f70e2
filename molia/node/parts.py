"""What talks over the network's transport beside the network itself: its place in the loop.

The sockets drive one core; here the transport and a part beside it are one.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Protocol

from molia.base.now import Now
from molia.wire.cookies import Address
from molia.wire.peer import Peer
from molia.wire.requests import Ended
from molia.wire.transport import Handler, Transport


class Part(Protocol):
    """A core, or a shell around one, that asks and answers peers."""

    @property
    def handlers(self) -> Mapping[int, Handler]:
        """What it answers, by message number."""
        ...

    @property
    def once(self) -> Collection[int]:
        """Numbers among them that must not be carried out twice."""
        ...

    def on_ended(self, ended: Ended[Peer], now: Now) -> bool:
        """Take what became of a request; False: it is not the part's."""
        ...

    def on_left(self, peer: Peer, now: Now) -> None:
        """Take that a peer says it stops."""
        ...

    def on_proof(self, now: Now) -> None:
        """Take that this node has an identity proof to show now."""
        ...

    def on_turn(self, now: Now) -> bool:
        """Carry out what it has to do; return whether the transport was told anything."""
        ...

    def next_deadline_s(self) -> float | None:
        """Return when `on_deadline` is to be called, in monotonic seconds."""
        ...

    def on_deadline(self, now: Now) -> None:
        """Do what is due."""
        ...


class Driven:
    """The transport and its part, as `node.udp` drives them."""

    def __init__(self, transport: Transport) -> None:
        self._transport = transport
        self.part: Part | None = None
        self.datagram = transport.datagram
        """See `udp.Core.datagram`; not a method: that costs."""
        self.burst = transport.burst
        """See `udp.Core.burst`."""

    def take_sends(self, now: Now) -> Iterable[tuple[Sequence[bytes], Address]]:
        """See `udp.Core.take_sends`."""
        return self._transport.take_sends(now)

    def next_deadline_s(self) -> float | None:
        """See `udp.Core.next_deadline_s`."""
        ours = None if self.part is None else self.part.next_deadline_s()
        due_s = self._transport.next_deadline_s()
        if ours is None or due_s is None:
            return due_s if ours is None else ours
        return min(ours, due_s)

    def on_deadline(self, now: Now) -> None:
        """See `udp.Core.on_deadline`."""
        self._transport.on_deadline(now)
        if self.part is not None:
            due_s = self.part.next_deadline_s()
            if due_s is not None and due_s <= now.mono_s:
                self.part.on_deadline(now)
