"""Carries out one read's effects: asks nodes and our own store, decodes in threads, keeps time.

The cores `Gather` and `GatherWhole` decide; here each thing they ask for is a task, and what it
gives goes straight back to them, so that a read goes on while its reader takes what it has.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from molia.base.cid import Cid
from molia.base.errors import Busy, MoliaError
from molia.base.limits import BLOCKS_PER_REQUEST_MAX
from molia.blobs import gather as cores
from molia.blobs import gather_whole as whole
from molia.blobs.gather import Gather
from molia.blobs.gather_whole import GatherWhole
from molia.blobs.one_read import Failed, Liar
from molia.blobs.sources import Source
from molia.node.alarm import Alarm
from molia.node.asking_blobs import BUSY_WAIT_S, Block, Run, ask_manifest, ask_run, ask_whole
from molia.node.catalog import Bound
from molia.node.context import Context
from molia.node.network import Network
from molia.node.pieces import Pieces
from molia.node.whereabouts import Find

Ending = cores.Deliver | whole.Whole | cores.Done | Failed
OnLiar = Callable[[Cid, bytes, int | None], None]
SourcesOf = Callable[[Find], list[Source]]


class _Run:
    """Blocks of a share that follow each other, asked of one node at once."""

    def __init__(self, first: cores.AskBlock) -> None:
        self.key, self.share, self.first = first.key, first.share, first.stripe_index
        self.sizes = [first.size]
        self.wanted = {first.stripe_index: None}
        """Stripes whose block is waited for."""

    @property
    def stop(self) -> int:
        """The stripe behind its last."""
        return self.first + len(self.sizes)

    def takes(self, asked: cores.AskBlock) -> bool:
        """Take a block, if it is the next one."""
        if asked.stripe_index != self.stop or len(self.sizes) == BLOCKS_PER_REQUEST_MAX:
            return False
        self.sizes.append(asked.size)
        self.wanted[asked.stripe_index] = None
        return True


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
        self._tasks: dict[object, asyncio.Task[None]] = {}
        self._runs: dict[tuple[bytes, int, int], _Run] = {}
        """Blocks that were asked for, by node, share and stripe."""
        self._new_runs: list[_Run] = []
        self._open_runs: dict[tuple[bytes, int], _Run] = {}
        """Those that are asked for as soon as all effects were looked at."""
        self._alarm = Alarm(lambda: self._now_s, self._on_deadline)
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
        self._alarm.cancel()
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
        if not self._here:  # our own shares are those of another read, which began later
            found = [each for each in found if each.key != self._own]
        news = [each for each in found if self._told.get(each.key) != each.shares]
        self._told |= {each.key: each.shares for each in news}
        self.core.on_sources(news, now_s=self._now_s)
        if self._find.is_over:
            self.core.on_lookup_over(now_s=self._now_s)
        self._turn()

    def _on_deadline(self) -> None:
        self.core.on_deadline(now_s=self._now_s)
        self._turn()

    # ------------------------------------------------------------------ effects

    def _turn(self) -> None:
        """Carry out what the core wants now, and wake it when it wants to be."""
        while effects := self.core.take_effects():
            for effect in effects:
                self._carry_out(effect)
            self._begin_runs()
        self._alarm.set(self.core.next_deadline_s())

    def _carry_out(self, effect: cores.Effect | whole.Effect) -> None:
        match effect:
            case cores.AskManifest(key=key):
                self._spawn(("manifest", key), self._ask_manifest(key))
            case cores.AskBlock():
                self._note_asked(effect)
            case cores.CancelBlock(key=key, share=share, stripe_index=index):
                self._cancel_block(key, share, index)
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

    def _note_asked(self, asked: cores.AskBlock) -> None:
        """Ask for a block in one request with those before it, as far as they follow each other."""
        key, share, index = asked.key, asked.share, asked.stripe_index
        self._context.metrics.fetches.labels("asked").inc()
        if key == self._own:
            self._spawn((key, share, index), self._ask_own(asked))
            return
        run = self._open_runs.get((key, share))
        if run is None or not run.takes(asked):
            run = self._open_runs[key, share] = _Run(asked)
            self._new_runs.append(run)
        self._runs[key, share, index] = run

    def _begin_runs(self) -> None:
        runs, self._new_runs, self._open_runs = self._new_runs, [], {}
        for run in runs:
            if run.wanted:
                self._spawn(run, self._ask_run(run))

    def _take_wanted(self, run: _Run, index: int) -> bool:
        """Take that a block of a run is not waited for any more; tell whether it was."""
        if index not in run.wanted:
            return False
        del run.wanted[index]
        name = run.key, run.share, index
        if self._runs.get(name) is run:
            del self._runs[name]
        return True

    def _cancel_block(self, key: bytes, share: int, index: int) -> None:
        """Wait for a block no more; a request ends with the last that it was for."""
        run = self._runs.get((key, share, index))
        if run is None:
            self._cancel((key, share, index))
        elif self._take_wanted(run, index) and not run.wanted:
            self._cancel(run)

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
        core = self.core
        assert isinstance(core, Gather), "small blobs have none"
        while core.manifest is None and not core.is_over:
            try:
                data = await ask_manifest(
                    self._network, self._find.holder(key), self._find.cid,
                    timeout_s=core.config.manifest_s,
                )  # fmt: skip
            except Busy:
                await asyncio.sleep(BUSY_WAIT_S)
                continue
            except MoliaError:
                core.on_lost(key, now_s=self._now_s)
            else:
                core.on_manifest(key, data, now_s=self._now_s)
            break
        self._turn()

    async def _ask_own(self, asked: cores.AskBlock) -> None:
        read, core = self._pieces.read, self.core
        assert isinstance(core, Gather), "a small blob has no blocks"
        share, index = asked.share, asked.stripe_index
        try:
            piece = await self._context.offload.run(read, self._here, share, index)
        except MoliaError:
            core.on_lost(asked.key, now_s=self._now_s)
        else:
            block, path = (None, ()) if piece is None else (piece.block, piece.path)
            core.on_block(asked.key, share, index, block, path=path, now_s=self._now_s)
        self._turn()

    async def _ask_run(self, run: _Run) -> None:
        core = self.core
        assert isinstance(core, Gather), "a small blob has no blocks"
        assert core.manifest is not None, "blocks are asked for with a manifest"
        wanted = Run(
            run.share, run.first, tuple(run.sizes), core.manifest.geometry.stripe_count
        )  # fmt: skip
        try:
            await ask_run(
                self._network, self._find.holder(run.key), self._find.cid, wanted,
                on_block=partial(self._on_block, run), on_part=partial(self._on_part, run),
            )  # fmt: skip
        except MoliaError:
            for index in list(run.wanted):
                self._take_wanted(run, index)
            core.on_lost(run.key, now_s=self._now_s)
            self._turn()

    def _on_block(self, run: _Run, index: int, found: Block | None) -> None:
        assert isinstance(self.core, Gather), "a small blob has no blocks"
        if found is not None:
            self._context.metrics.fetched_bytes.inc(len(found.block))
        if not self._take_wanted(run, index):
            return
        block, path = (None, ()) if found is None else found
        self.core.on_block(run.key, run.share, index, block, path=path, now_s=self._now_s)
        self._turn()
        if not run.wanted and index + 1 < run.stop:
            self._cancel(run)

    def _on_part(self, run: _Run, index: int, size: int) -> None:
        assert isinstance(self.core, Gather), "a small blob has no blocks"
        self.core.on_part(
            run.key, run.share, index, size=size, now_s=self._now_s
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
