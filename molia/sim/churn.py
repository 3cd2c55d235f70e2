"""Nodes come and go: session lengths by two laws, from a network that has run for ever.

The mean session is 200 s: 30% of the nodes leave and 30% join each minute. Seven in ten crash, the
others say goodbye; one in five who come is one who was there before, with its key and its disk.
Source: docs/reference/simulator.md, "Churn".
"""

import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from molia.sim.world import World

LAWS: Final = ("exponential", "weibull")


@dataclass(frozen=True, slots=True, kw_only=True)
class ChurnConfig:
    """How nodes come and go."""

    law: str = "exponential"
    mean_s: float = 200.0
    shape: float = 0.5
    """Of the Weibull law: below 1 most sessions are short and a few very long."""
    goodbyes: float = 0.3
    returns: float = 0.2

    def session_s(self, rng: random.Random) -> float:
        """Return the length of a session that begins."""
        if self.law == "exponential":
            return rng.expovariate(1 / self.mean_s)
        return rng.weibullvariate(self._scale_s, self.shape)

    def left_s(self, rng: random.Random) -> float:
        """Return what is left of the session of a node that is met at some moment.

        Long sessions are met more often: their lengths are drawn by the length, and the moment
        evenly within.
        """
        if self.law == "exponential":
            return rng.expovariate(1 / self.mean_s)
        met_s: float = self._scale_s * rng.gammavariate(1 + 1 / self.shape, 1.0) ** (1 / self.shape)
        return met_s * rng.random()

    @property
    def _scale_s(self) -> float:
        return float(self.mean_s / math.gamma(1 + 1 / self.shape))


class Member(Protocol):
    """A node that churn can move."""

    def leave(self, *, goodbye: bool) -> None:
        """End, with or without telling the peers."""
        ...

    def enter(self) -> None:
        """Begin anew, with the same key and disk."""
        ...


class Churn:
    """Moves the members of one network.

    newcomer: makes and starts a node that was never there, and returns it.
    """

    def __init__(self, config: ChurnConfig, world: World, newcomer: Callable[[], Member]) -> None:
        assert config.law in LAWS, "there are two laws"
        self._config, self._world, self._newcomer = config, world, newcomer
        self._rng = world.seeds.entropy("churn", config.law).random
        self._gone: list[Member] = []
        self._is_on = False
        self.joins = self.leaves = 0

    def start(self, members: list[Member]) -> None:
        """Begin: each member has some of its session left; others come at the rate they leave."""
        self._is_on = True
        for member in members:
            self._world.after(self._config.left_s(self._rng), self._leave, member)
        self._await_next(len(members) / self._config.mean_s)

    def stop(self) -> None:
        """Let everyone be."""
        self._is_on = False

    def _leave(self, member: Member) -> None:
        if not self._is_on:
            return
        self.leaves += 1
        member.leave(goodbye=self._rng.random() < self._config.goodbyes)
        self._gone.append(member)

    def _await_next(self, rate: float) -> None:
        self._world.after(self._rng.expovariate(rate), self._come, rate)

    def _come(self, rate: float) -> None:
        if not self._is_on:
            return
        self.joins += 1
        if self._gone and self._rng.random() < self._config.returns:
            member = self._gone.pop(self._rng.randrange(len(self._gone)))
            member.enter()
        else:
            member = self._newcomer()
        self._world.after(self._config.session_s(self._rng), self._leave, member)
        self._await_next(rate)
