"""What the API may ask of a node: one Protocol, frozen values in and out, MoliaError on failure.

`node/local.py` is the real one; tests of the API may bring their own.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from molia.base.cid import Cid, Ref
from molia.base.ids import JobId
from molia.base.record_ref import RecordRef
from molia.base.views import (
    Announced,
    BlobHealth,
    BlobInfo,
    BlobPage,
    BlobState,
    Garbage,
    JobEvent,
    JobView,
    LookupEvent,
    ManifestView,
    NodeView,
    PeerView,
    PingView,
    PinView,
    ProviderView,
    PutOptions,
    PutResult,
    Readiness,
    RecordPut,
    RecordView,
    RepairsView,
    RepairView,
    TrashedBlob,
)


class BlobReader(Protocol):
    """An open blob. It holds nothing that must be closed until `read` is iterated."""

    @property
    def info(self) -> BlobInfo:
        """What the local index says of the blob."""
        ...

    def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield the bytes [start, stop) in order, every block verified before it is yielded.

        Chunks have at most 256 KiB. Raises TooFewShares, BlobDamaged, SharesOutOfReach or TimedOut,
        possibly after some bytes.
        """
        ...


class NodeService(Protocol):
    """A running node, as its API sees it."""

    async def admit_put(self, options: PutOptions) -> None:
        """Return when a body of `options.size` (None: unknown) would be taken.

        To be called before the body is read. Raises NoSpace, ShardUnavailable, BodyTooLarge,
        ShuttingDown.
        """
        ...

    async def put_blob(self, chunks: AsyncIterator[bytes], options: PutOptions) -> PutResult:
        """Store the bytes of `chunks` durably and return what they are called.

        Back pressure: the next chunk is asked for only when there is room for it. When `chunks`
        raises, or the task is cancelled, nothing stays. Raises DigestMismatch, BodyTooLarge,
        NoSpace, ShardUnavailable, Busy.
        """
        ...

    async def open_blob(self, ref: Ref, *, local_only: bool = False) -> BlobReader:
        """Return a reader of the blob, which comes from other nodes where it is not here.

        local_only: without asking anybody. Raises BlobNotFound, BlobDamaged; of the network
        NoHolders, SharesOutOfReach, LookupTimedOut, TimedOut, NotJoined, Busy.
        """
        ...

    async def blob_info(self, ref: Ref) -> BlobInfo:
        """Return the index line of a blob. Raises BlobNotFound."""
        ...

    async def list_blobs(
        self, *, cursor: str | None, limit: int, state: BlobState | None, pinned: bool | None
    ) -> BlobPage:
        """Return a page of the index, newest first. Raises BadInput for a cursor not ours.

        state: only blobs in this state or worse (`degraded` is what `state=at-risk` means).
        """
        ...

    async def delete_blob(self, ref: Ref) -> None:
        """Unpin the blob, end its leases and free its space. Raises BlobNotFound."""
        ...

    async def trash(self) -> tuple[TrashedBlob, ...]:
        """Return the removed blobs that can be brought back, those that stay longest first."""
        ...

    async def undelete_blob(self, cid: Cid) -> BlobInfo:
        """Bring a removed blob back as it was, while its time in the trash lasts.

        Raises BlobNotFound when it is not in the trash, Conflict when it was put again.
        """
        ...

    async def pin_blob(self, ref: Ref, *, pinned: bool) -> PinView:
        """Pin or unpin a blob; doing it twice is fine. One that others have is fetched by a job.

        Raises BlobNotFound, NoSpace, Busy, and as `open_blob` of a blob that is not here.
        """
        ...

    async def blob_health(self, ref: Ref) -> BlobHealth:
        """Return how many losses a blob would survive. Raises BlobNotFound."""
        ...

    async def blob_manifest(self, ref: Ref) -> ManifestView:
        """Return a blob's manifest. Raises BlobNotFound, also for a small blob: it has none."""
        ...

    async def node(self) -> NodeView:
        """Return who this node is and how it is doing."""
        ...

    async def readiness(self) -> Readiness:
        """Return whether the node takes work."""
        ...

    async def collect_garbage(self, *, dry_run: bool) -> Garbage:
        """Remove what nobody wants any more now; return what went, or with `dry_run` what would.

        Some thousand blobs at most; what is left goes with the next pass.
        """
        ...

    async def trust_clock(self) -> None:
        """Let what has had its time go again although the machine's clock jumped."""
        ...

    async def start_verify(self, cids: Sequence[Cid]) -> JobView:
        """Start a job that reads and checks the named blobs, or everything when none is named.

        Raises Busy when too many jobs wait.
        """
        ...

    async def jobs(self) -> tuple[JobView, ...]:
        """Return all jobs, newest first."""
        ...

    async def job(self, job_id: JobId) -> JobView:
        """Return one job. Raises JobNotFound."""
        ...

    def job_events(self, job_id: JobId, *, after: int) -> AsyncIterator[JobEvent]:
        """Yield the kept events with an id above `after`, then new ones until the job ends.

        Raises JobNotFound before the first.
        """
        ...

    async def cancel_job(self, job_id: JobId) -> JobView:
        """Stop a job, or forget one that ended. Raises JobNotFound, Conflict."""
        ...

    async def repairs(self) -> RepairsView:
        """Return what this node repairs and what waits for it, over all workers."""
        ...

    async def start_repair(self, ref: Ref, *, dry_run: bool) -> RepairView:
        """Look at a blob that this node holds or has pinned; repair it now if it lacks anything.

        dry_run: only look. Raises BlobNotFound when it is not watched here, NotJoined.
        """
        ...

    async def metrics(self) -> bytes:
        """Return all metrics, of all workers, in Prometheus' text format."""
        ...

    # ------------------------------------------------------------------ the network

    async def put_record(self, name: str, value: bytes, *, if_seq: int | None) -> RecordPut:
        """Sign `value` under this node's key with the salt `name`, publish it, keep it alive.

        if_seq: the put happens only when the network's record of this name has this seq; 0 when
        there must be none. None replaces whatever is there. Raises PreconditionFailed, RecordStale,
        RecordTooLarge, NotJoined, LookupTimedOut.
        """
        ...

    async def publish_record(self, encoded: bytes) -> RecordPut:
        """Publish a record that somebody else signed; it is not kept alive.

        encoded: as docs/reference/records.md says. The address in the reply is the hex of its
        location, since whose it is does not follow from it. Raises BadRecord, RecordStale,
        RecordTooLarge, NotJoined, LookupTimedOut.
        """
        ...

    async def get_record(self, ref: RecordRef, *, consistent: bool) -> RecordView:
        """Return a record. consistent: a quorum of the holders was asked, the highest seq wins.

        One that this node keeps alive is returned while nobody can be asked, unless `consistent`.
        Raises RecordNotFound, NotJoined, LookupTimedOut.
        """
        ...

    async def own_records(self) -> tuple[RecordView, ...]:
        """Return the records that this node signed and keeps alive, by name."""
        ...

    async def providers(self, ref: Ref) -> tuple[ProviderView, ...]:
        """Return who says to have a blob, whether or not it is kept here.

        Raises NoProviders, NotJoined, LookupTimedOut.
        """
        ...

    async def announce(self, ref: Ref) -> Announced:
        """Tell the network now that this node has a blob. Raises BlobNotFound, NotJoined."""
        ...

    async def peers(self) -> tuple[PeerView, ...]:
        """Return the nodes that this one knows, over all workers, those known longest first."""
        ...

    async def ping(self, peer: str) -> PingView:
        """Ask a peer for a sign of life. peer: a peer key or a `molia://` address.

        Raises BadPeerKey, BadAddress, PeerNotFound, PeerSilent.
        """
        ...

    def lookup(self, key: str, *, trace: bool) -> AsyncIterator[LookupEvent]:
        """Look for the nodes closest to a key; for a record or a CID also for what is there.

        key: a peer key, a record's address, a CID, or 64 hex digits. Yields the steps when `trace`,
        and the result last, of the kind `done`. Closing it early ends the lookup. Raises
        BadLookupKey before the first, NotJoined, LookupTimedOut.
        """
        ...
