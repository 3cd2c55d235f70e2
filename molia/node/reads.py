"""One read: drives the `Download` core with threads that get, check and if need be decode."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

import structlog

from molia.base import limits
from molia.base.errors import BlobDamaged, MoliaError, outcome_of
from molia.base.views import BlobInfo
from molia.blobs import download as cores
from molia.blobs.download import Download, StripeRead
from molia.blobs.manifest import Manifest
from molia.node.catalog import Bound
from molia.node.context import Context
from molia.node.heal import Healer
from molia.node.stored import fetcher, leaf_lists, read_whole

log = structlog.get_logger(__name__)

STRIPES_AHEAD: Final = 2
CHUNK_SIZE: Final = limits.BLOCK_SIZE_MAX


class LocalReader:
    """A blob of this node, ready to be read; see `service.BlobReader`."""

    def __init__(self, context: Context, bound: Bound, healer: Healer | None) -> None:
        """healer: told of damage; None where what is damaged is not worth mending."""
        self._context, self._bound, self._healer = context, bound, healer

    @property
    def info(self) -> BlobInfo:
        """The line of the local index."""
        return self._bound.info

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """See `service.BlobReader.read`."""
        read = self._read_whole if self._bound.is_raw else self._read_stripes
        try:
            async for chunk in read(start, stop):
                self._context.metrics.read_bytes.inc(len(chunk))
                yield chunk
        except MoliaError as error:
            self._context.metrics.reads_failed.labels(outcome_of(error).code).inc()
            log.warning("read_failed", blob=self._bound.cid.short, reason=str(error))
            raise

    async def _read_whole(self, start: int, stop: int) -> AsyncIterator[bytes]:
        context, bound = self._context, self._bound
        data = await context.offload.run(read_whole, context, bound)
        if data is None:
            if self._healer is not None:
                self._healer.report_whole(bound)
            raise BlobDamaged(
                f"the only copy of {bound.cid} is damaged",
                hint="put the file again: that replaces the damaged copy",
            )
        for at in range(start, stop, CHUNK_SIZE):
            yield data[at : min(at + CHUNK_SIZE, stop)]

    async def _read_stripes(self, start: int, stop: int) -> AsyncIterator[bytes]:
        fetches = _Fetches(self._context, self._bound)
        core = Download(fetches.manifest, start, stop, ahead=STRIPES_AHEAD)
        try:
            while True:
                for effect in core.take_effects():
                    match effect:
                        case cores.Fetch():
                            fetches.wanted.append(effect)
                        case cores.Deliver():
                            for chunk in effect.chunks:
                                yield chunk
                            fetches.delivered(effect.stripe_index)
                        case cores.Damage():
                            self._note_damage(effect)
                        case cores.Failed():
                            raise effect.error
                        case cores.Done():
                            return
                core.on_fetched(await fetches.next())
        finally:
            fetches.close()

    def _note_damage(self, damage: cores.Damage) -> None:
        self._context.metrics.stripes_decoded.inc()
        if self._healer is not None:
            self._healer.report(self._bound, damage.stripe_index, damage.shares)


class _Fetches:
    """The stripes of one read that are asked for, under way, or delivered and still in memory."""

    def __init__(self, context: Context, bound: Bound) -> None:
        self._context = context
        self.manifest = Manifest.decode(bound.row.manifest)
        self.wanted: deque[cores.Fetch] = deque()
        self._fetch = fetcher(context, bound)
        self._leaves = leaf_lists(context, bound, self.manifest)
        self._under_way: dict[asyncio.Future[StripeRead], int] = {}
        self._costs: dict[int, int] = {}

    async def next(self) -> StripeRead:
        """Start what fits into memory, and return the next stripe that was read."""
        while self.wanted:
            cost = sum(self.wanted[0].stripe.size_of(share) for share in self.wanted[0].shares)
            if not self._context.budget.draw_nowait(cost):
                if self._under_way:
                    break  # reading ahead never waits for memory while it holds some
                cost = await self._context.budget.draw(cost)
            self._start(self.wanted.popleft(), cost)
        await asyncio.wait(self._under_way, return_when=asyncio.FIRST_COMPLETED)
        done = next(future for future in self._under_way if future.done())
        del self._under_way[done]
        return done.result()

    def delivered(self, stripe_index: int) -> None:
        """Give a stripe's memory back."""
        self._context.budget.release(self._costs.pop(stripe_index))

    def close(self) -> None:
        """Give all memory back; what threads still read is thrown away."""
        for future in self._under_way:
            future.cancel()
        for cost in self._costs.values():
            self._context.budget.release(cost)
        self._costs.clear()

    def _start(self, fetch: cores.Fetch, cost: int) -> None:
        self._costs[fetch.stripe.index] = cost
        future = self._context.offload.submit(
            cores.read_stripe, self._fetch, self._leaves, fetch.stripe, fetch.shares
        )
        self._under_way[future] = fetch.stripe.index
