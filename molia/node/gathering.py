"""Carries out one read's effects: asks nodes and our own store, decodes in threads, keeps time.

The cores `Gather` and `GatherWhole` decide; here each thing they ask for is a task, and what it
gives goes straight back to them, so that a read goes on while its reader takes what it has.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any, Final

from molia.base.cid import Cid
from molia.base.errors import Busy, MoliaError
from molia.blobs import gather as cores
from molia.blobs import gather_whole as whole
from molia.blobs.gather import Gather
from molia.blobs.gather_whole import GatherWhole
from molia.blobs.one_read import Failed, Liar
from molia.blobs.sources import Source
from molia.node.asking_blobs import ask_block, ask_manifest, ask_whole
from molia.node.catalog import Bound
from molia.node.context import Context
from molia.node.network import Network
from molia.node.pieces import Pieces
from molia.node.whereabouts import Find

STOOD_STILL_S: Final = 1.0
CATCH_UP_S: Final = 0.05
Ending = cores.Deliver | whole.Whole | cores.Done | Failed
OnLiar = Callable[[Cid, bytes, int | None], None]
SourcesOf = Callable[[Find], list[Source]]


class Gathering:
    """A read under way. `next` gives what is for the reader; `close` ends it at any time."""

    def __init__(
        self, context: Context, network: Network, core: Gather | GatherWhole, find: Find, *,
        sources_of: SourcesOf, on_liar: OnLiar, on_close: Callable[["Gathering"], None],
        here: Sequence[Bound] = (),
    ) -> None:  # fmt: skip
        """here: what is here of the blob; it is a source like any, and the nearest."""
        self._context, self._network, self.core = context, network, core
        self._find, self._here = find, here
        self._sources_of, self._on_liar, self._on_close = sources_of, on_liar, on_close
        self._own, self._pieces = context.peer.key, Pieces(context)
        self._loop = asyncio.get_running_loop()
        self._tasks: dict[object, asyncio.Task[None]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._told: dict[bytes, tuple[int, ...]] = {}
        """Sources that the core knows, with their shares."""
        self._out: deque[Ending] = deque()
        self._changed = asyncio.Event()
        self._failure: BaseException | None = None
        find.listeners.append(self._on_found)
        self._on_found()

    async def next(self) -> Ending:
        """Return what is next for the reader: bytes, or the end."""
        while not self._out:
            self._changed.clear()
            if self._failure is not None:
                raise self._failure
            await self._changed.wait()
        return self._out.popleft()

    def delivered(self, stripe_index: int) -> None:
        """Take that the reader has a Deliver's bytes."""
        assert isinstance(self.core, Gather), "a small blob comes in one piece"
        self.core.on_delivered(stripe_index, now_s=self._now_s)
        self._turn()

    def close(self) -> None:
        """End everything that is under way."""
        self._find.listeners.remove(self._on_found)
        if self._timer is not None:
            self._timer.cancel()
        for task in list(self._tasks.values()):
            task.cancel()
        self._on_close(self)

    @property
    def _now_s(self) -> float:
        return self._context.now().mono_s

    # ------------------------------------------------------------------ facts

    def _on_found(self) -> None:
        # who said that it lacks a share must not be told of again: it would be asked again
        found = self._sources_of(self._find)
        news = [each for each in found if self._told.get(each.key) != each.shares]
        self._told |= {each.key: each.shares for each in news}
        self.core.on_sources(news, now_s=self._now_s)
        if self._find.is_over:
            self.core.on_lookup_over(now_s=self._now_s)
        self._turn()

    def _on_timer(self, due_s: float) -> None:
        self._timer = None
        if self._now_s - due_s > STOOD_STILL_S:
            # this process did not run: what came meanwhile is read before anybody is called late
            self._timer = self._loop.call_later(CATCH_UP_S, self._on_timer, self._now_s)
            return
        self.core.on_deadline(now_s=self._now_s)
        self._turn()

    # ------------------------------------------------------------------ effects

    def _turn(self) -> None:
        """Carry out what the core wants now, and wake it when it wants to be."""
        while effects := self.core.take_effects():
            for effect in effects:
                self._carry_out(effect)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_s = self.core.next_deadline_s()
        if due_s is not None:
            wait_s = max(0.0, due_s - self._now_s)
            self._timer = self._loop.call_later(wait_s, self._on_timer, self._now_s + wait_s)

    def _carry_out(self, effect: cores.Effect | whole.Effect) -> None:
        match effect:
            case cores.AskManifest(key=key):
                self._spawn(("manifest", key), self._ask_manifest(key))
            case cores.AskBlock(key=key, share=share, stripe_index=index):
                self._context.metrics.fetches.labels("asked").inc()
                self._spawn((key, share, index), self._ask_block(effect))
            case cores.CancelBlock(key=key, share=share, stripe_index=index):
                self._cancel((key, share, index))
            case cores.Decode(stripe=shape):
                self._spawn(("decode", shape.index), self._decode(effect))
            case whole.AskWhole(key=key):
                self._context.metrics.fetches.labels("asked").inc()
                self._spawn(("whole", key), self._ask_whole(key))
            case whole.CancelWhole(key=key):
                self._cancel(("whole", key))
            case Liar(key=key, share=share):
                self._on_liar(self._find.cid, key, share)
            case _:
                self._out.append(effect)
                self._changed.set()

    def _spawn(self, name: object, work: Coroutine[Any, Any, None]) -> None:
        task = self._tasks[name] = asyncio.ensure_future(work)

        def done(task: asyncio.Task[None]) -> None:
            if self._tasks.get(name) is task:
                del self._tasks[name]
            if not task.cancelled() and task.exception() is not None:
                self._failure = task.exception()  # a mistake of ours: the reader is told
                self._changed.set()

        task.add_done_callback(done)

    def _cancel(self, name: object) -> None:
        task = self._tasks.pop(name, None)
        if task is not None:
            task.cancel()

    # ------------------------------------------------------------------ tasks

    async def _ask_manifest(self, key: bytes) -> None:
        assert isinstance(self.core, Gather), "small blobs have none"
        try:
            data = await ask_manifest(
                self._network, self._find.holder(key), self._find.cid,
                timeout_s=self.core.config.manifest_s,
            )  # fmt: skip
        except Busy:
            data = None
        except MoliaError:
            self.core.on_lost(key, now_s=self._now_s)
        else:
            self.core.on_manifest(key, data, now_s=self._now_s)
        self._turn()

    async def _ask_block(self, asked: cores.AskBlock) -> None:
        core, now = self.core, self._context.now
        assert isinstance(core, Gather), "a small blob has no blocks"
        block: bytes | None = None
        path: tuple[bytes, ...] = ()
        try:
            if asked.key == self._own:
                block, path = await self._own_block(asked)
            else:
                block, path = await self._their_block(asked)
        except MoliaError:
            core.on_lost(asked.key, now_s=now().mono_s)
        else:
            core.on_block(
                asked.key, asked.share, asked.stripe_index, block, path=path, now_s=now().mono_s
            )
        self._turn()

    async def _own_block(self, asked: cores.AskBlock) -> tuple[bytes | None, tuple[bytes, ...]]:
        read = self._pieces.read
        piece = await self._context.offload.run(read, self._here, asked.share, asked.stripe_index)
        return (None, ()) if piece is None else (piece.block, piece.path)

    async def _their_block(self, asked: cores.AskBlock) -> tuple[bytes | None, tuple[bytes, ...]]:
        assert isinstance(self.core, Gather), "a small blob has no blocks"
        assert self.core.manifest is not None, "blocks are asked for with a manifest"
        found = await ask_block(
            self._network, self._find.holder(asked.key), self._find.cid, share=asked.share,
            stripe_index=asked.stripe_index, size=asked.size,
            leaf_count=self.core.manifest.geometry.stripe_count,
            on_part=partial(self._on_part, asked),
        )  # fmt: skip
        if found is None:
            return None, ()
        self._context.metrics.fetched_bytes.inc(len(found.block))
        return found.block, found.path

    def _on_part(self, asked: cores.AskBlock, size: int) -> None:
        assert isinstance(self.core, Gather), "a small blob has no blocks"
        self.core.on_part(
            asked.key, asked.share, asked.stripe_index, size=size, now_s=self._now_s
        )  # deadlines only move back by it: the timer that is set rings too early

    async def _ask_whole(self, key: bytes) -> None:
        core = self.core
        assert isinstance(core, GatherWhole), "it asked"

        def on_part(_: int) -> None:
            core.on_part(key, now_s=self._now_s)

        try:
            data = await ask_whole(self._network, self._find.holder(key), self._find.cid, on_part)
        except MoliaError:
            data = None
        if data is not None:
            self._context.metrics.fetched_bytes.inc(len(data))
        core.on_whole(key, data, now_s=self._now_s)
        self._turn()

    async def _decode(self, wanted: cores.Decode) -> None:
        assert isinstance(self.core, Gather), "a small blob is not coded"
        self._context.metrics.fetches.labels("decoded").inc()
        blocks = await self._context.offload.run(cores.decode, wanted)
        self.core.on_decoded(wanted.stripe.index, blocks, now_s=self._now_s)
        self._turn()
