"""What the API may ask of a node: one Protocol, frozen values in and out, MoliaError on failure.

`node/local.py` is the real one; tests of the API may bring their own.
"""

from collections.abc import AsyncIterator, Sequence
from typing import Protocol

from molia.base.cid import Cid, Ref
from molia.base.ids import JobId
from molia.base.views import (
    BlobHealth,
    BlobInfo,
    BlobPage,
    BlobState,
    JobEvent,
    JobView,
    ManifestView,
    NodeView,
    PutOptions,
    PutResult,
    Readiness,
)


class BlobReader(Protocol):
    """An open blob. It holds nothing that must be closed until `read` is iterated."""

    @property
    def info(self) -> BlobInfo:
        """What the local index says of the blob."""
        ...

    def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """Yield the bytes [start, stop) in order, every block verified before it is yielded.

        Chunks have at most 256 KiB. Raises TooFewShares or BlobDamaged, possibly after some bytes.
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

    async def open_blob(self, ref: Ref) -> BlobReader:
        """Return a reader of the blob. Raises BlobNotFound, BlobDamaged."""
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

    async def pin_blob(self, ref: Ref, *, pinned: bool) -> BlobInfo:
        """Pin or unpin a blob; doing it twice is fine. Raises BlobNotFound."""
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

    async def metrics(self) -> bytes:
        """Return all metrics, of all workers, in Prometheus' text format."""
        ...
