"""A simulated path between two channels: virtual time, and a network's faults from a seed."""

import hashlib
import heapq
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from molia.sim.entropy import SeededEntropy
from molia.wire.channel import Channel, ChannelConfig
from molia.wire.stream_events import Event

OVERHEAD = 32 + 28
"""What seal, UDP and IP add to a payload on the wire."""


@dataclass(slots=True, kw_only=True)
class Link:
    """One direction of a path. Delays in seconds, rates in bytes a second."""

    delay_s: float = 0.025
    jitter_s: float = 0.0
    """Added at random: packets overtake each other."""
    loss: float = 0.0
    burst_loss: float = 0.0
    """Chance that a packet is the first of all that are lost within the next 5 to 50 ms."""
    double: float = 0.0
    rate: float = float("inf")
    queue_bytes: int = 1 << 30
    mtu: int = 1500
    free_at_s: float = 0.0
    left_to_lose: int = 0
    lossy_until_s: float = 0.0
    passed: int = 0
    dropped: int = 0

    def arrivals(self, size: int, now_s: float, rng: random.Random) -> list[float]:
        """Return when the packet arrives: never, once or twice."""
        if size + OVERHEAD > self.mtu or self._lost(now_s, rng):
            self.dropped += 1
            return []
        start_s = max(now_s, self.free_at_s)
        if (start_s - now_s) * self.rate > self.queue_bytes:
            self.dropped += 1
            return []
        self.passed += 1
        self.free_at_s = start_s + (size + OVERHEAD) / self.rate
        copies = 2 if rng.random() < self.double else 1
        return [self.free_at_s + self.delay_s + rng.random() * self.jitter_s
                for _ in range(copies)]  # fmt: skip

    def _lost(self, now_s: float, rng: random.Random) -> bool:
        if rng.random() < self.burst_loss:
            self.lossy_until_s = now_s + rng.uniform(0.005, 0.05)
        if self.left_to_lose > 0:
            self.left_to_lose -= 1
            return True
        return now_s < self.lossy_until_s or rng.random() < self.loss


class End:
    """One end of a path: a channel, and the owner that is told of its events."""

    def __init__(self, channel: Channel, link: Link) -> None:
        self.channel, self.link = channel, link
        self.peer: End
        self.events: list[Event] = []
        self.owner: Callable[[float], None] = lambda _now_s: None
        self.wake_s: float | None = None
        self.ready: list[bytes] = []
        """Payloads that arrived at the same instant."""
        self.at_s = -1.0


class World:
    """Ends, packets under way, and the one clock."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.now_s = 0.0
        self.tick_s = 0.0
        """Timers fire at multiples of this."""
        self.burst = 47
        self.largest_burst = 0
        """Bytes of it, with what the seal adds."""
        self.ends: list[End] = []
        self._queue: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0
        self.trace = hashlib.blake2b()
        """Of every packet that arrived, with its time."""

    def at(self, at_s: float, act: Callable[[], None]) -> None:
        """Call `act` at a time."""
        self._count += 1
        heapq.heappush(self._queue, (at_s, self._count, act))

    def join(self, there: Link, back: Link, config: ChannelConfig | None = None) -> tuple[End, End]:
        """Return the initiator's and the responder's end of a new path."""
        config = config or ChannelConfig()
        ends: list[End] = []
        for initiator, link in ((True, there), (False, back)):
            entropy = SeededEntropy(self.rng.getrandbits(64))
            channel = Channel(config, initiator=initiator, entropy=entropy, now_s=self.now_s)
            ends.append(End(channel, link))
        ends[0].peer, ends[1].peer = ends[1], ends[0]
        self.ends += ends
        return ends[0], ends[1]

    def run(self, until_s: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Let time pass until `done`; tell whether it came to that."""
        for end in self.ends:
            self.serve(end)
        while not done():
            if not self._queue or self._queue[0][0] > until_s:
                self.now_s = until_s
                return done()
            self.now_s, _, act = heapq.heappop(self._queue)
            act()
        return True

    def serve(self, end: End) -> None:
        """Let the owner work, send what the channel has, set its timer."""
        while True:
            end.events += end.channel.take_events()
            end.owner(self.now_s)
            payloads = end.channel.take_payloads(self.now_s, self.burst)
            if not payloads:
                break
            sizes = [len(payload) for payload in payloads]
            self.largest_burst = max(self.largest_burst, sum(sizes) + 32 * len(sizes))
            assert len(set(sizes[:-1])) <= 1, "all but the last have one size"
            assert sizes[-1] <= sizes[0]
            for payload in payloads:
                self._send(end, payload)
        due_s = end.channel.next_deadline_s()
        if due_s is not None and self.tick_s:
            due_s = math.ceil(due_s / self.tick_s) * self.tick_s
        if due_s is not None and (end.wake_s is None or due_s < end.wake_s):
            end.wake_s = max(due_s, self.now_s)
            self.at(end.wake_s, lambda: self._wake(end))

    def _wake(self, end: End) -> None:
        if end.wake_s is not None and self.now_s < end.wake_s:
            return
        end.wake_s = None
        end.channel.on_deadline(self.now_s)
        self.serve(end)

    def _send(self, end: End, payload: bytes) -> None:
        for at_s in end.link.arrivals(len(payload), self.now_s, self.rng):
            self.at(at_s, lambda: self._arrive(end.peer, payload))

    def _arrive(self, end: End, payload: bytes) -> None:
        self.trace.update(payload + f"{self.now_s:.9f}".encode())
        end.channel.on_payloads([payload], self.now_s)
        self.serve(end)


class Transfer:
    """One stream that carries known bytes from one end to the other, checked as they arrive."""

    def __init__(self, world: World, source: End, sink: End, data: bytes) -> None:
        self.world, self.source, self.sink = world, source, sink
        self.data, self.sent, self.got = data, 0, 0
        self.finished = False
        self.done_s: float | None = None
        self.started_s = world.now_s
        self.reading = True
        opened = source.channel.open_stream()
        assert opened is not None
        self.stream_id = opened
        chain(source, self.write)
        chain(sink, self.read)

    def write(self, now_s: float) -> None:
        """Give the channel what it takes."""
        channel = self.source.channel
        while self.sent < len(self.data):
            taken = channel.write(self.stream_id, self.data[self.sent : self.sent + (1 << 18)])
            if taken == 0:
                return
            self.sent += taken
        if not self.finished:
            self.finished = True
            channel.finish(self.stream_id)

    def read(self, now_s: float) -> None:
        """Take what came and compare."""
        channel = self.sink.channel
        while self.reading and (piece := channel.read(self.stream_id, 1 << 20)):
            assert piece == self.data[self.got : self.got + len(piece)], f"at {self.got}"
            self.got += len(piece)
        if self.got == len(self.data) and self.done_s is None and self.finished:
            self.done_s = now_s
            channel.finish(self.stream_id)

    @property
    def goodput(self) -> float:
        """Bytes a second from the start to the end."""
        assert self.done_s is not None
        return self.got / (self.done_s - self.started_s)


def chain(end: End, act: Callable[[float], None]) -> None:
    """Let `act` work beside what the owner of an end did so far."""
    before = end.owner

    def both(now_s: float) -> None:
        before(now_s)
        act(now_s)

    end.owner = both
