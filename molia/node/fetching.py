"""Blobs from the network: found, gathered from those who hold them, checked, given to a reader.

    reader = await fetcher.open(cid)            # who has it, and what it is
    async for chunk in reader.read(0, size):    # from the fastest, each block checked

Source: docs/reference/gathering.md.
"""

import asyncio
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable
from typing import Final, Protocol

import structlog

from molia.base import limits
from molia.base.cid import Cid, Codec, Ref
from molia.base.errors import (
    BlobNotFound,
    Busy,
    LookupTimedOut,
    MoliaError,
    NoHolders,
    NotJoined,
    outcome_of,
)
from molia.base.ids import PeerKey
from molia.base.views import BlobInfo
from molia.blobs import gather as cores
from molia.blobs.gather import Gather
from molia.blobs.gather_whole import GatherWhole, Whole
from molia.blobs.geometry import STRIPE_SIZE_MAX
from molia.blobs.manifest import Manifest
from molia.blobs.sources import Source
from molia.dht.blinding import content_cid
from molia.node.catalog import Bound
from molia.node.context import Context
from molia.node.gathering import Gathering
from molia.node.network import Network
from molia.node.whereabouts import Find, Finds, LookUp
from molia.wire.scores import Offence

log = structlog.get_logger(__name__)

AHEAD: Final = 4
LIAR_S: Final = 3_600.0
"""For so long who lied is asked after all others."""
LIAR_RTT_S: Final = 10.0
FIRST_RTT_S: Final = 0.15
NEAR_S: Final = 0.0
CHUNK_SIZE: Final = limits.BLOCK_SIZE_MAX
JOIN_WAIT_S: Final = 3.0
JOIN_LOOK_S: Final = 0.1
OnLie = Callable[[Cid, PeerKey, int | None], None]


class Joins(Protocol):
    """How this worker stands among the others."""

    @property
    def is_joined(self) -> bool:
        """Whether there is somebody to ask."""
        ...

    @property
    def may_join(self) -> bool:
        """Whether it was told of anybody."""
        ...


class Fetcher:
    """Reads through the network, of one worker."""

    def __init__(self, context: Context, network: Network, look_up: LookUp, joins: Joins) -> None:
        self.context, self._network, self._joins = context, network, joins
        self._finds = Finds(look_up, own=context.peer, now_s=lambda: context.now().mono_s)
        self._liars: OrderedDict[bytes, float] = OrderedDict()
        """Until when."""
        self._speeds: OrderedDict[bytes, float] = OrderedDict()
        """What a block took lately."""
        self._reads: set[Gathering] = set()
        self.on_lie: list[OnLie] = []
        """Told of a node that sent what is not the blob's: its share counts as lost."""

    async def open_ref(self, ref: Ref, not_here: BlobNotFound) -> "WholeReader | NetworkReader":
        """Return a reader of a blob of which nothing is here; on a node alone `not_here` is raised.

        Raises as `open`, and NotJoined.
        """
        await self._join(not_here)
        return await self.open(content_cid(ref))

    async def open(self, cid: Cid, bound: Bound | None = None) -> "WholeReader | NetworkReader":
        """Return a reader of a blob. bound: what is here of it.

        Raises NoHolders, SharesOutOfReach, LookupTimedOut, TimedOut, BadManifest, Busy.
        """
        find = self._finds.get(cid)
        if cid.codec is Codec.RAW:
            return WholeReader(cid, await self._whole(find))
        if bound is not None:
            find.manifest = Manifest.decode(bound.row.manifest)
        if find.manifest is None:
            find.manifest = await self._manifest(find)
        return NetworkReader(self, find, find.manifest, bound)

    async def _join(self, not_here: MoliaError) -> None:
        """Return when there is somebody to ask; a node that has just begun is given a moment.

        Raises NotJoined, or `not_here` when nobody is to be expected.
        """
        until_s = self._now_s + JOIN_WAIT_S
        while not self._joins.is_joined:
            if not self._joins.may_join:
                raise not_here
            if self._now_s >= until_s:
                raise NotJoined
            await asyncio.sleep(JOIN_LOOK_S)

    def close(self) -> None:
        """End what is under way."""
        self._finds.close()

    # ------------------------------------------------------------------ one gathering

    def gathering(
        self, core: Gather | GatherWhole, find: Find, bound: Bound | None = None
    ) -> Gathering:
        """Begin to carry out a core's effects. Raises Busy."""
        if len(self._reads) >= limits.READS_MAX:
            raise Busy("too many reads through the network are under way")

        def sources_of(find: Find) -> list[Source]:
            return self._sources(find, bound)

        running = Gathering(
            self.context, self._network, core, find, sources_of=sources_of, on_liar=self._on_liar,
            on_close=self._reads.discard, bound=bound,
        )  # fmt: skip
        self._reads.add(running)
        return running

    async def _manifest(self, find: Find) -> Manifest:
        core = Gather(find.cid, start=0, stop=0, now_s=self._now_s)
        running = self.gathering(core, find)
        try:
            match await running.next():
                case cores.Failed(error=error):
                    raise self.explain(error, find)
            assert core.manifest is not None, "a read of nothing ends with the manifest"
            return core.manifest
        finally:
            running.close()

    async def _whole(self, find: Find) -> bytes:
        core = GatherWhole(find.cid, now_s=self._now_s)
        cost = await self.context.budget.draw(limits.RAW_SIZE_STOP)
        running = self.gathering(core, find)
        try:
            match await running.next():
                case Whole(data=data):
                    return data
                case cores.Failed(error=error):
                    raise self.explain(error, find)
            raise AssertionError("a small blob comes in one piece")
        finally:
            running.close()
            self.context.budget.release(cost)

    def explain(self, error: MoliaError, find: Find) -> MoliaError:
        """Return why a read failed, and count it: nobody found is no answer without a search."""
        self._finds.forget(find.cid)
        if isinstance(error, NoHolders) and (not find.is_over or find.error is not None):
            error = find.error or LookupTimedOut(f"who has {find.cid} was not found in time")
        code = outcome_of(error).code
        self.context.metrics.reads_failed.labels(code).inc()
        log.warning("fetch_failed", blob=find.cid.short, reason=code)
        return error

    # ------------------------------------------------------------------ what nodes are worth

    @property
    def _now_s(self) -> float:
        return self.context.now().mono_s

    def _sources(self, find: Find, bound: Bound | None) -> list[Source]:
        found = [Source(key, shares, self._rtt_s(key)) for key, shares in find.shares.items()]
        if bound is not None:
            shares = tuple(range(limits.TOTAL_SHARES))
            found.insert(0, Source(self.context.peer.key, shares, NEAR_S))
        return found

    def _rtt_s(self, key: bytes) -> float:
        lied_s = self._liars.get(key, 0.0)
        slow_s = LIAR_RTT_S if lied_s > self._now_s else 0.0
        return self._speeds.get(key, FIRST_RTT_S) + slow_s

    def _on_liar(self, cid: Cid, key: bytes, share: int | None) -> None:
        peer = PeerKey(key)
        self.context.metrics.fetches.labels("lies").inc()
        log.warning("holder_lied", blob=cid.short, peer=peer.short, share_index=share)
        known = self._network.transport.endpoint.find(peer)
        if known is not None and known.address is not None:
            self._network.admission.penalise(
                peer, (known.address[0], known.address[1]), Offence.WRONG_BYTES, self._now_s
            )
        _note(self._liars, key, self._now_s + LIAR_S)
        for told in self.on_lie:
            told(cid, peer, share)

    def note_speeds(self, core: Gather) -> None:
        """Remember how fast nodes were, for the next read."""
        self.context.metrics.fetches.labels("hedged").inc(core.hedged)
        for key, peer in core.sources.peers.items():
            if peer.answered and key != self.context.peer.key:
                _note(self._speeds, key, peer.rtt_s)


class WholeReader:
    """A small blob that came; see `service.BlobReader`."""

    def __init__(self, cid: Cid, data: bytes) -> None:
        self._cid, self._data = cid, data

    @property
    def info(self) -> BlobInfo:
        """What is known of the blob."""
        return _info(self._cid, size=len(self._data), content=self._cid.digest)

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """See `service.BlobReader.read`."""
        for at in range(start, stop, CHUNK_SIZE):
            yield self._data[at : min(at + CHUNK_SIZE, stop)]


class NetworkReader:
    """A blob that others hold, ready to be read; see `service.BlobReader`."""

    def __init__(
        self, fetcher: Fetcher, find: Find, manifest: Manifest, bound: Bound | None
    ) -> None:
        self._fetcher, self._find, self._manifest = fetcher, find, manifest
        self._bound = bound

    @property
    def info(self) -> BlobInfo:
        """What is known of the blob."""
        if self._bound is not None:
            return self._bound.info
        return _info(self._find.cid, size=self._manifest.size, content=self._manifest.content)

    @property
    def manifest(self) -> Manifest:
        """The blob's manifest."""
        return self._manifest

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """See `service.BlobReader.read`; raises as `Fetcher.open`."""
        fetcher, context = self._fetcher, self._fetcher.context
        stripes = len(self._manifest.geometry.stripes_of(start, stop))
        cost = await context.budget.draw(min(stripes, AHEAD) * STRIPE_SIZE_MAX)
        core = Gather(
            self._find.cid, start=start, stop=stop, now_s=context.now().mono_s,
            manifest=self._manifest,
        )  # fmt: skip
        running = fetcher.gathering(core, self._find, self._bound)
        try:
            while True:
                match await running.next():
                    case cores.Deliver(stripe_index=index, chunks=chunks):
                        for chunk in chunks:
                            context.metrics.read_bytes.inc(len(chunk))
                            yield chunk
                        running.delivered(index)
                    case cores.Failed(error=error):
                        raise fetcher.explain(error, self._find)
                    case _:
                        return
        finally:
            running.close()
            context.budget.release(cost)
            fetcher.note_speeds(core)


def _info(cid: Cid, *, size: int, content: bytes) -> BlobInfo:
    is_raw = cid.codec is Codec.RAW
    return BlobInfo(
        cid=cid, size=size, content=content, name="", created_unix_ms=0, pinned=False,
        expires_unix_s=None, k=1 if is_raw else limits.DATA_SHARES,
        n=1 if is_raw else limits.TOTAL_SHARES,
    )  # fmt: skip


def _note(table: OrderedDict[bytes, float], key: bytes, value: float) -> None:
    table[key] = value
    table.move_to_end(key)
    if len(table) > limits.SPEEDS_MAX:
        table.popitem(last=False)
