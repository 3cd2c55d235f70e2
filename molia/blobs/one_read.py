"""What all reads from remote holders share: their sources, their patience, how they fail.

`Gather` reads stripes, `GatherWhole` small blobs; both are cores, driven through the same doors.
Source: docs/reference/gathering.md.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from molia.base.cid import Cid
from molia.base.deadlines import DeadlineTable
from molia.base.errors import MoliaError, NoHolders, SharesOutOfReach
from molia.base.ids import PeerKey
from molia.base.limits import ASKED_SHOWN_MAX
from molia.blobs.sources import Peer, Source, Sources

Effect = TypeVar("Effect")
Timer = tuple[str, bytes, int, int]
"""What it is for, and of what node, share and stripe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GatherConfig:
    """How patient a read is."""

    ahead: int = 4
    """Stripes asked for and not yet taken by the reader: 2.5 MiB each."""
    together: int = 2
    """Of these, so many are asked for at once: a request for each block costs more."""
    lookup_s: float = 8.0
    """Until when somebody must be known to have the blob."""
    manifest_s: float = 10.0
    manifest_hedge_s: float = 0.3
    block_s: float = 8.0
    """How long one block may take in all."""
    hedge_factor: float = 4.0
    hedge_min_s: float = 0.1
    hedge_max_s: float = 2.0
    """When another is asked: after so many times what the holder's blocks take, within these."""
    progress_s: float = 30.0
    """How long a reader that waits may get nothing."""


@dataclass(frozen=True, slots=True)
class Liar:
    """This node sent what is not the blob's: its shares count as lost."""

    key: bytes
    share: int | None
    """None: of the manifest."""


@dataclass(frozen=True, slots=True)
class Failed:
    """No more bytes can be delivered."""

    error: MoliaError


class OneRead(ABC, Generic[Effect]):
    """A read of one blob. Sources come by `on_sources`, until `on_lookup_over`."""

    def __init__(self, cid: Cid, *, now_s: float, config: GatherConfig | None = None) -> None:
        self.cid, self.config = cid, config or GatherConfig()
        self.sources = Sources()
        self.liars: dict[bytes, None] = {}
        self.is_over = self._is_lookup_over = False
        self._effects: list[Effect | Failed | Liar] = []
        self._deadlines: DeadlineTable[Timer] = DeadlineTable()
        self._began_s = now_s
        self._deadlines.set(("lookup", b"", 0, 0), now_s + self.config.lookup_s)

    @abstractmethod
    def _step(self, now_s: float) -> None:
        """Do what is possible now."""

    @abstractmethod
    def _close(self) -> None:
        """Wait for nothing any more."""

    def take_effects(self) -> list[Effect | Failed | Liar]:
        """Return what is to be done now, once."""
        effects, self._effects = self._effects, []
        return effects

    def next_deadline_s(self) -> float | None:
        """Return when `on_deadline` is to be called."""
        return self._deadlines.next_s()

    def on_sources(self, found: Sequence[Source], *, now_s: float) -> None:
        """Take nodes that say they have it, or shares of it."""
        self.sources.add(self._usable(found))
        self._step(now_s)

    def on_lookup_over(self, *, now_s: float) -> None:
        """Take that no more sources will come."""
        self._is_lookup_over = True
        self._step(now_s)

    def _usable(self, found: Sequence[Source]) -> Iterable[Source]:
        """Return those that can be asked in this read."""
        return found

    def _hedge_s(self, peer: Peer) -> float:
        """Return after what time another is asked in a node's place."""
        config = self.config
        expected_s = self.sources.expected_s(peer) * config.hedge_factor
        return min(max(expected_s, config.hedge_min_s), config.hedge_max_s)

    def _catch(self, peer: Peer, share: int | None) -> None:
        """A node sent wrong bytes: report it and never ask it again."""
        self.liars[peer.key] = None
        self._effects.append(Liar(peer.key, share))
        peer.leave_out("sent wrong bytes")

    def _fail_short(self, reachable: int, needed: int, now_s: float) -> None:
        """End the read: what is known and answers is not enough."""
        if not self.sources.peers:
            self._fail(NoHolders(self.cid, waited_s=now_s - self._began_s))
            return
        asked = [(PeerKey(key).short, outcome) for key, outcome in self.sources.asked()]
        self._fail(
            SharesOutOfReach(
                self.cid, reachable=reachable, needed=needed, asked=asked[:ASKED_SHOWN_MAX]
            )
        )

    def _fail(self, error: MoliaError) -> None:
        self._close()
        self._effects.append(Failed(error))
