"""What peers have done lately: scores that fade, per identity and per network.

An identity that misbehaves is ignored, then blocked. A network is only slowed, because many people
may share it. Only what a peer did inside a session counts against its identity: anybody can send
a packet in another's name.
Source: docs/reference/admission.md, "Scores".
"""

from enum import Enum, IntEnum, auto
from typing import Final, NamedTuple

from molia.base.limits import SCORES_MAX

HALF_LIFE_S: Final = 600.0
IGNORE_AT, BLOCK_AT = -50.0, -100.0
IGNORE_S, BLOCK_S = 300.0, 3600.0
_SLACK: Final = 1e-3
"""So that two offences a few milliseconds apart still reach the sum of both."""


class Offence(Enum):
    """What a peer may be guilty of; the value is its score and a number of its own."""

    BAD_SIGNATURE = (-50.0, 0)
    WRONG_ID = (-50.0, 1)
    """Its key, id or address does not fit what it claims."""
    DEAD_CONTACTS = (-20.0, 2)
    """Most contacts that it relayed were unreachable."""
    FLOOD = (-10.0, 3)
    WRONG_BYTES = (-25.0, 4)
    """It gave bytes for a blob's that are not."""

    @property
    def points(self) -> float:
        """What it does to a score."""
        return self.value[0]


class Standing(IntEnum):
    """How an identity is treated. A network in the same place is slowed two- or fourfold."""

    GOOD = auto()
    IGNORED = auto()
    """Its requests are not answered."""
    BLOCKED = auto()
    """It gets no session either."""


class Score(NamedTuple):
    """A score as it was at a time, and until when it has consequences."""

    value: float
    at_s: float
    ignored_until_s: float
    blocked_until_s: float

    def now(self, now_s: float) -> float:
        """Return the score as it has faded since."""
        return float(self.value * 0.5 ** (max(0.0, now_s - self.at_s) / HALF_LIFE_S))


_CLEAN: Final = Score(0.0, 0.0, 0.0, 0.0)


class Scores:
    """Scores by key, in a table of bounded size that forgets who was quiet longest.

    Two generations, as in the limiter: a score that is touched moves to the young one.
    """

    __slots__ = ("_old", "_young")

    def __init__(self) -> None:
        self._young: dict[bytes, Score] = {}
        self._old: dict[bytes, Score] = {}

    def __len__(self) -> int:
        return len(self._young) + len(self._old)

    def add(self, key: bytes, offence: Offence, now_s: float) -> float:
        """Count an offence against a key; return its score now."""
        score = self._of(key)
        value = score.now(now_s) + offence.points
        ignored_s = now_s + IGNORE_S if value <= IGNORE_AT + _SLACK else 0.0
        blocked_s = now_s + BLOCK_S if value <= BLOCK_AT + _SLACK else 0.0
        if key not in self._young and len(self._young) >= SCORES_MAX // 2:
            self._old, self._young = self._young, {}
        self._young[key] = Score(
            value, now_s, max(score.ignored_until_s, ignored_s),
            max(score.blocked_until_s, blocked_s),
        )  # fmt: skip
        return value

    def value(self, key: bytes, now_s: float) -> float:
        """Return the score of a key; 0 for one that did nothing."""
        return self._of(key).now(now_s)

    def standing(self, key: bytes, now_s: float) -> Standing:
        """Return how the owner of a key is treated."""
        score = self._of(key)
        if now_s < score.blocked_until_s:
            return Standing.BLOCKED
        return Standing.IGNORED if now_s < score.ignored_until_s else Standing.GOOD

    def _of(self, key: bytes) -> Score:
        return self._young.get(key) or self._old.get(key, _CLEAN)


class Reputation:
    """The scores of identities and of networks."""

    __slots__ = ("_identities", "_networks")

    def __init__(self) -> None:
        self._identities, self._networks = Scores(), Scores()

    @property
    def entries(self) -> int:
        """Scores that are kept."""
        return len(self._identities) + len(self._networks)

    def penalise(
        self, *, peer_key: bytes | None, network: bytes, offence: Offence, now_s: float
    ) -> None:
        """Count an offence against a network, and against the identity when it proved itself."""
        self._networks.add(network, offence, now_s)
        if peer_key is not None:
            self._identities.add(peer_key, offence, now_s)

    def standing(self, peer_key: bytes, now_s: float) -> Standing:
        """Return how an identity is treated."""
        if not len(self._identities):
            return Standing.GOOD  # asked for every request
        return self._identities.standing(peer_key, now_s)

    def slowness(self, network: bytes, now_s: float) -> int:
        """Return how many tokens a handshake from the network costs: 1, 2 or 4."""
        if not len(self._networks):
            return 1
        return _SLOWNESS[self._networks.standing(network, now_s)]

    def extra_bits(self, network: bytes, now_s: float) -> int:
        """Return how many bits dearer the network's request puzzles are: 0, 2 or 4."""
        return _EXTRA_BITS[self._networks.standing(network, now_s)]


_SLOWNESS: Final = {Standing.GOOD: 1, Standing.IGNORED: 2, Standing.BLOCKED: 4}
_EXTRA_BITS: Final = {Standing.GOOD: 0, Standing.IGNORED: 2, Standing.BLOCKED: 4}
