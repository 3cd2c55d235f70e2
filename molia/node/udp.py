"""The pump: moves datagrams between UDP sockets and a sans-IO core, many at a time.

A raw non-blocking socket with its own drain loop: asyncio's datagram transport reads into 256 KiB
that the allocator maps and unmaps anew for each packet (python/cpython #85451), three times the
cost of all the rest. Bulk sends go out as one call (UDP_SEGMENT), bulk arrives as one (UDP_GRO),
where the kernel has them. Linux: udp(7).
"""

import asyncio
import errno
import socket
import struct
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Final, Protocol

from molia.base import limits
from molia.base.now import Now
from molia.node.system import SystemClock

Address = tuple[str, int] | tuple[str, int, int, int]
"""What `recvfrom` gives: IPv4, or IPv6 with its flow and scope."""

_UDP_SEGMENT: Final = 103
_UDP_GRO: Final = 104
_SEGMENTS_MAX: Final = 64
"""Segments in one call: what Linux before 6.9 takes (UDP_MAX_SEGMENTS)."""
_SEGMENTED_BYTES_MAX: Final = 65_507
_IP_MTU_DISCOVER: Final = 10
_IPV6_MTU_DISCOVER: Final = 23
_PMTUDISC_PROBE: Final = 3
_BULK_PACKETS: Final = 8
_BULK_SIZE: Final = 1_000
"""So many packets of this size on average in one drain are bulk."""
_TICK_S: Final = 0.001
_PLAIN_DRAINS: Final = 16
"""So many drains without a joined arrival end it."""
_GRO_SIZE: Final = struct.Struct("@i")
_ANCILLARY_BYTES: Final = socket.CMSG_SPACE(_GRO_SIZE.size) if hasattr(socket, "CMSG_SPACE") else 0
_NOT_SENT: Final = (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ECONNREFUSED, errno.EPERM,
                    errno.EINVAL, errno.EADDRNOTAVAIL, errno.ENETDOWN, errno.EACCES)  # fmt: skip
"""Errors of one destination, not of the socket."""
_NO_SEGMENTS: Final = (errno.EIO, errno.EINVAL, errno.EOPNOTSUPP)
"""How a kernel or a driver says that it does not cut datagrams."""


class Core(Protocol):
    """What the pump drives."""

    def datagram(self, data: bytes, address: Address, now: Now) -> bytes | None:
        """Take one datagram; bytes returned go back to its sender."""
        ...

    def burst(self, packets: Sequence[bytes], address: Address, now: Now) -> Sequence[bytes]:
        """Take datagrams that came together from one sender; those returned go back to it."""
        ...

    def take_sends(self, now: Now) -> Iterable[tuple[Sequence[bytes], Address]]:
        """Return what is to be sent: datagrams in order, and where to."""
        ...

    def next_deadline_s(self) -> float | None:
        """Return when `on_deadline` is to be called, in monotonic seconds."""
        ...

    def on_deadline(self, now: Now) -> None:
        """Do what is due."""
        ...


@dataclass(slots=True)
class UdpCounters:
    """What one socket moved and dropped."""

    packets_in: int = 0
    packets_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    dropped: dict[str, int] = field(
        default_factory=lambda: {"queue_full": 0, "unreachable": 0, "truncated": 0, "too_big": 0}
    )

    def add(self, packets_in: int, bytes_in: int, packets_out: int, bytes_out: int) -> None:
        """Count what was moved."""
        self.packets_in += packets_in
        self.bytes_in += bytes_in
        self.packets_out += packets_out
        self.bytes_out += bytes_out


class UdpDriver:
    """Drives one core from the running event loop: its sockets, its clock, its deadlines."""

    def __init__(
        self, core: Core, clock: SystemClock, *, after: Callable[[], bool] | None = None
    ) -> None:
        """after: called when the core was told something; True: it told the core something back."""
        self._core, self._clock, self._after = core, clock, after
        self._is_flush_due = False
        self._loop = asyncio.get_running_loop()
        self.pumps: list[UdpPump] = []
        """The sockets' sides."""
        self._by_family: dict[int, UdpPump] = {}
        """By the length of an address: IPv4 has two parts, IPv6 four."""
        self._timer: asyncio.TimerHandle | None = None
        self._wake_s: float | None = None

    def add(self, sock: socket.socket, *, segments: bool = True) -> "UdpPump":
        """Serve a bound socket, which is the caller's to close, after `close`.

        What is no answer goes out of the first of its family.
        """
        pump = UdpPump(sock, self._core, self._clock, self._flush, segments=segments)
        self.pumps.append(pump)
        self._by_family.setdefault(4 if sock.family == socket.AF_INET6 else 2, pump)
        return pump

    def flush(self) -> None:
        """Send what the core has to say, and wake up when it wants to be called again.

        To be called after the core was told anything by others than its sockets.
        """
        self._flush(self._clock.now())

    def flush_soon(self) -> None:
        """Flush before the loop waits again: many calls in one turn are one flush."""
        if not self._is_flush_due:
            self._is_flush_due = True
            self._loop.call_soon(self._flush_due)

    def close(self) -> None:
        """Stop serving."""
        for pump in self.pumps:
            pump.close()
        self.pumps.clear()
        self._by_family.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _flush_due(self) -> None:
        self._is_flush_due = False
        self.flush()

    def _flush(self, now: Now) -> None:
        self._send(now)
        if self._after is not None and self._after():
            self._send(now)
        self._arm(now)

    def _send(self, now: Now) -> None:
        for packets, address in self._core.take_sends(now):
            pump = self._by_family.get(len(address))
            if pump is not None:  # else there is no socket of that family: lost, as on a path
                pump.send(packets, address)

    def _arm(self, now: Now) -> None:
        """Set the timer earlier where that is needed; one that rings too early costs a turn.

        Loops count in milliseconds: rounded down by them, what is due in less would ring at once,
        again and again until it is. A channel that sends makes up for the rest of a millisecond.
        """
        wake_s = self._core.next_deadline_s() if self.pumps else None
        if wake_s is None or (self._wake_s is not None and self._wake_s <= wake_s):
            return
        if self._timer is not None:
            self._timer.cancel()
        self._wake_s = wake_s
        delay_s = ceil((wake_s - now.mono_s) / _TICK_S) * _TICK_S if wake_s > now.mono_s else 0.0
        self._timer = self._loop.call_later(delay_s, self._on_timer)

    def _on_timer(self) -> None:
        self._timer, self._wake_s = None, None
        now = self._clock.now()
        self._core.on_deadline(now)
        self._flush(now)


class UdpPump:
    """One socket's side: drains it into the core, sends what it is given. `close` stops it."""

    def __init__(
        self,
        sock: socket.socket,
        core: Core,
        clock: SystemClock,
        after_drain: Callable[[Now], None],
        *,
        segments: bool = True,
    ) -> None:
        """sock: bound. segments: use UDP_SEGMENT and UDP_GRO where the kernel has them."""
        self._socket, self._core, self._clock = sock, core, clock
        self._after_drain = after_drain
        self._loop = asyncio.get_running_loop()
        self.counters = UdpCounters()
        self._buffer = memoryview(bytearray(limits.UDP_RECEIVE_BYTES))
        self._buffers = [self._buffer]
        self._waiting: deque[tuple[Sequence[bytes], Address]] = deque()
        self._waiting_bytes = 0
        prepare(sock)
        self._segments = segments and hasattr(socket, "CMSG_SPACE")
        self._may_coalesce = segments and hasattr(sock, "recvmsg_into")
        self._coalesced = False
        self._plain_drains = 0
        """Drains in a row in which nothing came joined."""
        self._handle = sock.fileno()
        self._loop.add_reader(self._handle, self._on_readable)

    @property
    def address(self) -> tuple[str, int]:
        """Host and port of the socket."""
        host, port, *_ = self._socket.getsockname()
        return host, port

    @property
    def waiting_bytes(self) -> int:
        """Bytes that the socket did not take yet."""
        return self._waiting_bytes

    def close(self) -> None:
        """Stop moving datagrams; the socket stays open."""
        self._loop.remove_reader(self._handle)
        self._loop.remove_writer(self._handle)
        self._waiting.clear()
        self._waiting_bytes = 0

    # ------------------------------------------------------------------ in

    def _on_readable(self) -> None:
        now = self._clock.now()
        if self._coalesced:
            self._drain_joined(now)
        else:
            self._drain(now)
        self._after_drain(self._clock.now())

    def _drain(self, now: Now) -> None:
        """Take what is there: the path of every request.

        In three rounds, not packet by packet: the kernel's receiving, our code and the kernel's
        sending each fill the processor's caches, and would drive each other out.
        """
        arrived = self._arrived()
        answer_to, size_in = self._core.datagram, 0
        answers = []
        for data, address in arrived:
            size_in += len(data)
            answer = answer_to(data, address, now)
            if answer is not None:
                answers.append((answer, address))
        self.counters.add(len(arrived), size_in, 0, 0)
        if answers:
            self._answer(answers)
        bulk = len(arrived) >= _BULK_PACKETS and size_in >= len(arrived) * _BULK_SIZE
        if bulk and self._may_coalesce:
            # joined arrivals cost less, single ones twice as much: so only while bulk comes
            self._coalesced = self._may_coalesce = _set_gro(self._socket, on=True)
            self._plain_drains = 0

    def _arrived(self) -> list[tuple[bytes, Address]]:
        """Return the datagrams that are there, up to a bound."""
        arrived: list[tuple[bytes, Address]] = []
        receive, keep = self._socket.recvfrom, arrived.append
        for _ in range(limits.UDP_DRAIN_PACKETS):
            try:
                keep(receive(limits.UDP_PACKET_MAX))
            except BlockingIOError:
                break
            except OSError:
                continue  # an ICMP error of an earlier send: not of this packet
        return arrived

    def _answer(self, answers: list[tuple[bytes, Address]]) -> None:
        """Send each answer back."""
        send, count, size = self._socket.sendto, 0, 0
        for answer, address in answers:
            if self._waiting:
                self._enqueue([answer], address)
                continue
            try:
                size += send(answer, address)
                count += 1
            except OSError as error:
                self._not_sent(error, [answer], address)
        self.counters.add(0, 0, count, size)

    def _drain_joined(self, now: Now) -> None:
        """Take what is there, where the kernel joins the packets of a sender."""
        self._plain_drains += 1
        for _ in range(limits.UDP_DRAIN_PACKETS):
            if not self._receive_joined(now):
                break
        if self._plain_drains >= _PLAIN_DRAINS:
            _set_gro(self._socket, on=False)
            self._coalesced = False

    def _receive_joined(self, now: Now) -> bool:
        """Take one arrival; False when there is none."""
        try:
            size, ancillary, flags, address = self._socket.recvmsg_into(
                self._buffers, _ANCILLARY_BYTES
            )
        except BlockingIOError:
            return False
        except OSError:
            return True
        if flags & socket.MSG_TRUNC:
            self.counters.dropped["truncated"] += 1
            return True
        data = bytes(self._buffer[:size])
        step = _GRO_SIZE.unpack(ancillary[0][2])[0] if ancillary else size
        if step >= size:
            self.counters.add(1, size, 0, 0)
            answer = self._core.datagram(data, address, now)
            if answer is not None:
                self.send([answer], address)
            return True
        self._plain_drains = 0
        packets = [data[at : at + step] for at in range(0, size, step)]
        self.counters.add(len(packets), size, 0, 0)
        answers = self._core.burst(packets, address, now)
        if answers:
            self.send(answers, address)
        return True

    # ------------------------------------------------------------------ out

    def send(self, packets: Sequence[bytes], address: Address) -> None:
        """Send datagrams to one address, in as few calls as the kernel allows."""
        if self._waiting:
            self._enqueue(packets, address)
            return
        at = 0
        while at < len(packets):
            stop = _run_end(packets, at) if self._segments else at + 1
            try:
                self._send_run(packets[at:stop], address)
            except OSError as error:
                if stop - at > 1 and error.errno in _NO_SEGMENTS:
                    self._segments = False  # from now on one by one
                    continue
                if error.errno in (errno.EAGAIN, errno.ENOBUFS):
                    self._not_sent(error, packets[at:], address)
                    return
                self._not_sent(error, packets[at:stop], address)
            at = stop

    def _send_run(self, run: Sequence[bytes], address: Address) -> None:
        if len(run) == 1:
            sent = self._socket.sendto(run[0], address)
        else:
            size = len(run[0]).to_bytes(2, "little")
            sent = self._socket.sendmsg(run, [(socket.SOL_UDP, _UDP_SEGMENT, size)], 0, address)
        self.counters.add(0, 0, len(run), sent)

    def _not_sent(self, error: OSError, packets: Sequence[bytes], address: Address) -> None:
        dropped = self.counters.dropped
        if error.errno in (errno.EAGAIN, errno.ENOBUFS):
            self._enqueue(packets, address)
        elif error.errno == errno.EMSGSIZE:
            dropped["too_big"] += len(packets)  # a probe of the path's size that was too large
        elif error.errno in _NOT_SENT:
            dropped["unreachable"] += len(packets)
        else:
            raise error

    def _enqueue(self, packets: Sequence[bytes], address: Address) -> None:
        """Keep datagrams until the socket takes them; what is beyond the bound is lost."""
        size = sum(map(len, packets))
        if self._waiting_bytes + size > limits.UDP_QUEUE_BYTES_MAX:
            self.counters.dropped["queue_full"] += len(packets)
            return
        if not self._waiting:
            self._loop.add_writer(self._handle, self._on_writable)
        self._waiting.append((packets, address))
        self._waiting_bytes += size

    def _on_writable(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        self._waiting_bytes = 0
        self._loop.remove_writer(self._handle)
        for packets, address in waiting:
            self.send(packets, address)


def prepare(sock: socket.socket) -> None:
    """Make a UDP socket ready for the pump: non-blocking, roomy, never fragmenting."""
    sock.setblocking(False)  # noqa: FBT003 - the standard library's own form
    for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
        sock.setsockopt(socket.SOL_SOCKET, option, limits.UDP_SOCKET_BYTES)
    level, option = (
        (socket.IPPROTO_IPV6, _IPV6_MTU_DISCOVER)
        if sock.family == socket.AF_INET6
        else (socket.IPPROTO_IP, _IP_MTU_DISCOVER)
    )
    try:
        sock.setsockopt(level, option, _PMTUDISC_PROBE)
    except OSError:
        return  # not Linux: the path is probed with what the system allows


def _set_gro(sock: socket.socket, *, on: bool) -> bool:
    """Switch the joining of arrivals; False where the kernel has none."""
    try:
        sock.setsockopt(socket.SOL_UDP, _UDP_GRO, int(on))
    except (OSError, AttributeError):
        return False
    return True


def _run_end(packets: Sequence[bytes], at: int) -> int:
    """Return where the run that begins at `at` ends: equal sizes, and one shorter last packet."""
    size = len(packets[at])
    stop_max = min(len(packets), at + min(_SEGMENTS_MAX, max(1, _SEGMENTED_BYTES_MAX // size)))
    stop = at + 1
    while stop < stop_max:
        next_size = len(packets[stop])
        if next_size > size:
            break
        stop += 1
        if next_size < size:
            break
    return stop
