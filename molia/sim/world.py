"""The world: virtual time, one heap of events, a tree of seeds, and the trace of all that was sent.

An event is a call at an instant. Events of one instant happen in the order in which they were
asked for, so a world runs the same way every time: nothing here reads a clock, or a set's order.
Source: docs/reference/simulator.md, "The world".
"""

import hashlib
from collections.abc import Callable
from heapq import heappop, heappush
from struct import Struct
from typing import Any, Final

from molia.base.now import Now
from molia.sim.entropy import SeededEntropy
from molia.wire.addresses import Address

NS: Final = 1_000_000_000
START: Final = Now(1_000.0, 1_700_000_000.0)
"""When every world begins; the monotonic clock reads what a machine that runs for a while would."""
_TRACE_CHUNK: Final = 1 << 16
_head: Final = Struct("<qHI").pack


class Seeds:
    """The randomness of one run: a stream for each (node, purpose), independent of all others."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def entropy(self, node: int | str, stream: str) -> SeededEntropy:
        """Return a stream from its beginning: a change to one purpose moves no other."""
        name = f"molia/sim\0{self.seed}\0{node}\0{stream}".encode()
        return SeededEntropy(int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "big"))


class Trace:
    """A running digest of every datagram that was sent, lost or not: when, from, to, size, bytes.

    keep: also list (time in ns, from, to, size), for the comparison of two runs.
    """

    def __init__(self, *, keep: bool = False) -> None:
        self.count = self.size_bytes = 0
        self.kept: list[tuple[int, Address, Address, int]] | None = [] if keep else None
        self._hash = hashlib.blake2b(digest_size=16)
        self._chunk = bytearray()
        self._names: dict[Address, bytes] = {}

    def note(self, t_ns: int, source: Address, target: Address, data: bytes) -> None:
        """Take one datagram."""
        size = len(data)
        self.count += 1
        self.size_bytes += size
        chunk = self._chunk
        chunk += _head(t_ns, source[1], size)
        chunk += self._name(source)
        chunk += self._name(target)
        chunk += data
        if len(chunk) > _TRACE_CHUNK:
            self._hash.update(chunk)
            chunk.clear()
        if self.kept is not None:
            self.kept.append((t_ns, source, target, size))

    def hexdigest(self) -> str:
        """Return the trace hash so far."""
        self._hash.update(self._chunk)
        self._chunk.clear()
        return self._hash.hexdigest()

    def _name(self, address: Address) -> bytes:
        name = self._names.get(address)
        if name is None:
            text = f"{address[0]} {address[1]}".encode()
            name = self._names[address] = hashlib.blake2b(text, digest_size=6).digest()
        return name


Action = Callable[[Any], None]


class World:
    """Virtual time."""

    def __init__(self, seed: int, *, keep_trace: bool = False) -> None:
        self.seeds = Seeds(seed)
        self.trace = Trace(keep=keep_trace)
        self.t_ns = 0
        self.now = START
        self.events = 0
        self._heap: list[tuple[int, int, Action, Any]] = []
        self._number = 0

    def at(self, t_ns: int, action: Action, argument: object = None) -> None:
        """Have `action(argument)` called at an instant; one that is past is now."""
        self._number += 1
        heappush(self._heap, (t_ns, self._number, action, argument))

    def after(self, seconds: float, action: Action, argument: object = None) -> None:
        """Have `action(argument)` called so much later."""
        self.at(self.t_ns + int(seconds * NS), action, argument)

    @property
    def time_s(self) -> float:
        """Seconds since the world began."""
        return self.t_ns / NS

    def run(self, seconds: float, *, until: Callable[[], bool] | None = None) -> None:
        """Let so much time pass; less, if `until` holds after an event."""
        end_ns = self.t_ns + int(seconds * NS)
        heap = self._heap
        while heap and heap[0][0] <= end_ns:
            t_ns, _, action, argument = heappop(heap)
            if t_ns > self.t_ns:
                self._pass_to(t_ns)
            self.events += 1
            action(argument)
            if until is not None and until():
                return
        self._pass_to(end_ns)

    def _pass_to(self, t_ns: int) -> None:
        self.t_ns = t_ns
        passed_s = t_ns / NS
        self.now = Now(START.mono_s + passed_s, START.unix_s + passed_s)

    @staticmethod
    def ns_of(mono_s: float) -> int:
        """Return the instant of a deadline: never before it, and at least a nanosecond's step."""
        return int((mono_s - START.mono_s) * NS) + 1
