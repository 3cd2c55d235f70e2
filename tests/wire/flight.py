"""Datagrams under way between cores at addresses: virtual time, a seed for every fault."""

import heapq
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Protocol

from molia.base.now import Now
from molia.sim.entropy import SeededEntropy
from molia.wire.cookies import Address

START = Now(1_000.0, 1_700_000_000.0)


class Core(Protocol):
    """What is at an address."""

    def next_deadline_s(self) -> float | None:
        """Return when it wants to be called."""
        ...

    def on_deadline(self, now: Now) -> None:
        """Do what is due."""
        ...


Take = Callable[[bytes, Address, Now], bytes | None]
"""A core's door for datagrams."""


class Flight(ABC):
    """The network. Chances are of 1; delays in seconds."""

    def __init__(
        self, *, seed: int, loss: float, copies: float, delay_s: tuple[float, float]
    ) -> None:
        self.loss, self.copies, self.delay_s = loss, copies, delay_s
        self.now = START
        self.random = SeededEntropy(seed).random
        self.trace: list[tuple[float, Address, Address, bytes]] = []
        """(when, from, to, packet) of all that was sent, lost or not."""
        self._flying: list[tuple[float, int, Address, Address, bytes]] = []

    @abstractmethod
    def cores(self) -> Iterable[tuple[Address, Core, Take]]:
        """Return who is where."""

    @abstractmethod
    def settle(self) -> None:
        """Send what the cores have to say, and take note of the rest."""

    def post(self, source: Address, target: Address, packet: bytes) -> None:
        """Send a packet from an address, true or not."""
        self.trace.append((self.now.mono_s, source, target, packet))
        if self.random.random() < self.loss:
            return
        for copy in range(1 + (self.random.random() < self.copies)):
            at_s = self.now.mono_s + self.random.uniform(*self.delay_s)
            heapq.heappush(self._flying, (at_s, 2 * len(self.trace) + copy, source, target, packet))

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
            for _, core, _ in self.cores():
                due_s = core.next_deadline_s()
                if due_s is not None and due_s <= self.now.mono_s:
                    core.on_deadline(self.now)
            while self._flying and self._flying[0][0] <= self.now.mono_s:
                self._deliver(*heapq.heappop(self._flying)[2:])
            self.settle()
        return True

    def _deliver(self, source: Address, target: Address, packet: bytes) -> None:
        for address, _, take in self.cores():
            if address == target:
                answer = take(packet, source, self.now)
                if answer is not None:
                    self.post(target, source, answer)

    def _next_s(self) -> float:
        dues = [core.next_deadline_s() for _, core, _ in self.cores()]
        times = [due_s for due_s in dues if due_s is not None]
        times += [self._flying[0][0]] if self._flying else []
        return min(times, default=float("inf"))

    def bytes_between(self, source: Address, target: Address) -> int:
        """Return how many bytes were sent from one address to another."""
        return sum(len(packet) for _, a, b, packet in self.trace if (a, b) == (source, target))
