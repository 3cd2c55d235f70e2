"""Nodes that hold shares, in virtual time, for reads over the network."""

import heapq
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache

from molia.base.hashing import blake3_digest
from molia.blobs import gather
from molia.blobs.erasure import decode_stripe, encode_stripe
from molia.blobs.gather import Gather
from molia.blobs.geometry import Geometry
from molia.blobs.manifest import Manifest
from molia.blobs.merkle import inclusion_path, share_root
from molia.blobs.one_read import GatherConfig
from molia.blobs.sources import Source

THIN_S, THIN_BYTES = 40.0, 6_500
"""What a block takes on a thin line, and what comes of it in a second."""


@dataclass(frozen=True)
class Coded:
    """A blob and all that its holders have."""

    data: bytes
    manifest: Manifest
    blocks: dict[tuple[int, int], bytes]
    """By share and stripe."""
    leaves: tuple[bytes, ...]


@lru_cache(maxsize=8)
def coded(size: int, seed: int = 1) -> Coded:
    """Code a blob of `size` bytes."""
    unit = bytes((seed * 31 + n * n) % 251 for n in range(4_093))
    data = (unit * (size // len(unit) + 1))[:size]
    geometry, blocks, leaves = Geometry.of(size), {}, [bytearray() for _ in range(14)]
    for index in range(geometry.stripe_count):
        shape = geometry.stripe(index)
        body, step = data[shape.offset : shape.offset + shape.size], shape.block_size
        cut = [body[j * step : (j + 1) * step] for j in range(10)]
        for share, block in enumerate([*cut, *encode_stripe(cut, step)]):
            blocks[share, index] = block
            leaves[share] += blake3_digest(block)
    roots = tuple(share_root(column) for column in leaves)
    manifest = Manifest(size, roots, blake3_digest(data))
    return Coded(data, manifest, blocks, tuple(map(bytes, leaves)))


def with_added(blob: Coded, count: int) -> tuple[Coded, list[bytes]]:
    """Return a blob with parity from 14 on, and its roots."""
    blocks, geometry = dict(blob.blocks), blob.manifest.geometry
    columns = [bytearray() for _ in range(count)]
    for index in range(geometry.stripe_count):
        shape = geometry.stripe(index)
        here = {share: blocks[share, index] for share in shape.stored_shares}
        more = decode_stripe(here, shape, tuple(range(14, 14 + count)))
        for share, block in more.items():
            blocks[share, index] = block
            columns[share - 14] += blake3_digest(block)
    leaves = (*blob.leaves, *map(bytes, columns))
    made = Coded(blob.data, blob.manifest, blocks, leaves)
    return made, [share_root(bytes(column)) for column in columns]


@dataclass
class Remote:
    """A node with shares, and its manners."""

    number: int
    shares: tuple[int, ...]
    manners: str = "good"
    """good, wrong, truncated, endless, stale, mute, slow, lost, forger (of manifests), thin (of
    line), dripping."""
    rtt_s: float = 0.05
    asked: int = 0

    @property
    def key(self) -> bytes:
        return bytes([self.number + 1]) * 32


def fourteen(*, bad: dict[int, str] | None = None, rtt_s: float = 0.05) -> list[Remote]:
    """A node a share; some have manners."""
    return [Remote(n, (n,), (bad or {}).get(n, "good"), rtt_s=rtt_s) for n in range(14)]


class World:
    """Carries out a read's effects."""

    def __init__(self, blob: Coded, remotes: Iterable[Remote], *, taking_s: float = 0.0) -> None:
        self.blob, self.remotes = blob, {r.key: r for r in remotes}
        self.now_s, self.taking_s = 0.0, taking_s
        self.got, self.seen = bytearray(), list[gather.Effect]()
        self.held_max = self.under_way = 0
        self._order, self._queue = itertools.count(), list[tuple[float, int, Callable[[], None]]]()
        self._cancelled: dict[tuple[bytes, int, int], None] = {}

    def sources(self) -> list[Source]:
        """What a lookup finds."""
        return [Source(r.key, r.shares, r.rtt_s) for r in self.remotes.values()]

    def read(
        self, start: int = 0, stop: int | None = None, *, config: GatherConfig | None = None,
        stop_s: float = 1_000.0, found: Sequence[Source] | None = None, ends: bool = True,
        added: Sequence[bytes] = (),
    ) -> Gather:  # fmt: skip
        """Run a read to its end, or to a moment."""
        it = Gather(
            self.blob.manifest.cid, start=start, stop=stop, now_s=self.now_s, config=config,
            added=added,
        )  # fmt: skip
        it.on_sources(self.sources() if found is None else found, now_s=self.now_s)
        if ends:
            it.on_lookup_over(now_s=self.now_s)
        return self.run(it, stop_s=stop_s)

    def run(self, it: Gather, *, stop_s: float = 1_000.0) -> Gather:
        """Go on with a read."""
        while True:
            for effect in it.take_effects():
                self.seen.append(effect)
                self._obey(it, effect)
            times = [self._queue[0][0]] if self._queue else []
            deadline = it.next_deadline_s()
            times += [] if deadline is None else [deadline]
            if it.is_over or not times or min(times) > stop_s:
                return it
            self.now_s = max(self.now_s, min(times))
            if self._queue and self._queue[0][0] <= self.now_s:
                heapq.heappop(self._queue)[2]()
            else:
                it.on_deadline(now_s=self.now_s)

    @property
    def outcome(self) -> gather.Effect:
        """The last effect."""
        return self.seen[-1]

    def blocks_asked(self) -> list[gather.AskBlock]:
        """Every block that was asked for."""
        return [e for e in self.seen if isinstance(e, gather.AskBlock)]

    def later(self, wait_s: float, act: Callable[[], None]) -> None:
        """Do something in a while."""
        heapq.heappush(self._queue, (self.now_s + wait_s, next(self._order), act))

    def _obey(self, it: Gather, effect: gather.Effect) -> None:
        match effect:
            case gather.AskManifest(key):
                self._manifest(it, self.remotes[key])
            case gather.AskBlock(key, share, index):
                self._block(it, self.remotes[key], share, index)
            case gather.CancelBlock(key, share, index):
                self._cancelled[key, share, index] = None
                self.under_way -= 1
            case gather.Decode(stripe):
                blocks = gather.decode(effect)
                self.later(0.01, lambda: it.on_decoded(stripe.index, blocks, now_s=self.now_s))
            case gather.Deliver(index, chunks):
                self.got += b"".join(chunks)
                self.later(self.taking_s, lambda: it.on_delivered(index, now_s=self.now_s))

    def _manifest(self, it: Gather, remote: Remote) -> None:
        encoded: bytes | None = self.blob.manifest.encode()
        if remote.manners == "mute":
            return
        if remote.manners == "forger":
            encoded = coded(self.blob.manifest.size, seed=9).manifest.encode()
        elif remote.manners == "stale":
            encoded = None
        if remote.manners == "lost":
            self.later(remote.rtt_s, lambda: it.on_lost(remote.key, now_s=self.now_s))
            return
        self.later(remote.rtt_s, lambda: it.on_manifest(remote.key, encoded, now_s=self.now_s))

    def _block(self, it: Gather, remote: Remote, share: int, index: int) -> None:
        remote.asked += 1
        self.under_way += 1
        self.held_max = max(self.held_max, self.under_way)
        self._cancelled.pop((remote.key, share, index), None)
        block: bytes | None = self.blob.blocks[share, index]
        path = inclusion_path(self.blob.leaves[share], index)
        wait_s = remote.rtt_s
        match remote.manners:
            case "mute":
                return
            case "lost":
                self.later(wait_s, lambda: it.on_lost(remote.key, now_s=self.now_s))
                return
            case "wrong" | "forger":
                block = bytes(len(block or b""))
            case "truncated":
                block = (block or b"")[:-1]
            case "endless":
                block = (block or b"") + b"x"
            case "stale":
                block = None
            case "slow":
                wait_s = 5.0
            case "thin":
                wait_s = THIN_S
                self._part(it, remote, share, index, THIN_BYTES)
            case "dripping":
                self._part(it, remote, share, index, 1)
                return
        self.later(wait_s, lambda: self._arrive(it, remote, share, index, block, path))

    def _part(self, it: Gather, remote: Remote, share: int, index: int, size: int) -> None:
        """Send a part a second, until the block is whole or not wanted any more."""
        if it.is_over or (remote.key, share, index) in self._cancelled:
            return
        it.on_part(remote.key, share, index, size=size, now_s=self.now_s)
        self.later(1.0, lambda: self._part(it, remote, share, index, size))

    def _arrive(
        self, it: Gather, remote: Remote, share: int, index: int, block: bytes | None,
        path: list[bytes],
    ) -> None:  # fmt: skip
        if (remote.key, share, index) not in self._cancelled:
            self.under_way -= 1
            it.on_block(remote.key, share, index, block, path=path, now_s=self.now_s)
