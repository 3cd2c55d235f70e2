"""Pins of blobs that are not here: each is fetched whole, kept, and placed under a lease of ours.

The wish is a PIN row without a BIND row, written before anything is fetched; a backup that was
brought back has such rows as well. A job carries it out. One that fails, or was cut off, is begun
again after a while, until the blob is here or its pin is taken away.
Source: docs/reference/http.md, "Pins".
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, Final, Protocol

import structlog

from molia.base import limits
from molia.base.cid import Cid
from molia.base.errors import (
    Busy,
    Conflict,
    Damaged,
    DigestMismatch,
    JobNotFound,
    MoliaError,
    NotJoined,
    ShardUnavailable,
)
from molia.base.ids import JobId
from molia.base.views import BlobInfo, JobState, JobView, PutOptions, PutResult
from molia.node.context import Context
from molia.node.jobs import JobRun
from molia.node.service import BlobReader
from molia.node.shards import keys_of
from molia.node.team_jobs import TeamJobs
from molia.store import keys
from molia.store.keys import Kind, Space
from molia.store.ops import Delete, Put, Transaction
from molia.store.rows import PinRow

log = structlog.get_logger(__name__)

JOB_KIND: Final = "pin"
AGAIN_S: Final = 60.0
"""How soon what failed is tried again."""
AGAIN_MAX_S: Final = 1_800.0
JOIN_S: Final = 120.0
LOOK_S: Final = 0.5
TELL_S: Final = 0.5


class Hands(Protocol):
    """What a node does for its pins."""

    @property
    def is_joined(self) -> bool:
        """Whether there is anybody to ask."""
        ...

    async def open(self, cid: Cid) -> BlobReader:
        """Return a reader of a blob, wherever it is; see `NodeService.open_blob`."""
        ...

    async def keep(self, chunks: AsyncIterator[bytes], options: PutOptions) -> PutResult:
        """Put what is read, and place it where its holders are known; see `put_blob`."""
        ...


class Pinning:
    """The pins of one worker's shards that wait for their blobs."""

    def __init__(self, context: Context, jobs: TeamJobs, hands: Hands) -> None:
        self._context, self._jobs, self._hands = context, jobs, hands
        self._is_left_over = True
        """Whether there may be pins of blobs that are not here and that no job fetches."""
        self._behind = 0, b""
        """Which of our shards, and its key, the next look begins behind."""
        self.again_s = AGAIN_S

    async def begin(self, info: BlobInfo, *, content: bytes | None = None) -> JobView:
        """Wish for a blob that others have; return the job that fetches it.

        content: what all its bytes must hash to, where a stranger named the manifest. Raises Busy.
        """
        running = await self._running(info.cid)
        if running is not None:
            return running
        row = PinRow(int(self._context.now().unix_s))
        put = Put(Kind.META, keys.pin_key(info.cid), row.encode())
        await self._context.home_writer(info.cid).write(Transaction((put,)))
        return await self._start(info.cid, info.size, content)

    async def end(self, cid: Cid) -> bool:
        """Wish no longer for a blob that is not here; False when nobody did.

        It may be here, and pinned, when this returns: its job may have come to its end meanwhile.
        """
        if not await self._context.offload.run(self._is_wished, cid):
            return False
        gone = Transaction((Delete(Kind.META, keys.pin_key(cid)),))
        home = self._context.home_writer(cid)
        await home.write(gone)
        while (running := await self._running(cid)) is not None:
            await self._stop(running.id)
        await home.settle()  # what a job was about to write
        return True

    async def _stop(self, job_id: JobId) -> None:
        with contextlib.suppress(JobNotFound):
            try:
                await self._jobs.cancel(job_id)
            except Conflict:  # it ends by itself in this moment
                await self._jobs.ended(job_id)

    async def _start(self, cid: Cid, size: int, content: bytes | None) -> JobView:
        arguments: dict[str, Any] = {"cid": str(cid), "size": size}
        if content is not None:
            arguments["content"] = content.hex()
        return await self._jobs.start(JOB_KIND, arguments)

    async def _running(self, cid: Cid) -> JobView | None:
        live = (JobState.QUEUED, JobState.RUNNING)
        for view in await self._jobs.views():
            is_it = view.kind == JOB_KIND and view.arguments.get("cid") == str(cid)
            if is_it and view.state in live:
                return view
        return None

    # ------------------------------------------------------------------ one job

    async def run_job(self, run: JobRun) -> None:
        """Fetch the blob that a job names; see `node.jobs`."""
        cid = Cid.parse(str(run.arguments["cid"]))
        try:
            await self._fetch(run, cid)
        except DigestMismatch:  # the manifest that was named lies: nobody can have such a blob
            gone = Transaction((Delete(Kind.META, keys.pin_key(cid)),))
            await self._context.home_writer(cid).write(gone)
            raise
        except MoliaError:
            self._is_left_over = True
            raise

    async def _fetch(self, run: JobRun, cid: Cid) -> None:
        for _ in range(int(JOIN_S / LOOK_S)):
            if self._hands.is_joined:
                break
            await asyncio.sleep(LOOK_S)
        if not await self._context.offload.run(self._is_wished, cid):
            return
        if not self._hands.is_joined:
            raise NotJoined
        reader = await self._hands.open(cid)
        content = run.arguments.get("content")
        options = PutOptions(
            size=reader.info.size, assert_cid=cid,
            assert_content=bytes.fromhex(content) if isinstance(content, str) else None,
        )  # fmt: skip
        result = await self._hands.keep(self._told(run, reader), options)
        run.progress.update(
            holders=result.holders, survives=result.survives, blob_state=result.state.value
        )

    async def _told(self, run: JobRun, reader: BlobReader) -> AsyncIterator[bytes]:
        """Yield a blob's bytes, and tell how many have come."""
        size, come, told_s = reader.info.size, 0, float("-inf")
        async for chunk in reader.read(0, size):
            yield chunk
            come += len(chunk)
            now_s = self._context.now().mono_s
            if now_s - told_s >= TELL_S or come == size:
                told_s = now_s
                run.progress.update(bytes=come, size=size)
                run.tell()

    # ------------------------------------------------------------------ what is left over

    async def run(self) -> None:
        """Begin again what was cut off or failed, for as long as the node lives."""
        wait_s = LOOK_S
        while True:
            await asyncio.sleep(wait_s)
            if not self._is_left_over or not self._hands.is_joined:
                wait_s = LOOK_S if self._is_left_over else self.again_s
                continue
            self._is_left_over = False
            try:
                count = await self._take_up()
            except MoliaError as error:
                self._is_left_over, count = True, 1
                log.warning("pins_not_resumed", reason=str(error))
            wait_s = min(max(wait_s * 2, self.again_s), AGAIN_MAX_S) if count else self.again_s

    async def _take_up(self) -> int:
        """Begin to fetch what is pinned and not here; return how much there was."""
        wished = await self._context.offload.run(self._wished)
        self._is_left_over |= len(wished) >= limits.PINS_COMING_MAX
        for cid, at in wished.items():
            try:
                if await self._running(cid) is None:
                    await self._start(cid, 0, None)
            except Busy:
                self._is_left_over = True
                break
            self._behind = at, keys.pin_key(cid)
        return len(wished)

    def _wished(self) -> dict[Cid, int]:
        """Return pins whose blobs are not here, some hundred at most, and on which of our shards.

        Each look goes on behind the last one, or those that nobody has would be in the way of the
        others. In a thread.
        """
        now, prefix, found = self._context.now(), bytes((Space.PIN,)), dict[Cid, int]()
        own = [writer.shard for writer in self._context.shards.own]
        first, after = self._behind
        for turn in range(len(own) + 1 if own else 0):  # of the first what is before it as well
            at = (first + turn) % len(own)
            for key in keys_of(own[at], Kind.META, prefix, now, after=after):
                try:
                    cid = keys.split_blob_key(key)
                except ValueError:
                    continue
                if own[at].size_of(Kind.META, keys.bind_key(cid), now=now) is None:
                    found[cid] = at
                if len(found) >= limits.PINS_COMING_MAX:
                    return found
            after = b""
        return found

    def _is_wished(self, cid: Cid) -> bool:
        """Tell whether a blob is pinned and not here; in a thread."""
        home, now = self._context.catalog.home(cid), self._context.now()
        try:
            is_here = home.size_of(Kind.META, keys.bind_key(cid), now=now) is not None
            return not is_here and home.size_of(Kind.META, keys.pin_key(cid), now=now) is not None
        except (Damaged, ShardUnavailable):
            return False
