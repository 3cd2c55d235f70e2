"""A small blob from one of the nodes that keep it whole. A core.

The fastest is asked, another as soon as it is a little late; the first that sends the bytes which
the CID names ends it.
Source: docs/reference/gathering.md, "Small blobs".
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from molia.base.cid import Cid, Codec
from molia.base.deadlines import DeadlineTable
from molia.base.hashing import blake3_digest
from molia.base.limits import WHOLE_SHARE
from molia.blobs.one_read import Failed, GatherConfig, Liar, OneRead
from molia.blobs.sources import Peer, Source


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


Act = AskWhole | CancelWhole | Whole
Effect = Act | Liar | Failed


class GatherWhole(OneRead[Act]):
    """One read of a small blob. Sources come by `on_sources`, until `on_lookup_over`."""

    def __init__(self, cid: Cid, *, now_s: float, config: GatherConfig | None = None) -> None:
        assert cid.codec is Codec.RAW, "a blob with a manifest is gathered stripe by stripe"
        super().__init__(cid, now_s=now_s, config=config)
        self._asked: dict[bytes, float] = {}
        self._late: dict[bytes, None] = {}

    def on_whole(self, key: bytes, data: bytes | None, *, now_s: float) -> None:
        """Take a node's answer; None: it does not have it, or cannot be reached."""
        peer, asked_s = self.sources.peers.get(key), self._asked.pop(key, None)
        if self.is_over or peer is None or asked_s is None:
            return
        self._forget(key)
        if data is None:
            peer.leave_out("does not have it")
        elif blake3_digest(data) != self.cid.digest:
            self._catch(peer, WHOLE_SHARE)
        else:
            peer.answered, peer.outcome = 1, "answers"
            peer.measure(now_s - asked_s)
            self._close()
            self._effects.append(Whole(data))
        self._step(now_s)

    def on_part(self, key: bytes, *, now_s: float) -> None:
        """Take that a node has sent a part; it is waited for longer, up to `progress_s` in all."""
        asked_s = self._asked.get(key)
        if not self.is_over and asked_s is not None:
            until_s = min(now_s + self.config.block_s, asked_s + self.config.progress_s)
            self._deadlines.set(("dead", key, 0, 0), until_s)

    def on_deadline(self, *, now_s: float) -> None:
        """Take that it is `now_s`."""
        for what, key, _, _ in self._deadlines.take_due(now_s):
            if what == "lookup":
                self._is_lookup_over = True
            elif what == "late":
                self._late[key] = None
                self.sources.peers[key].is_silent = True
            elif self._asked.pop(key, None) is not None:
                self._forget(key)
                self.sources.peers[key].leave_out("does not answer")
                self._effects.append(CancelWhole(key))
        self._step(now_s)

    def _usable(self, found: Sequence[Source]) -> Iterable[Source]:
        """Those that have shares of it are passed over."""
        return (source for source in found if WHOLE_SHARE in source.shares)

    def _step(self, now_s: float) -> None:
        if self.is_over:
            return
        fresh = [peer for peer in self.sources.live() if peer.key not in self._asked]
        if fresh and len(self._asked) == len(self._late):
            self._ask(fresh[0], now_s)
        elif not fresh and not self._asked and self._is_lookup_over:
            self._fail_short(0, 1, now_s)

    def _ask(self, peer: Peer, now_s: float) -> None:
        self._asked[peer.key] = now_s
        peer.outcome = "was asked"
        self._effects.append(AskWhole(peer.key))
        self._deadlines.set(("late", peer.key, 0, 0), now_s + self._hedge_s(peer))
        self._deadlines.set(("dead", peer.key, 0, 0), now_s + self.config.block_s)

    def _forget(self, key: bytes) -> None:
        self._late.pop(key, None)
        for what in ("late", "dead"):
            self._deadlines.clear((what, key, 0, 0))

    def _close(self) -> None:
        self._effects += [CancelWhole(key) for key in self._asked]
        self._asked.clear()
        self._deadlines = DeadlineTable()
        self.is_over = True
