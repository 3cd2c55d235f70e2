"""One writer thread per shard, fed by a bounded queue; readers go to the shard directly.

The writer takes whatever is queued as one batch (natural batching: no timer), so many small writes
share one sync. Replies come back to the event loop one call per batch.
"""

import asyncio
import contextlib
import threading
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import structlog

from molia.base import limits
from molia.base.errors import Busy, MoliaError, NoSpace, ShardUnavailable, ShuttingDown
from molia.base.now import Now
from molia.node.copier import Copier
from molia.node.remote import RemoteWriter
from molia.node.system import SystemClock
from molia.store.keys import Kind, shard_of
from molia.store.ops import Row
from molia.store.shard import Put, Reply, Shard, Transaction
from molia.store.shared import SharedShard

log = structlog.get_logger(__name__)

IDLE_WAIT_S: Final = 60.0
TICK_S: Final = 1.0
KEYS_PAGE: Final = 1_000
_OVERDUE_TICKS: Final = int(limits.WRITE_WAIT_S / TICK_S)
_QUEUE_BYTES_MAX: Final = limits.WRITE_QUEUE_BYTES_MAX
_QUEUE_OPS_MAX: Final = limits.WRITE_QUEUE_OPS_MAX
_FRAME_OVERHEAD: Final = 160


_NOTHING: Final = Transaction(())
ReadShard = Shard | SharedShard
"""A shard as its readers use it, in whichever process it is written."""

_Waiting = tuple[Transaction, int, "asyncio.Future[Reply]", int]
"""A transaction in the queue, its bytes, who waits for it, and since which tick of the watch.

A bare tuple: thousands are made a second, and a named one takes four times as long."""


class ShardWriter:
    """The one thread that writes a shard."""

    def __init__(self, shard: Shard, index: int, clock: SystemClock) -> None:
        self.shard, self.index = shard, index
        self._clock = clock
        self._copier = Copier(shard, index, clock)
        self._loop = asyncio.get_running_loop()
        self._queue: deque[_Waiting] = deque()
        self._queued_bytes = self._tick = 0
        self._room: deque[tuple[int, asyncio.Future[None]]] = deque()
        self._calls: deque[tuple[Callable[[Shard], int], asyncio.Future[int]]] = deque()
        self._lock = threading.Condition()
        self._sleeping = False
        self._stopping = self._closed = self._failed = False
        self._in_flight: list[_Waiting] = []
        self._watch = self._loop.call_later(TICK_S, self._refuse_overdue)
        self._thread = threading.Thread(target=self._run, name=f"molia-shard-{index:02}")
        self._thread.start()

    @property
    def failure(self) -> str:
        """Why the shard takes no writes any more; empty while it does."""
        return self.shard.failure

    @property
    def needs_restart(self) -> bool:
        """Whether only a new process helps: recovery has to run, or the thread is gone."""
        return self.shard.wants_reopening or self._failed

    @property
    def disk_bytes(self) -> int:
        """All that the shard takes on the disk."""
        return self.shard.stats().disk_bytes

    @property
    def settled_bytes(self) -> int:
        """What it will take when what was deleted has been given back."""
        stats = self.shard.stats()
        return max(0, stats.disk_bytes - stats.punchable_bytes)

    async def settle(self) -> None:
        """Return once every write that was begun before has ended, well or not."""
        with contextlib.suppress(ShardUnavailable, NoSpace):
            await self.write(_NOTHING)

    async def write(self, transaction: Transaction) -> Reply:
        """Return once the transaction is durable, or was refused by its guard.

        Raises NoSpace, ShardUnavailable, Busy, ShuttingDown.
        """
        size_bytes = _size_of(transaction)
        while (self._queued_bytes + size_bytes > _QUEUE_BYTES_MAX and self._queued_bytes) or len(
            self._queue
        ) >= _QUEUE_OPS_MAX:
            await self._wait_for_room(size_bytes)
        if self._stopping:
            raise ShuttingDown("the node is stopping")
        done: asyncio.Future[Reply] = self._loop.create_future()
        self._queued_bytes += size_bytes
        self._queue.append((transaction, size_bytes, done, self._tick))
        if self._sleeping:
            with self._lock:
                self._lock.notify()
        return await done

    async def call(self, work: Callable[[Shard], int]) -> int:
        """Return what `work` gives of the shard, run in the writer's thread between batches."""
        if self._stopping:
            raise ShuttingDown("the node is stopping")
        done: asyncio.Future[int] = self._loop.create_future()
        self._calls.append((work, done))
        with self._lock:
            self._lock.notify()
        return await done

    async def _wait_for_room(self, size_bytes: int) -> None:
        entry = (size_bytes, self._loop.create_future())
        self._room.append(entry)
        try:
            async with asyncio.timeout(limits.WRITE_WAIT_S):
                await entry[1]
        except TimeoutError:
            raise self._too_slow() from None
        finally:
            if entry in self._room:
                self._room.remove(entry)

    def _refuse_overdue(self) -> None:
        """Answer those who have waited too long; one timer for all costs a write nothing."""
        self._tick += 1
        for _, _, done, since in (*self._in_flight, *self._queue):
            if self._tick - since > _OVERDUE_TICKS and not done.done():
                done.set_exception(self._too_slow())
        self._watch = self._loop.call_later(TICK_S, self._refuse_overdue)

    def _too_slow(self) -> Busy:
        return Busy(f"shard {self.index} did not write in time")

    async def stop(self) -> None:
        """Write what is queued, checkpoint, close the shard; then the thread ends."""
        with self._lock:
            self._stopping = True
            self._lock.notify()
        self._watch.cancel()
        # a thread of its own to wait in: the pool's threads may all be waiting for this shard
        await asyncio.to_thread(self._thread.join)

    # ------------------------------------------------------------------ in the writer's thread

    def _run(self) -> None:
        try:
            self._serve()
        finally:
            self._copier.stop()
            if not self._closed:  # a mistake of ours: nobody may wait for a thread that is gone
                self._loop.call_soon_threadsafe(self._fail_all)

    def _serve(self) -> None:
        wake_s: float | None = 0.0  # what an earlier run left to do is due at once
        while True:
            batch = self._take_batch(wake_s)
            if batch:
                self._apply(batch)
            elif self._stopping and not self._queue and not self._calls:
                break
            self._run_calls()
            wake_s = self._work()
        self._close()
        self._closed = True

    def _take_batch(self, wake_s: float | None) -> list[_Waiting]:
        if not self._queue and not self._calls and not self._stopping:
            now_s = self._clock.now().mono_s
            wait_s = IDLE_WAIT_S if wake_s is None else min(IDLE_WAIT_S, wake_s - now_s)
            if wait_s > 0:
                self._sleep(wait_s)
        batch: list[_Waiting] = []
        ops = size_bytes = 0
        while self._queue and ops < limits.BATCH_OPS_MAX and size_bytes < limits.BATCH_BYTES_MAX:
            waiting = self._queue.popleft()
            ops += len(waiting[0].ops)
            size_bytes += waiting[1]
            batch.append(waiting)
        return batch

    def _sleep(self, wait_s: float) -> None:
        with self._lock:
            self._sleeping = True
            # `write` appends before it looks at `_sleeping`, so nothing is missed between
            if not self._queue and not self._calls and not self._stopping:
                self._lock.wait(wait_s)
            self._sleeping = False

    def _apply(self, batch: list[_Waiting]) -> None:
        self._in_flight = batch
        wanted = [waiting for waiting in batch if not waiting[2].done()]
        replies = self._try_apply([transaction for transaction, _, _, _ in wanted])
        failed_alone = isinstance(replies, MoliaError) and not isinstance(replies, ShardUnavailable)
        if failed_alone and len(wanted) > 1:
            # one large put must not fail the delete beside it: each on its own
            self._post(batch, [], None)
            for waiting in wanted:
                self._post([], [waiting], self._try_apply([waiting[0]]))
        else:
            self._post(batch, wanted, replies)
        self._in_flight = []  # lets go of the values

    def _run_calls(self) -> None:
        while self._calls:
            work, done = self._calls[0]  # it stays there until it is answered: see `_fail_all`
            try:
                self._loop.call_soon_threadsafe(_answer, done, work(self.shard), None)
            except MoliaError as error:
                self._loop.call_soon_threadsafe(_answer, done, 0, error)
            self._calls.popleft()

    def _try_apply(self, transactions: list[Transaction]) -> list[Reply] | MoliaError:
        try:
            return self.shard.apply(transactions, self._clock.now())
        except MoliaError as error:
            return error

    def _work(self) -> float | None:
        try:
            due_s = self.shard.work(self._clock.now(), idle=not self._queue)
            if self.shard.is_copying:
                self._copier.wake()
            return due_s
        except MoliaError as error:
            log.warning("shard_upkeep_failed", shard_index=self.index, reason=str(error))
            return self._clock.now().mono_s + 1.0

    def _close(self) -> None:
        self._copier.stop()
        try:
            self.shard.close(self._clock.now())
        except MoliaError as error:
            log.warning("shard_not_closed_well", shard_index=self.index, reason=str(error))

    def _post(
        self,
        batch: list[_Waiting],
        answered: list[_Waiting],
        outcome: list[Reply] | MoliaError | None,
    ) -> None:
        self._loop.call_soon_threadsafe(self._deliver, batch, answered, outcome)

    # ------------------------------------------------------------------ back in the event loop

    def _deliver(
        self,
        batch: list[_Waiting],
        answered: list[_Waiting],
        outcome: list[Reply] | MoliaError | None,
    ) -> None:
        self._queued_bytes -= sum([size_bytes for _, size_bytes, _, _ in batch])
        if self._room:
            self._admit_waiting()
        if isinstance(outcome, MoliaError):
            for _, _, done, _ in answered:
                if not done.done():
                    done.set_exception(outcome)
        elif outcome is not None:
            for (_, _, done, _), reply in zip(answered, outcome, strict=True):
                if not done.done():
                    done.set_result(reply)

    def _fail_all(self) -> None:
        self._stopping = self._failed = True
        error = ShardUnavailable(
            f"shard {self.index}'s writer ended", hint="the log says why; restart the node"
        )
        for _, _, done, _ in (*self._in_flight, *self._queue):
            if not done.done():
                done.set_exception(error)
        for _, called in self._calls:
            _answer(called, 0, error)
        self._queue.clear()
        self._calls.clear()

    def _admit_waiting(self) -> None:
        room = limits.WRITE_QUEUE_BYTES_MAX - self._queued_bytes
        while self._room and (room >= self._room[0][0] or self._queued_bytes == 0):
            size_bytes, turn = self._room.popleft()
            room -= size_bytes
            if not turn.done():
                turn.set_result(None)
            if room <= 0:
                break


AnyWriter = ShardWriter | RemoteWriter


@dataclass(slots=True)
class ShardSet:
    """All shards of the store, as one, whichever worker writes them."""

    writers: list[AnyWriter] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Number of shards."""
        return len(self.writers)

    @property
    def own(self) -> list[ShardWriter]:
        """The writers of the shards that this process writes."""
        return [writer for writer in self.writers if isinstance(writer, ShardWriter)]

    @property
    def shards(self) -> list[ReadShard]:
        """The shards themselves, to be read from any thread."""
        return [writer.shard for writer in self.writers]

    def shard_of(self, kind: Kind, key: bytes) -> ReadShard:
        """Return the shard where a key lives."""
        return self.writers[shard_of(kind, key, self.count)].shard

    def writer_of(self, kind: Kind, key: bytes) -> AnyWriter:
        """Return the writer of a key."""
        return self.writers[shard_of(kind, key, self.count)]

    async def write_all(self, by_shard: dict[int, list[Transaction]]) -> None:
        """Write transactions to several shards at once; return when all are durable.

        Raises what the first failing one raised, after all have ended.
        """
        waiting = [
            self.writers[index].write(transaction)
            for index, transactions in by_shard.items()
            for transaction in transactions
        ]
        if len(waiting) == 1:  # a block of a share: no task is needed to wait for it
            await waiting[0]
            return
        results = await asyncio.gather(*waiting, return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def settle(self) -> None:
        """Return once every write that was begun before has ended."""
        await asyncio.gather(*(writer.settle() for writer in self.writers))

    async def stop(self) -> None:
        """Stop all writers."""
        await asyncio.gather(*(writer.stop() for writer in self.writers))


def keys_of(
    shard: ReadShard, kind: Kind, prefix: bytes, now: Now, *, after: bytes = b""
) -> Iterator[bytes]:
    """Yield all live keys with a prefix, in order; in a thread. Raises ShardUnavailable.

    after: those behind this key alone.
    """
    return (row.key for row in rows_of(shard, kind, prefix, now, after=after))


def rows_of(
    shard: ReadShard, kind: Kind, prefix: bytes, now: Now, *, after: bytes = b""
) -> Iterator[Row]:
    """Yield what is known without reading it of all that `keys_of` yields."""
    count = KEYS_PAGE
    while count == KEYS_PAGE:
        rows = shard.scan(kind, prefix, now=now, after=after, limit=KEYS_PAGE)
        yield from rows
        count = len(rows)
        after = rows[-1].key if rows else after


def _answer(done: "asyncio.Future[int]", value: int, error: MoliaError | None) -> None:
    if done.done():
        return
    if error is None:
        done.set_result(value)
    else:
        done.set_exception(error)


def _size_of(transaction: Transaction) -> int:
    """Return about how many bytes a transaction adds to the log."""
    ops = transaction.ops
    size_bytes = _FRAME_OVERHEAD * len(ops)
    for op in ops:
        if type(op) is Put:
            size_bytes += len(op.value)
    return size_bytes
