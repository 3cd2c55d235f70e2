"""A small blob from one of the nodes that keep it whole. A core.

The fastest is asked, another as soon as it is a little late; the first that sends the bytes which
the CID names ends it.
Source: docs/reference/gathering.md, "Small blobs".
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from molia.base.cid import Cid, Codec
from molia.base.deadlines import DeadlineTable
from molia.base.errors import MoliaError, NoHolders, SharesOutOfReach
from molia.base.hashing import blake3_digest
from molia.base.ids import PeerKey
from molia.base.limits import ASKED_SHOWN_MAX, WHOLE_SHARE
from molia.blobs.gather import Failed, GatherConfig, Liar
from molia.blobs.sources import Peer, Source, Sources


@dataclass(frozen=True, slots=True)
class AskWhole:
    """Get the blob from this node and give it to `on_whole`."""

    key: bytes


@dataclass(frozen=True, slots=True)
class CancelWhole:
    """This node's answer is not waited for any more."""

    key: bytes


@dataclass(frozen=True, slots=True)
class Whole:
    """The blob's bytes."""

    data: bytes


Effect = AskWhole | CancelWhole | Whole | Liar | Failed
_LOOKUP: Final = ("lookup", b"")


class GatherWhole:
    """One read of a small blob. Sources come by `on_sources`, until `on_lookup_over`."""

    def __init__(self, cid: Cid, *, now_s: float, config: GatherConfig | None = None) -> None:
        assert cid.codec is Codec.RAW, "a blob with a manifest is gathered stripe by stripe"
        self.cid, self.config = cid, config or GatherConfig()
        self.sources = Sources()
        self.liars: dict[bytes, None] = {}
        self.is_over = self._is_lookup_over = False
        self._asked: dict[bytes, float] = {}
        self._late: dict[bytes, None] = {}
        self._effects: list[Effect] = []
        self._deadlines: DeadlineTable[tuple[str, bytes]] = DeadlineTable()
        self._began_s = now_s
        self._deadlines.set(_LOOKUP, now_s + self.config.lookup_s)

    def take_effects(self) -> list[Effect]:
        """Return what is to be done now, once."""
        effects, self._effects = self._effects, []
        return effects

    def next_deadline_s(self) -> float | None:
        """Return when `on_deadline` is to be called."""
        return self._deadlines.next_s()

    def on_sources(self, found: Sequence[Source], *, now_s: float) -> None:
        """Take nodes that say they have it; those that have shares of it are passed over."""
        self.sources.add(source for source in found if WHOLE_SHARE in source.shares)
        self._step(now_s)

    def on_lookup_over(self, *, now_s: float) -> None:
        """Take that no more sources will come."""
        self._is_lookup_over = True
        self._step(now_s)

    def on_whole(self, key: bytes, data: bytes | None, *, now_s: float) -> None:
        """Take a node's answer; None: it does not have it, or cannot be reached."""
        peer, asked_s = self.sources.peers.get(key), self._asked.pop(key, None)
        if self.is_over or peer is None or asked_s is None:
            return
        self._forget(key)
        if data is None:
            peer.leave_out("does not have it")
        elif blake3_digest(data) != self.cid.digest:
            peer.leave_out("sent wrong bytes")
            self.liars[key] = None
            self._effects.append(Liar(key, WHOLE_SHARE))
        else:
            self._close()
            self._effects.append(Whole(data))
        self._step(now_s)

    def on_deadline(self, *, now_s: float) -> None:
        """Take that it is `now_s`."""
        for what, key in self._deadlines.take_due(now_s):
            if what == "lookup":
                self._is_lookup_over = True
            elif what == "late":
                self._late[key] = None
            elif self._asked.pop(key, None) is not None:
                self._forget(key)
                self.sources.peers[key].leave_out("does not answer")
                self._effects.append(CancelWhole(key))
        self._step(now_s)

    def _step(self, now_s: float) -> None:
        if self.is_over:
            return
        fresh = [peer for peer in self.sources.live() if peer.key not in self._asked]
        if fresh and len(self._asked) == len(self._late):
            self._ask(fresh[0], now_s)
        elif not fresh and not self._asked and self._is_lookup_over:
            self._fail(now_s)

    def _ask(self, peer: Peer, now_s: float) -> None:
        self._asked[peer.key] = now_s
        peer.outcome = "was asked"
        self._effects.append(AskWhole(peer.key))
        config = self.config
        hedge_s = min(
            max(peer.expected_s * config.hedge_factor, config.hedge_min_s), config.hedge_max_s
        )
        self._deadlines.set(("late", peer.key), now_s + hedge_s)
        self._deadlines.set(("dead", peer.key), now_s + config.block_s)

    def _forget(self, key: bytes) -> None:
        self._late.pop(key, None)
        for what in ("late", "dead"):
            self._deadlines.clear((what, key))

    def _fail(self, now_s: float) -> None:
        error: MoliaError = NoHolders(self.cid, waited_s=now_s - self._began_s)
        if self.sources.peers:
            asked = [(PeerKey(key).short, outcome) for key, outcome in self.sources.asked()]
            error = SharesOutOfReach(self.cid, reachable=0, needed=1, asked=asked[:ASKED_SHOWN_MAX])
        self._close()
        self._effects.append(Failed(error))

    def _close(self) -> None:
        self._effects += [CancelWhole(key) for key in self._asked]
        self._asked.clear()
        self._deadlines = DeadlineTable()
        self.is_over = True
