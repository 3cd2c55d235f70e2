"""One put: drives the `Upload` core with threads for coding and the shards for storing."""

import contextlib
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Final

import anyio
import structlog
from anyio.abc import TaskGroup

from molia.base import limits
from molia.base.cid import Cid
from molia.base.errors import Busy, MoliaError, WriteUnsettled
from molia.base.ids import ObjectId, new_object_id
from molia.base.now import Now
from molia.base.views import BlobState, PutOptions, PutResult
from molia.blobs import upload as cores
from molia.blobs.geometry import STRIPE_SIZE_MAX
from molia.blobs.upload import Upload
from molia.node.catalog import Bound
from molia.node.context import Context
from molia.node.groups import sole_error
from molia.node.health import health_of
from molia.node.stored import read_whole
from molia.store import keys
from molia.store.disk import Buffer
from molia.store.keys import Kind
from molia.store.rows import BindRow, PlacedRow
from molia.store.shard import Guard, Put, Reply, Transaction

log = structlog.get_logger(__name__)

STRIPE_COST_PERCENT: Final = 240
"""Memory of a stripe: its bytes as they came, the same in one piece, and 40% parity."""
Blocks = Sequence[tuple[int, Buffer]]
BIND_TRIES: Final = 8
CLEAN_UP_S: Final = 30.0


async def put_blob(
    context: Context,
    chunks: AsyncIterator[bytes],
    options: PutOptions,
    *,
    placed: PlacedRow | None = None,
) -> PutResult:
    """Store the bytes of `chunks` and return what became of them; see `NodeService.put_blob`.

    placed: the note that a new blob is to be brought to other nodes; None: it is not.
    """
    put = _Put(context, options, placed)
    started_s = context.now().mono_s
    try:
        result = await put.run(chunks)
    except BaseException:
        context.metrics.puts.labels("failed").inc()
        with anyio.move_on_after(CLEAN_UP_S, shield=True):
            await put.clean_up()
        raise
    finally:
        put.release_all()
    took_s = context.now().mono_s - started_s
    context.metrics.puts.labels("created" if result.created else "existed").inc()
    context.metrics.put_bytes.inc(result.size)
    context.metrics.put_seconds.observe(took_s)
    if result.created:
        context.count_blobs(result.cid, 1)
    context.note_blob(result.cid)
    tell = log.debug if result.size < limits.RAW_SIZE_STOP else log.info
    tell("blob_stored", blob=result.cid.short, size_bytes=result.size, took_ms=int(took_s * 1000))
    return result


class _Put:
    """The state of one put in flight."""

    def __init__(self, context: Context, options: PutOptions, placed: PlacedRow | None) -> None:
        self._context, self._options, self._placed = context, options, placed
        self._core = Upload(
            size=options.size,
            size_max=context.config.api.max_blob_bytes,
            assert_cid=options.assert_cid,
            assert_content=options.assert_content,
        )
        self._tasks: TaskGroup | None = None
        self._object_id: ObjectId | None = None
        self._begun = self._row_written = False
        self._begin_lock = anyio.Lock()
        self._whole: bytes | None = None
        self._leaves: list[tuple[int, Buffer]] = []
        self._done: cores.Done | None = None
        self._failure: MoliaError | None = None
        self._changed: anyio.Event | None = None
        self._covered = self._received = 0
        self._drawn: deque[int] = deque()

    async def run(self, chunks: AsyncIterator[bytes]) -> PutResult:
        """Return the result once the blob is durable. On any error nothing of it is bound."""
        first = await self._take_head(chunks)
        if first is None:
            self._core.on_end()
            self._pump()
        else:
            await self._take_stripes(first, chunks)
        if self._failure is not None:
            raise self._failure
        assert self._done is not None, "the core ends in Done or Failed"
        return await self._bind(self._done)

    async def _take_head(self, chunks: AsyncIterator[bytes]) -> bytes | None:
        """Feed less than the smallest blob that is coded: no task is needed for a small one.

        Returns the chunk that would be too much, not yet fed, or None when the body has ended.
        """
        async for chunk in chunks:
            if self._received + len(chunk) >= limits.RAW_SIZE_STOP:
                return chunk
            await self._take(chunk)
            if self._failure is not None:
                raise self._failure
        return None

    async def _take_stripes(self, first: bytes, chunks: AsyncIterator[bytes]) -> None:
        try:
            async with anyio.create_task_group() as tasks:
                self._tasks = tasks
                await self._take(first)
                async for chunk in chunks:
                    await self._take(chunk)
                self._core.on_end()
                self._pump()
                while self._done is None and self._failure is None:
                    await self._wait_for_change()
        except BaseExceptionGroup as group:  # what reading the body raised keeps its class
            raise sole_error(group) from None

    async def clean_up(self) -> None:
        """Delete what was stored of an upload that did not come to its end."""
        if self._begun and self._object_id is not None:
            try:
                await self._context.objects.abandon(self._object_id)
            except MoliaError as error:  # the row stays: the next start sweeps
                log.warning("upload_left_behind", reason=type(error).__name__)
        if self._done is not None:
            await self._note_bound(self._done.cid)

    async def _note_bound(self, cid: Cid) -> None:
        """Count and tell of a blob that was bound though nobody was told so."""
        context = self._context
        with contextlib.suppress(MoliaError):
            await context.home_writer(cid).settle()  # it may be written yet
            bound = await context.offload.run(context.catalog.bound, cid, context.now())
            if bound is not None and bound.row.object_id == self._object_id:
                context.count_blobs(cid, 1)
                context.note_blob(cid)

    def release_all(self) -> None:
        """Give the whole budget back."""
        while self._drawn:
            self._context.budget.release(self._drawn.popleft())

    # ------------------------------------------------------------------ bytes in

    async def _take(self, chunk: bytes) -> None:
        """Feed a chunk piece by piece, so that a stripe is dispatched before the next is drawn."""
        at = 0
        while at < len(chunk):
            if self._received == self._covered:
                await self._draw()
            size = min(len(chunk) - at, self._covered - self._received)
            self._core.on_bytes(chunk if size == len(chunk) else chunk[at : at + size])
            self._received += size
            at += size
            self._pump()
            while not self._core.wants_bytes and self._failure is None:
                await self._wait_for_change()

    async def _draw(self) -> None:
        """Draw the memory of the next stripe before its first byte is taken."""
        data = STRIPE_SIZE_MAX
        if self._options.size is not None:
            data = min(data, max(1, self._options.size - self._covered))
        cost = data if data < limits.RAW_SIZE_STOP else data * STRIPE_COST_PERCENT // 100
        self._drawn.append(await self._context.budget.draw(cost))
        self._covered += data

    # ------------------------------------------------------------------ effects

    def _pump(self) -> None:
        for effect in self._core.take_effects():
            match effect:
                case cores.Done():
                    self._done = effect
                case cores.Failed():
                    self._fail(effect.error)
                case cores.StoreWhole():
                    self._whole = effect.data
                case cores.StoreLeaves():
                    self._leaves.append((effect.share, effect.leaves))
                case _:
                    self._start(self._perform, effect)
        if self._leaves:
            leaves, self._leaves = self._leaves, []
            self._start(self._store_leaves, leaves)
        self._announce_change()

    def _start(self, work: Callable[..., Coroutine[Any, Any, None]], *args: object) -> None:
        assert self._tasks is not None, "a small blob needs no tasks"
        self._tasks.start_soon(work, *args)

    async def _perform(self, effect: cores.Effect) -> None:
        try:
            match effect:
                case cores.Encode():
                    self._core.on_encoded(await self._context.offload.run(cores.encode, effect))
                case cores.HashContent():
                    await self._context.offload.run(cores.hash_content, effect)
                    self._core.on_hashed()
                case cores.Store():
                    await self._store(effect.stripe_index, effect.blocks)
                    self._core.on_stored(effect.stripe_index)
                    if self._drawn:
                        self._context.budget.release(self._drawn.popleft())
        except MoliaError as error:
            self._fail(error)
        self._pump()

    async def _store_leaves(self, leaves: Blocks) -> None:
        try:
            await self._store(keys.LEAVES_STRIPE, leaves)
        except MoliaError as error:
            self._fail(error)
            return
        self._core.on_leaves_stored()
        self._pump()

    async def _store(self, stripe: int, blocks: Blocks) -> None:
        object_id = await self._begin()
        await self._context.objects.store(
            object_id, [(share, stripe, data) for share, data in blocks]
        )

    async def _begin(self) -> ObjectId:
        async with self._begin_lock:
            if self._object_id is None:
                self._object_id = new_object_id(self._context.entropy)
            self._begun = True  # even a row whose write fails may turn up after a restart
            if not self._row_written:
                await self._context.objects.begin(self._object_id)
                self._row_written = True
        return self._object_id

    def _fail(self, error: MoliaError) -> None:
        """Stop reading and storing; `run` raises the first error."""
        if self._failure is None:
            self._failure = error
            if self._tasks is not None:
                self._tasks.cancel_scope.cancel()

    def _announce_change(self) -> None:
        if self._changed is not None:
            self._changed.set()
            self._changed = None

    async def _wait_for_change(self) -> None:
        self._changed = anyio.Event()
        await self._changed.wait()

    # ------------------------------------------------------------------ the blob begins to exist

    async def _bind(self, done: cores.Done) -> PutResult:
        for _ in range(BIND_TRIES):
            if await self._bind_new(done):
                return self._result(done, created=True)
            context = self._context
            bound = await context.offload.run(context.catalog.bound, done.cid, context.now())
            if bound is not None and bound.row.object_id == self._object_id:
                await self._own_bound()
                return self._result(done, created=True)
            # None: it was deleted since it stood in our way
            if bound is not None and await self._keep_old(bound, done):
                return self._result(done, created=False)
        raise Busy("the same blob is being stored and deleted at once")

    async def _bind_new(self, done: cores.Done) -> bool:
        """Bind our object; False when there is such a blob already."""
        context, now = self._context, self._context.now()
        whole: tuple[Put, ...] = ()
        if self._whole is not None:
            if self._object_id is None:
                self._object_id = keys.small_object_id(
                    done.cid, context.shards.count, context.entropy
                )
            key = keys.block_key(self._object_id, keys.WHOLE_SHARE, 0)
            whole = (Put(Kind.BLOCK, key, self._whole),)
        assert self._object_id is not None, "a blob with a manifest has stored its stripes"
        row = BindRow(
            object_id=self._object_id,
            size=done.size,
            content=done.content,
            manifest=done.manifest,
            created_unix_ms=now.unix_ms,
            name=self._options.name,
            expires_unix_s=self._options.expires_unix_s,
        )
        bind = context.catalog.bind(
            done.cid,
            row,
            pin=self._options.pin and not self._options.cached,
            lease_s=context.config.leases.default_s,
            now=now,
            placed=self._placed,
            cached_until=self._cached_until(now),
        )
        transaction = Transaction((*whole, *bind.ops), bind.guard)
        if not self._begun:
            reply = await self._write_home(done.cid, transaction)
        else:
            async with context.objects.alone(self._object_id):
                reply = await self._write_home(done.cid, transaction)
                if reply is Reply.APPLIED:
                    self._begun = False
                    await context.objects.end(self._object_id)
        return reply is Reply.APPLIED

    def _cached_until(self, now: Now) -> int | None:
        """Return when a cached blob goes: in 5 to 30 minutes, not all at once."""
        if not self._options.cached:
            return None
        low, high = limits.CACHE_LIFE_MIN_S, limits.CACHE_LIFE_MAX_S
        draw = int.from_bytes(self._context.entropy.token(4))
        return int(now.unix_s) + low + draw % (high - low + 1)

    async def _own_bound(self) -> None:
        """The first of two tries has bound our object: only its UPLOAD row is left to forget."""
        if self._begun:
            self._begun = False
            assert self._object_id is not None, "begun means that it has an id"
            async with self._context.objects.alone(self._object_id):
                await self._context.objects.end(self._object_id)

    async def _keep_old(self, bound: Bound, done: cores.Done) -> bool:
        """Let the blob that was there first serve; False when it has to give way."""
        context, now = self._context, self._context.now()
        if bound.expired(now):
            await remove_bound(context, bound)
            return False
        if not await self._is_sound(bound):
            await self._take_over(bound)
            await remove_bound(context, bound)
            return False
        if self._options.cached:
            change = None  # it is kept at least as long as it is
        else:
            change = context.catalog.keep(
                bound,
                pin=self._options.pin,
                expires_unix_s=self._options.expires_unix_s,
                lease_s=context.config.leases.default_s,
                now=now,
            )
        if change is not None and await self._write_home(done.cid, change) is Reply.REFUSED:
            return False
        if self._begun:
            self._begun = False
            assert self._object_id is not None, "begun means that it has an id"
            await context.objects.abandon(self._object_id)
        return True

    async def _take_over(self, bound: Bound) -> None:
        """Wish for no less than what is replaced: the longer wish wins, as in `Catalog.keep`."""
        context, mine = self._context, self._options
        if bound.cached_until is not None:
            return
        dates = [bound.row.expires_unix_s, *([] if mine.cached else [mine.expires_unix_s])]
        known = [date for date in dates if date is not None]
        self._options = replace(
            mine, pin=bound.pinned or (mine.pin and not mine.cached), cached=False,
            expires_unix_s=max(known) if len(known) == len(dates) else None,
        )  # fmt: skip
        row = await context.offload.run(context.catalog.placed, bound.cid, context.now())
        if row is not None:  # its holders and our lease are known on
            self._placed = row if mine.cached else replace(row, is_done=False)

    async def _is_sound(self, bound: Bound) -> bool:
        """Tell whether the blob there can be read: a second put of it replaces one that cannot."""
        context = self._context
        if self._whole is not None:
            return await context.offload.run(read_whole, context, bound) is not None
        # what reads and checks found; to read all of it again would take as long as the put
        health = await context.offload.run(health_of, context, bound)
        return health.state is not BlobState.LOST

    async def _write_home(self, cid: Cid, transaction: Transaction) -> Reply:
        """Write to the home shard. REFUSED may mean that the first of two tries did it."""
        writer = self._context.home_writer(cid)
        try:
            return await writer.write(transaction)
        except WriteUnsettled:
            return await writer.write(transaction)

    def _result(self, done: cores.Done, *, created: bool) -> PutResult:
        floor = self._context.config.durability.floor
        return PutResult(
            cid=done.cid,
            created=created,
            size=done.size,
            content=done.content,
            k=1 if self._whole is not None else limits.DATA_SHARES,
            n=1 if self._whole is not None else limits.TOTAL_SHARES,
            holders=1,
            survives=0,
            state=BlobState.HEALTHY if floor == 0 else BlobState.DEGRADED,
        )


async def remove_bound(context: Context, bound: Bound, guard: Guard | None = None) -> bool:
    """Make a blob stop existing and free its space; False when it changed in the meantime.

    guard: of one that nobody asked to be removed, see `Catalog.unwanted`.
    """
    remove = _unbind if bound.is_raw else _remove_large
    removed = await remove(context, bound, guard)
    if removed:
        context.count_blobs(bound.cid, -1)
        context.note_blob(bound.cid)
    return removed


async def _remove_large(context: Context, bound: Bound, guard: Guard | None) -> bool:
    objects, object_id = context.objects, bound.row.object_id
    async with objects.alone(object_id):
        if not await context.offload.run(_is_there, context, bound):
            return False  # somebody else was first
        await objects.begin(object_id)
        removed = await _unbind(context, bound, guard)
        await (objects.drop(object_id) if removed else objects.end(object_id))
        return removed


def _is_there(context: Context, bound: Bound) -> bool:
    found = context.catalog.bound(bound.cid, context.now())
    return found is not None and found.encoded == bound.encoded


async def _unbind(context: Context, bound: Bound, guard: Guard | None) -> bool:
    home = context.home_writer(bound.cid)
    return await home.write(context.catalog.unbind(bound, guard)) is Reply.APPLIED
