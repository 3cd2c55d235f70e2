"""One read of a blob's bytes from the nodes that hold its shares. A core.

The manifest comes from the first that has it, then stripe by stripe: the data blocks that the
range touches, straight from their holders; where one is missing, wrong or too slow, the fastest
others, and a decode. Each block comes with its Merkle path, so that whatever arrives is checked
against the CID before it is used. Who sends wrong bytes is reported and not asked again.
The shell stops taking stripes by not saying `on_delivered`: what is held is at most `ahead`
stripes. A read that broke off goes on with a new Gather from `position`.
Source: docs/reference/gathering.md.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from molia.base.cid import Cid, Codec
from molia.base.deadlines import DeadlineTable
from molia.base.errors import BadManifest, BlobDamaged, TimedOut
from molia.base.hashing import EMPTY_DIGEST, blake3_digest
from molia.base.limits import DATA_SHARES, KIB, TOTAL_SHARES
from molia.blobs.erasure import decode_stripe
from molia.blobs.geometry import StripeShape
from molia.blobs.manifest import Manifest, cid_of_manifest
from molia.blobs.merkle import Frontier, verify_path
from molia.blobs.one_read import Failed, GatherConfig, Liar, OneRead
from molia.blobs.sources import Peer, Source

_SLOW_ALL: Final = 3.0
_SLOW_FEW: Final = 10.0
"""How much slower than usual a data block's holder may be before others are asked in its place:
for most of a stripe that costs nothing, for a small part of one it costs ten blocks."""


_PROGRESS_BYTES: Final = 64 * KIB
"""Parts of blocks that count as progress when no stripe becomes whole: who drips does not."""


@dataclass(frozen=True, slots=True)
class AskManifest:
    """Get the manifest from this node and give it to `on_manifest`."""

    key: bytes


@dataclass(frozen=True, slots=True)
class AskBlock:
    """Get a block with its path and give it to `on_block`. `size`: more is wrong, stop there."""

    key: bytes
    share: int
    stripe_index: int
    size: int


@dataclass(frozen=True, slots=True)
class CancelBlock:
    """This block is not waited for any more."""

    key: bytes
    share: int
    stripe_index: int


@dataclass(frozen=True, slots=True)
class Decode:
    """Run `decode` on this in a thread and give the result to `on_decoded`."""

    stripe: StripeShape
    blocks: Mapping[int, bytes]
    missing: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Deliver:
    """The next bytes for the reader. Say `on_delivered` once it has taken them."""

    stripe_index: int
    chunks: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Done:
    """All bytes were delivered."""


Act = AskManifest | AskBlock | CancelBlock | Decode | Deliver | Done
Effect = Act | Liar | Failed
_Ask = tuple[bytes, int]
"""Node and share."""


def decode(effect: Decode) -> dict[int, bytes]:
    """Return the missing blocks, from blocks that were checked. For a thread."""
    return decode_stripe(effect.blocks, effect.stripe, effect.missing)


@dataclass(slots=True)
class _Stripe:
    shape: StripeShape
    wanted: tuple[int, ...]
    asked: dict[_Ask, float] = field(default_factory=dict)
    """Since when."""
    late: dict[_Ask, None] = field(default_factory=dict)
    """Of these, those in whose place others were asked."""
    blocks: dict[int, bytes] = field(default_factory=dict)
    leaves: dict[int, bytes] = field(default_factory=dict)
    """Digests of those blocks that came from a holder and were checked."""
    must_decode: bool = False
    is_decoding: bool = False

    def pending(self) -> dict[int, None]:
        """Return the shares that are expected in time."""
        return {share: None for key, share in self.asked if (key, share) not in self.late}

    def missing(self) -> tuple[int, ...]:
        """Return the wanted shares that are not here."""
        return tuple(share for share in self.wanted if share not in self.blocks)


class Gather(OneRead[Act]):
    """A read of [start, stop) of a blob that has a manifest; stop None: to its end.

    shares: for a repair, these shares' blocks of all stripes in place of the range's bytes, in this
    order and without the empty ones; `position` then counts their bytes.
    Sources come by `on_sources`, any number of times, until `on_lookup_over`.
    """

    def __init__(
        self, cid: Cid, *, start: int = 0, stop: int | None = None, now_s: float,
        manifest: Manifest | None = None, shares: Sequence[int] | None = None,
        added: Sequence[bytes] = (), absent: Collection[bytes] = (),
        config: GatherConfig | None = None,
    ) -> None:  # fmt: skip
        """added: the roots of shares from 14 on, which are then read as any. They are a hint: what
        comes out has to be compared with the content's own hash.

        absent: nodes that did not answer just now: they are not asked, so nobody waits for them.
        """
        assert cid.codec is Codec.MANIFEST, "small blobs are gathered whole"
        assert 0 <= start <= (start if stop is None else stop), "a range goes forward"
        super().__init__(cid, now_s=now_s, config=config)
        self.position = start
        """Up to where bytes were delivered."""
        self.manifest = manifest
        self._start, self._stop = start, stop
        self._shares = None if shares is None else tuple(shares)
        self._added, self._absent = tuple(added), frozenset(absent)
        self._stripes: dict[int, _Stripe] = {}
        self._manifest_asked: dict[bytes, None] = {}
        self._undelivered = self._ask_next = self._give_next = 0
        self._todo = range(0)
        self._columns = {share: Frontier() for share in range(DATA_SHARES)}
        """The leaves of data shares, of the stripes that were delivered."""
        self._made: set[int] = set()
        """Data shares of which blocks were decoded."""
        self._part_bytes = 0
        """Of blocks that are not whole yet, since progress was seen last."""
        self._hurry_s = now_s
        self.hedged = self.decoded = 0
        self._begin(now_s)

    # ------------------------------------------------------------------ doors

    def on_manifest(self, key: bytes, data: bytes | None, *, now_s: float) -> None:
        """Take a node's manifest; None: it has none, or does not answer."""
        peer = self.sources.peers.get(key)
        if self.is_over or self.manifest is not None or peer is None:
            return
        self._deadlines.clear(("manifest", key, 0, 0))
        if data is None:
            peer.leave_out("has no manifest")
        elif cid_of_manifest(data) != self.cid:
            self._catch(peer, None)
        else:
            peer.answered += 1
            self._take_manifest(data, now_s)
        self._step(now_s)

    def on_block(
        self, key: bytes, share: int, stripe_index: int, block: bytes | None, *,
        path: Sequence[bytes] = (), now_s: float,
    ) -> None:  # fmt: skip
        """Take a block; None: the node does not have it. Too long or too short is wrong too."""
        peer, stripe = self.sources.peers.get(key), self._stripes.get(stripe_index)
        asked_s = None if stripe is None else stripe.asked.pop((key, share), None)
        if self.is_over or peer is None or stripe is None or asked_s is None:
            return
        self._forget(stripe, key, share)
        peer.under_way -= 1
        if block is None:
            peer.shares.pop(share, None)
            peer.outcome = "does not have its share"
        elif not self._is_sound(stripe.shape, share, block, leaf := blake3_digest(block), path):
            self._catch(peer, share)
        else:
            peer.answered, peer.missed, peer.outcome = peer.answered + 1, 0, "answers"
            peer.is_silent = False
            peer.measure(now_s - asked_s)
            if peer.answered == 1:
                self._hurry()
            stripe.blocks[share], stripe.leaves[share] = block, leaf
            self._watch_sender(key, share, stripe_index, now_s)
        self._step(now_s)

    def on_part(
        self, key: bytes, share: int, stripe_index: int, *, size: int, now_s: float
    ) -> None:
        """Take that so many bytes of a block came, and more are to come: on a thin line a block
        takes long, and a node that sends is there."""
        stripe = self._stripes.get(stripe_index)
        if self.is_over or stripe is None or (key, share) not in stripe.asked:
            return
        self._watch_sender(key, share, stripe_index, now_s)
        self._part_bytes += size
        if self._part_bytes >= _PROGRESS_BYTES:
            self._watch_progress(now_s)

    def on_lost(self, key: bytes, *, now_s: float) -> None:
        """Take that a node cannot be reached, or broke off: others are asked in its place."""
        peer = self.sources.peers.get(key)
        if self.is_over or peer is None:
            return
        peer.is_silent = True
        peer.leave_out("cannot be reached")
        self._unask(peer)
        self._step(now_s)

    def on_decoded(self, stripe_index: int, blocks: Mapping[int, bytes], *, now_s: float) -> None:
        """Take what `decode` gave."""
        stripe = self._stripes.get(stripe_index)
        if self.is_over or stripe is None:
            return
        self.decoded += 1
        stripe.is_decoding = False
        stripe.blocks = {**blocks, **stripe.blocks}  # one that came meanwhile is known to be right
        self._step(now_s)

    def on_delivered(self, stripe_index: int, *, now_s: float) -> None:
        """Take that the reader has a Deliver's bytes."""
        assert self._undelivered > 0, f"stripe {stripe_index} was delivered"
        self._undelivered -= 1
        self._watch_progress(now_s)
        self._step(now_s)

    def on_deadline(self, *, now_s: float) -> None:
        """Take that it is `now_s`."""
        for what, key, share, index in self._deadlines.take_due(now_s):
            peer, stripe = self.sources.peers.get(key), self._stripes.get(index)
            if what == "lookup":
                self._is_lookup_over = True
            elif what == "progress":
                waited = TimedOut(f"nothing of {self.cid} came for {self.config.progress_s:.0f} s")
                self._fail(waited)
            elif what == "manifest" and peer is not None:
                peer.leave_out("gave no manifest in time")
            elif what == "late" and peer is not None and stripe is not None:
                self._hedge(peer, stripe, share, now_s)
            elif what == "dead" and peer is not None and stripe is not None:
                self._give_up(peer, stripe, share)
        self._step(now_s)

    def _usable(self, found: Sequence[Source]) -> Iterable[Source]:
        return [source for source in found if source.key not in self._absent]

    # ------------------------------------------------------------------ the manifest

    def _begin(self, now_s: float) -> None:
        """Open the range, once the manifest says how long the blob is."""
        if self.manifest is None:
            return
        size = self.manifest.size
        self._stop = size if self._stop is None else min(self._stop, size)
        self._start = self.position = min(self._start, self._stop)
        self._todo = self.manifest.geometry.stripes_of(self._start, self._stop)
        self._ask_next = self._give_next = self._todo.start
        self._watch_progress(now_s)
        self._step(now_s)

    def _take_manifest(self, data: bytes, now_s: float) -> None:
        try:
            self.manifest = Manifest.decode(data)
        except BadManifest as error:  # it is what the CID names, and nothing that can be read
            self._fail(error)
            return
        for key in self._manifest_asked:
            self._deadlines.clear(("manifest", key, 0, 0))
        self._begin(now_s)

    def _ask_manifest(self, now_s: float) -> None:
        """Ask one node, and another whenever the last one is a little late."""
        live = self.sources.live()
        waiting = [p for p in live if p.key in self._manifest_asked]
        fresh = [p for p in live if p.key not in self._manifest_asked]
        if fresh and (not waiting or now_s >= self._hurry_s):
            peer = fresh[0]
            self._manifest_asked[peer.key] = None
            peer.outcome = "was asked for the manifest"
            self._effects.append(AskManifest(peer.key))
            until_s = now_s + self.config.manifest_s
            self._deadlines.set(("manifest", peer.key, 0, 0), until_s)
            self._hurry_s = now_s + self.config.manifest_hedge_s
            self._deadlines.set(("hurry", b"", 0, 0), self._hurry_s)
        elif not live and self._is_lookup_over:
            self._fail_short(0, DATA_SHARES, now_s)

    # ------------------------------------------------------------------ stripes

    def _step(self, now_s: float) -> None:
        if self.is_over:
            return
        if self.manifest is None:
            self._ask_manifest(now_s)
            return
        self._open_stripes(self.manifest)
        for stripe in list(self._stripes.values()):
            if not self.is_over:
                self._fill(stripe, now_s)
        self._give(now_s)

    def _open_stripes(self, manifest: Manifest) -> None:
        """Go on to the next stripes: a few at once, so that a request is for more than a block."""
        room = self.config.ahead - len(self._stripes) - self._undelivered
        left = self._todo.stop - self._ask_next
        if room < min(self.config.together, self.config.ahead, left):
            return
        for _ in range(min(room, left)):
            shape = manifest.geometry.stripe(self._ask_next)
            self._stripes[shape.index] = _Stripe(shape, self._wanted(shape))
            self._ask_next += 1

    def _wanted(self, shape: StripeShape) -> tuple[int, ...]:
        if self._shares is None:
            return shape.shares_of(self._start, self._stop or 0)
        return tuple(share for share in self._shares if shape.size_of(share) > 0)

    def _fill(self, stripe: _Stripe, now_s: float) -> None:
        """Ask for what the stripe lacks."""
        missing = stripe.missing()
        if stripe.is_decoding or not missing:
            return
        if not stripe.must_decode and not self._ask_direct(stripe, missing, now_s):
            stripe.must_decode = self._is_lookup_over or self._can_decode(stripe.shape)
        if stripe.must_decode:
            self._ask_any(stripe, missing, now_s)

    def _ask_direct(self, stripe: _Stripe, missing: Sequence[int], now_s: float) -> bool:
        """Ask the holders of the wanted blocks; False when that is not possible or not wise."""
        pending = stripe.pending()
        if max(missing) >= TOTAL_SHARES:  # such parity is made, not fetched
            return False
        unasked = [share for share in missing if share not in pending]
        if not unasked:
            return True
        most = 2 * len(stripe.wanted) >= stripe.shape.needed
        slow_s = self.sources.usual_s() * (_SLOW_ALL if most else _SLOW_FEW)
        chosen = []
        for share in unasked:
            peers = [p for p in self.sources.of(share) if (p.key, share) not in stripe.asked]
            if not peers or peers[0].block_s > slow_s:
                return False
            chosen.append((peers[0], share))
        for peer, share in chosen:
            self._ask(stripe, peer, share, now_s)
        return True

    def _can_decode(self, shape: StripeShape) -> bool:
        """Tell whether enough is known to do without the wanted blocks: else more may be found."""
        known = (share for share in self._readable(shape) if self.sources.of(share))
        return sum(1 for _ in known) >= shape.needed

    def _ask_any(self, stripe: _Stripe, missing: tuple[int, ...], now_s: float) -> None:
        """Ask the fastest for as many blocks as a decode takes, or decode."""
        shape, pending = stripe.shape, stripe.pending()
        if len(stripe.blocks) >= shape.needed:
            stripe.is_decoding = True
            self._unask_stripe(stripe)
            self._effects.append(Decode(shape, dict(stripe.blocks), missing))
            return
        if len(stripe.blocks) + len(pending) >= shape.needed:
            return
        pairs = list(self.sources.fastest(self._readable(shape), without=stripe.asked))
        if self._shares is not None:  # a repair may wait, and pays for each data block it computes
            pairs.sort(key=lambda pair: pair[0] >= DATA_SHARES)
        for share, peer in pairs:
            if len(stripe.blocks) + len(pending) >= shape.needed:
                return
            if share in stripe.blocks or share in pending:
                continue
            self._ask(stripe, peer, share, now_s)
            pending[share] = None
        if len(stripe.blocks) + len(pending) < shape.needed and self._is_lookup_over:
            self._check_short(stripe, now_s)

    def _readable(self, shape: StripeShape) -> tuple[int, ...]:
        """Return the shares whose blocks help: those of the manifest, and those that were added."""
        added = range(TOTAL_SHARES, TOTAL_SHARES + len(self._added))
        return (*shape.stored_shares, *added)

    def _root(self, share: int) -> bytes | None:
        assert self.manifest is not None, "blocks are asked for with a manifest"
        roots = (*self.manifest.roots, *self._added)
        return roots[share] if share < len(roots) else None

    def _check_short(self, stripe: _Stripe, now_s: float) -> None:
        """Fail when not even late answers could make up what is missing."""
        hoped = {share: None for _, share in stripe.asked} | dict.fromkeys(stripe.blocks)
        if len(hoped) < stripe.shape.needed:
            self._fail_short(len(hoped), stripe.shape.needed, now_s)

    def _ask(self, stripe: _Stripe, peer: Peer, share: int, now_s: float) -> None:
        index = stripe.shape.index
        stripe.asked[peer.key, share] = now_s
        peer.under_way += 1
        if peer.outcome == "was not asked":
            peer.outcome = "was asked"
        self._effects.append(AskBlock(peer.key, share, index, stripe.shape.size_of(share)))
        self._deadlines.set(("late", peer.key, share, index), now_s + self._hedge_s(peer))
        self._deadlines.set(("dead", peer.key, share, index), now_s + self.config.block_s)

    def _hurry(self) -> None:
        """Wait less for those that never answered, now that one more tells what is usual."""
        for stripe in self._stripes.values():
            for (key, share), asked_s in stripe.asked.items():
                peer = self.sources.peers[key]
                if not peer.answered and (key, share) not in stripe.late:
                    name = ("late", key, share, stripe.shape.index)
                    self._deadlines.set(name, asked_s + self._hedge_s(peer))

    def _hedge(self, peer: Peer, stripe: _Stripe, share: int, now_s: float) -> None:
        """Count on somebody else; a late answer is still taken."""
        asked_s = stripe.asked.get((peer.key, share))
        if asked_s is not None:
            peer.measure(now_s - asked_s)
            stripe.late[peer.key, share] = None
            peer.is_silent = True
            self.hedged += 1

    def _watch_sender(self, key: bytes, share: int, since: int, now_s: float) -> None:
        """Give a node that sends its time anew: for a block, and for those that come after it."""
        for index, stripe in self._stripes.items():
            if index >= since and (key, share) in stripe.asked:
                self._deadlines.set(("dead", key, share, index), now_s + self.config.block_s)

    def _give_up(self, peer: Peer, stripe: _Stripe, share: int) -> None:
        if stripe.asked.pop((peer.key, share), None) is None:
            return
        self._forget(stripe, peer.key, share)
        peer.under_way -= 1
        self._effects.append(CancelBlock(peer.key, share, stripe.shape.index))
        peer.miss()
        if peer.is_out:
            self._unask(peer)

    def _unask(self, peer: Peer) -> None:
        """Wait for nothing from a node any more."""
        for stripe in self._stripes.values():
            for key, share in [ask for ask in stripe.asked if ask[0] == peer.key]:
                self._drop_ask(stripe, key, share)

    def _unask_stripe(self, stripe: _Stripe) -> None:
        for key, share in list(stripe.asked):
            self._drop_ask(stripe, key, share)

    def _drop_ask(self, stripe: _Stripe, key: bytes, share: int) -> None:
        del stripe.asked[key, share]
        self._forget(stripe, key, share)
        self.sources.peers[key].under_way -= 1
        self._effects.append(CancelBlock(key, share, stripe.shape.index))

    def _forget(self, stripe: _Stripe, key: bytes, share: int) -> None:
        stripe.late.pop((key, share), None)
        for what in ("late", "dead"):
            self._deadlines.clear((what, key, share, stripe.shape.index))

    def _is_sound(
        self, shape: StripeShape, share: int, block: bytes, leaf: bytes, path: Sequence[bytes]
    ) -> bool:
        assert self.manifest is not None, "blocks are asked for with a manifest"
        root = self._root(share)
        if root is None or len(block) != shape.size_of(share):
            return False
        return verify_path(
            root=root, leaf=leaf, index=shape.index,
            leaf_count=self.manifest.geometry.stripe_count, path=path,
        )  # fmt: skip

    def _catch(self, peer: Peer, share: int | None) -> None:
        super()._catch(peer, share)
        self._unask(peer)

    # ------------------------------------------------------------------ delivery and ends

    def _give(self, now_s: float) -> None:
        while not self.is_over and self._give_next in self._stripes:
            stripe = self._stripes[self._give_next]
            if stripe.missing():
                return
            self._unask_stripe(stripe)
            del self._stripes[self._give_next]
            shape = stripe.shape
            if self._shares is None and not self._is_well_coded(stripe):
                self._fail(_wrongly_coded(self.cid))
                return
            chunks = tuple(self._cut(shape, share, stripe.blocks[share]) for share in stripe.wanted)
            self._effects.append(Deliver(shape.index, chunks))
            self.position += sum(map(len, chunks))
            self._undelivered += 1
            self._give_next += 1
            self._watch_progress(now_s)
        if self._give_next >= self._todo.stop and not self._undelivered:
            self._effects.append(Done())
            self._close()

    def _is_well_coded(self, stripe: _Stripe) -> bool:
        """Note the leaves of the next stripe; with the last one, tell whether shares of which
        blocks were decoded have the roots that the manifest lists.

        Ten sound blocks give some tenth whatever was coded: another ten would give another, if who
        put the blob meant it so. What a range does not read of a share, it cannot tell.
        """
        assert self.manifest is not None, "there are stripes"
        for share, column in self._columns.items():
            if stripe.shape.size_of(share) == 0:
                column.append(EMPTY_DIGEST)
            elif share in stripe.wanted:
                leaf = stripe.leaves.get(share)
                if leaf is None:
                    self._made.add(share)
                    leaf = blake3_digest(stripe.blocks[share])
                column.append(leaf)
        count, roots = self.manifest.geometry.stripe_count, self.manifest.roots
        if stripe.shape.index + 1 < count:
            return True
        whole = [share for share in self._made if self._columns[share].count == count]
        return all(self._columns[share].root() == roots[share] for share in whole)

    def _cut(self, shape: StripeShape, share: int, block: bytes) -> bytes:
        """Return the block's part of the range; in a repair all of it."""
        if self._shares is not None:
            return block
        offset = shape.offset + share * shape.block_size
        return block[max(0, self._start - offset) : (self._stop or 0) - offset]

    def _watch_progress(self, now_s: float) -> None:
        """Time the wait of a reader that takes what comes; not of one that lets us wait."""
        self._part_bytes = 0
        if self._undelivered:
            self._deadlines.clear(("progress", b"", 0, 0))
        else:
            self._deadlines.set(("progress", b"", 0, 0), now_s + self.config.progress_s)

    def _close(self) -> None:
        for stripe in self._stripes.values():
            self._unask_stripe(stripe)
        self.is_over = True
        self._stripes.clear()
        self._deadlines = DeadlineTable()


def _wrongly_coded(cid: Cid) -> BlobDamaged:
    return BlobDamaged(
        f"{cid} was wrongly coded when it was put: its shares do not belong together",
        hint="nobody can mend it; ask who put it for another",
    )
