"""A node in memory: it really hashes and keeps bytes, and can be told to fail."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, replace

import cbor2

from molia.base import limits
from molia.base.cid import Cid, Codec, ContentHash, Ref
from molia.base.errors import (
    BadInput,
    BlobNotFound,
    BodyTooLarge,
    Busy,
    Conflict,
    DigestMismatch,
    JobNotFound,
    MoliaError,
    TooFewShares,
)
from molia.base.hashing import blake3_digest
from molia.base.ids import JobId
from molia.base.views import (
    BlobHealth,
    BlobInfo,
    BlobPage,
    BlobState,
    DhtView,
    Garbage,
    JobEvent,
    JobState,
    JobView,
    ManifestView,
    NodeView,
    PinView,
    PutOptions,
    PutResult,
    Readiness,
    ShardView,
    ShareHealth,
    TrashedBlob,
    WorkerView,
)
from tests.api.fake_network import OWN, FakeNetwork

CHUNK = 256 * limits.KIB


@dataclass
class Kept:
    """A blob that the fake keeps."""

    info: BlobInfo
    data: bytes
    manifest: bytes


@dataclass
class FakeReader:
    """An open blob; reading at or past `fails_at` raises."""

    info: BlobInfo
    data: bytes
    fails_at: int | None
    node: "FakeNode"

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        for offset in range(start, stop, CHUNK):
            end = min(offset + CHUNK, stop)
            if self.fails_at is not None and end > self.fails_at:
                raise TooFewShares(self.info.cid, stripe_index=0, sound_count=9, needed=10)
            self.node.chunks_read += 1
            yield self.data[offset:end]


class FakeNode(FakeNetwork):
    """Implements NodeService."""

    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[Cid, Kept] = {}
        self.removed: dict[Cid, Kept] = {}
        self.elsewhere: dict[Ref, BlobInfo] = {}
        """What others have: a pin of it is a job."""
        self.clock_trusted = 0
        self.job_views: dict[JobId, JobView] = {}
        self.job_logs: dict[JobId, list[JobEvent]] = {}
        self.news = asyncio.Event()
        self.puts: list[PutOptions] = []
        self.admit_error: MoliaError | Exception | None = None
        self.put_error: MoliaError | None = None
        self.read_fails_at: int | None = None
        self.not_ready: tuple[str, ...] = ()
        self.jobs_end_at_once = False
        self.chunks_read = 0
        self.chunks_taken = 0
        self.puts_failed = 0
        self.clock_ms = 1_700_000_000_000

    async def admit_put(self, options: PutOptions) -> None:
        if self.admit_error is not None:
            raise self.admit_error

    async def put_blob(self, chunks: AsyncIterator[bytes], options: PutOptions) -> PutResult:
        try:
            return await self._put(chunks, options)
        except BaseException:
            self.puts_failed += 1
            raise

    async def _put(self, chunks: AsyncIterator[bytes], options: PutOptions) -> PutResult:
        data = bytearray()
        async for chunk in chunks:
            assert type(chunk) is bytes
            self.chunks_taken += 1
            data += chunk
        if self.put_error is not None:
            raise self.put_error
        if options.size is not None and options.size != len(data):
            raise BodyTooLarge("the body is not as long as announced")
        kept = self._keep(bytes(data), options)
        cid = kept.info.cid
        if options.assert_cid not in (None, cid):
            raise DigestMismatch(f"the body is {cid}, not {options.assert_cid}")
        if options.assert_content not in (None, kept.info.content):
            raise DigestMismatch("the body has another BLAKE3")
        created = cid not in self.kept
        if created:
            self.kept[cid] = kept
        self.puts.append(options)
        return PutResult(
            cid=cid,
            created=created,
            size=len(data),
            content=kept.info.content,
            k=kept.info.k,
            n=kept.info.n,
            holders=1,
            survives=0,
            state=BlobState.HEALTHY,
        )

    def _keep(self, data: bytes, options: PutOptions) -> Kept:
        content = blake3_digest(data)
        small = len(data) < limits.RAW_SIZE_STOP
        manifest = b"" if small else cbor2.dumps({"size": len(data), "content": content})
        digest = content if small else blake3_digest(manifest)
        self.clock_ms += 1
        info = BlobInfo(
            cid=Cid(Codec.RAW if small else Codec.MANIFEST, digest),
            size=len(data),
            content=content,
            name=options.name,
            created_unix_ms=self.clock_ms,
            pinned=options.pin,
            expires_unix_s=options.expires_unix_s,
            k=1 if small else 10,
            n=1 if small else 14,
        )
        return Kept(info, data, manifest)

    def has_blob(self, ref: Ref) -> bool:
        return any(ref in (cid, ContentHash(kept.info.content)) for cid, kept in self.kept.items())

    def _find(self, ref: Ref) -> Kept:
        for cid, kept in self.kept.items():
            if ref == cid or (isinstance(ref, ContentHash) and ref.digest == kept.info.content):
                return kept
        raise BlobNotFound(ref)

    async def open_blob(self, ref: Ref, *, local_only: bool = False) -> FakeReader:
        kept = self._find(ref)
        return FakeReader(kept.info, kept.data, self.read_fails_at, self)

    async def blob_info(self, ref: Ref) -> BlobInfo:
        return self._find(ref).info

    async def list_blobs(
        self, *, cursor: str | None, limit: int, state: BlobState | None, pinned: bool | None
    ) -> BlobPage:
        infos = [kept.info for kept in reversed(self.kept.values())]
        if state is not None:
            infos = []
        if pinned is not None:
            infos = [info for info in infos if info.pinned == pinned]
        start = 0
        if cursor is not None:
            if not cursor.isascii() or not cursor.isdigit():
                raise BadInput("not a cursor of this node")
            start = int(cursor[:9])
        page = infos[start : start + limit]
        more = start + limit < len(infos)
        return BlobPage(blobs=tuple(page), next_cursor=str(start + limit) if more else None)

    async def delete_blob(self, ref: Ref) -> None:
        cid = self._find(ref).info.cid
        self.removed[cid] = self.kept.pop(cid)

    async def trash(self) -> tuple[TrashedBlob, ...]:
        return tuple(
            TrashedBlob(
                cid=cid, size=kept.info.size, name=kept.info.name, pinned=kept.info.pinned,
                until_unix_s=2_000_000_000,
            )
            for cid, kept in self.removed.items()
        )  # fmt: skip

    async def undelete_blob(self, cid: Cid) -> BlobInfo:
        if cid not in self.removed:
            raise BlobNotFound(cid)
        if cid in self.kept:
            raise Conflict(f"{cid} was put again")
        self.kept[cid] = self.removed.pop(cid)
        return self.kept[cid].info

    async def collect_garbage(self, *, dry_run: bool) -> Garbage:
        gone = [cid for cid, kept in self.removed.items()]
        size = sum(self.removed[cid].info.size for cid in gone)
        if not dry_run:
            self.removed.clear()
        return Garbage(trashed=len(gone), trashed_bytes=size)

    async def trust_clock(self) -> None:
        self.clock_trusted += 1

    async def pin_blob(self, ref: Ref, *, pinned: bool) -> PinView:
        if ref in self.elsewhere and pinned:
            return PinView(info=replace(self.elsewhere[ref], pinned=True), job=JobId("p" * 26))
        kept = self._find(ref)
        kept.info = replace(kept.info, pinned=pinned)
        return PinView(info=kept.info)

    async def blob_health(self, ref: Ref) -> BlobHealth:
        info = self._find(ref).info
        share = ShareHealth(
            index=0, holders=("me",), sound=True, damaged_blocks=0, last_verified_unix_s=None
        )
        return BlobHealth(
            cid=info.cid,
            state=BlobState.HEALTHY,
            survives=0,
            spare_shares=info.n - info.k,
            estimate_loss_per_year=None,
            shares=tuple(replace(share, index=index) for index in range(info.n)),
        )

    async def blob_manifest(self, ref: Ref) -> ManifestView:
        kept = self._find(ref)
        if not kept.manifest:
            raise BlobNotFound(ref)
        return ManifestView(
            cid=kept.info.cid,
            encoded=kept.manifest,
            size=kept.info.size,
            block_size=CHUNK,
            k=10,
            n=14,
            content=kept.info.content,
            roots=(bytes(32),) * 14,
        )

    async def node(self) -> NodeView:
        shard = ShardView(
            index=0,
            state="ok",
            reason="",
            keys=len(self.kept),
            log_bytes=0,
            punchable_bytes=0,
            last_recovery="",
        )
        return NodeView(
            peer=str(OWN),
            version="0.1.0",
            network="molia",
            network_id="00" * 8,
            started_unix_s=1,
            uptime_s=1.5,
            workers=1,
            api=("http://127.0.0.1:7070",),
            home="/home",
            blobs=len(self.kept),
            stored_bytes=0,
            quota_bytes=0,
            disk_free_bytes=0,
            shards=(shard,),
            processes=(WorkerView(index=0, state="running", pid=1, uptime_s=1.5, restarts=0),),
            dht=DhtView(
                is_joined=True,
                reachable=True,
                contacts=2,
                network_nodes=None,
                records=0,
                provider_records=0,
                own_records=len(self.records),
                provided=len(self.kept),
            ),
        )

    async def readiness(self) -> Readiness:
        return Readiness(ready=not self.not_ready, reasons=self.not_ready)

    async def start_verify(self, cids: Sequence[Cid]) -> JobView:
        if len(self.job_views) >= 1000:
            raise Busy("too many jobs wait")
        job_id = JobId(f"{len(self.job_views):026d}")
        view = JobView(
            id=job_id,
            kind="verify",
            state=JobState.RUNNING,
            created_unix_ms=self.clock_ms,
            updated_unix_ms=self.clock_ms,
            arguments={"cids": [str(cid) for cid in cids]},
            progress={},
            error="",
        )
        self.job_views[job_id] = view
        self.job_logs[job_id] = []
        if self.jobs_end_at_once:
            self.tell(job_id, "done", state=JobState.DONE)
        return self.job_views[job_id]

    async def jobs(self) -> tuple[JobView, ...]:
        return tuple(reversed(self.job_views.values()))

    async def job(self, job_id: JobId) -> JobView:
        if job_id not in self.job_views:
            raise JobNotFound(job_id)
        return self.job_views[job_id]

    def tell(self, job_id: JobId, kind: str, *, state: JobState = JobState.RUNNING) -> None:
        """Append an event to a job, and change its state."""
        events = self.job_logs[job_id]
        events.append(JobEvent(id=len(events) + 1, unix_ms=5, kind=kind, data={"n": len(events)}))
        self.job_views[job_id] = replace(self.job_views[job_id], state=state)
        news, self.news = self.news, asyncio.Event()
        news.set()

    async def job_events(self, job_id: JobId, *, after: int) -> AsyncIterator[JobEvent]:
        await self.job(job_id)
        sent = after
        while True:
            news = self.news
            for event in self.job_logs[job_id][sent:]:
                sent = event.id
                yield event
            if self.job_views[job_id].state is not JobState.RUNNING:
                return
            await news.wait()

    async def cancel_job(self, job_id: JobId) -> JobView:
        view = await self.job(job_id)
        if view.state is not JobState.RUNNING:
            raise Conflict("the job has ended")
        self.tell(job_id, "error", state=JobState.CANCELLED)
        return self.job_views[job_id]

    async def metrics(self) -> bytes:
        return b"# HELP molia_blobs Blobs.\n# TYPE molia_blobs gauge\nmolia_blobs 0\n"
