"""Which packets came, and when to say so: the receiving side of RFC 9000 section 13.2."""

from typing import Final

from molia.base.errors import ChannelFault
from molia.base.limits import ACK_RANGES_MAX
from molia.wire.intervals import Intervals
from molia.wire.recovery import MAX_ACK_DELAY_S
from molia.wire.stream_frames import NUMBER_STOP, Fault, encode_ack

ACK_EVERY: Final = 2
"""Packets after which an acknowledgement is due at once; whole bursts share one."""


class AckLog:
    """The numbers that came and the acknowledgement that is due."""

    __slots__ = ("_came", "_largest_s", "_unsaid", "due_s")

    def __init__(self) -> None:
        self._came = Intervals()
        self._largest_s = 0.0
        self._unsaid = 0
        self.due_s: float | None = None
        """When an acknowledgement must leave; one that is overdue leaves with the next burst."""

    @property
    def next_number(self) -> int:
        """The number after the highest that came."""
        last = self._came.last
        return last[1] if last else 0

    def on_run(self, first: int, stop: int, now_s: float) -> None:
        """Packets [first, stop) came and were taken. Raises ChannelFault."""
        if stop > NUMBER_STOP:
            raise ChannelFault(Fault.BAD_FRAME)
        expected = self.next_number
        self._came.add(first, stop)
        while len(self._came) > ACK_RANGES_MAX:
            self._came.drop_lowest()
        if stop > expected:
            self._largest_s = now_s
        self._unsaid += stop - first
        at_once = first != expected or self._unsaid >= ACK_EVERY
        due_s = now_s if at_once else now_s + MAX_ACK_DELAY_S
        self.due_s = due_s if self.due_s is None else min(self.due_s, due_s)

    def on_settled(self, number: int) -> None:
        """The sender has nothing in flight below `number`: there is no more to say about that."""
        self._came.drop_below(min(number, self.next_number - 1))

    def take(self, now_s: float) -> bytes:
        """Return the ACK frame that says all; nothing where nothing new came."""
        if self.due_s is None:
            return b""
        self.due_s, self._unsaid = None, 0
        runs = list(self._came.newest_first())
        return encode_ack(runs, delay_s=max(0.0, now_s - self._largest_s))
