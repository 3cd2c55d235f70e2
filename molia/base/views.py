"""The frozen values that cross `NodeService`: what the API is told and what it asks with."""

from dataclasses import dataclass, field
from enum import StrEnum

from molia.base.cid import Cid
from molia.base.ids import JobId


class BlobState(StrEnum):
    """How far a blob is from being lost."""

    HEALTHY = "healthy"
    DEGRADED = "degraded"
    CRITICAL = "critical"
    LOST = "lost"


@dataclass(frozen=True, slots=True, kw_only=True)
class PutOptions:
    """What a client asks of a put beside its bytes."""

    name: str = ""
    """File name to show in listings; at most 1,024 bytes of UTF-8."""
    pin: bool = True
    """Keep the blob alive until it is removed."""
    expires_unix_s: int | None = None
    """When it goes by itself, pinned or not; in the future."""
    size: int | None = None
    """Body size when the client said it; a body of another size is refused."""
    assert_cid: Cid | None = None
    """The body must hash to this CID, else DigestMismatch."""
    assert_content: bytes | None = None
    """The body's BLAKE3 must be this, else DigestMismatch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PutResult:
    """What became of a put."""

    cid: Cid
    created: bool
    """False when the node already kept the same bytes."""
    size: int
    content: bytes
    k: int
    """Shares needed to read: 10, or 1 for a small blob kept whole."""
    n: int
    """Shares kept: 14, or 1 for a small blob kept whole."""
    holders: int
    """Nodes that hold a share."""
    survives: int
    """Nodes that may vanish without losing the blob."""
    state: BlobState


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobInfo:
    """A line of the local index."""

    cid: Cid
    size: int
    content: bytes
    """BLAKE3 of the blob's bytes."""
    name: str
    created_unix_ms: int
    pinned: bool
    expires_unix_s: int | None
    k: int
    n: int


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobPage:
    """Part of a listing, newest first."""

    blobs: tuple[BlobInfo, ...]
    next_cursor: str | None
    """Give it back for the next page; None at the end. Opaque, and never longer than 256 chars."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShareHealth:
    """One share of a blob."""

    index: int
    holders: tuple[str, ...]
    """Peer keys of the nodes that hold it."""
    sound: bool
    damaged_blocks: int
    last_verified_unix_s: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobHealth:
    """What a blob would survive."""

    cid: Cid
    state: BlobState
    survives: int
    """Nodes that may vanish without losing the blob."""
    spare_shares: int
    """Shares that may be lost without losing the blob; 4 when all is well, 0 for a small blob."""
    estimate_loss_per_year: float | None
    """Modelled chance of losing the blob within a year; None where no model holds (one node)."""
    shares: tuple[ShareHealth, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManifestView:
    """A blob's manifest: its own bytes, and what they say."""

    cid: Cid
    encoded: bytes
    size: int
    block_size: int
    k: int
    n: int
    content: bytes
    roots: tuple[bytes, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardView:
    """One shard of the store."""

    index: int
    state: str
    """`ok`, `read-only` after a disk error, `full`, or `unavailable` while its worker starts."""
    reason: str
    keys: int
    log_bytes: int
    punchable_bytes: int
    last_recovery: str
    disk_bytes: int = 0
    """All that the shard takes on the disk: log, index, delta, ballast."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerView:
    """One process of the node."""

    index: int
    state: str
    """`running`, or `starting` while it does not answer."""
    pid: int
    """0 while it does not answer."""
    uptime_s: float
    restarts: int
    """How often it was started anew since the node started."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeView:
    """Who this node is and how it is doing."""

    peer: str
    version: str
    network: str
    network_id: str
    started_unix_s: int
    uptime_s: float
    workers: int
    api: tuple[str, ...]
    home: str
    blobs: int
    stored_bytes: int
    """Disk bytes that the store uses."""
    quota_bytes: int
    disk_free_bytes: int
    shards: tuple[ShardView, ...]
    processes: tuple[WorkerView, ...]
    """One of each worker."""
    addresses: tuple[str, ...] = ()
    """`molia://` addresses of the UDP port where other nodes reach this one."""
    sessions: int = 0
    """Peers with a session, over all workers."""
    proof_epoch: int | None = None
    """The 30-day epoch of the identity proof that is shown to others; None while there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether the node takes work, and why not."""

    ready: bool
    reasons: tuple[str, ...] = ()


class JobState(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True, kw_only=True)
class JobEvent:
    """One step of a job, in order."""

    id: int
    """1, 2, 3…; the last 256 of a job are kept."""
    unix_ms: int
    kind: str
    """`progress`, `item`, `done` or `error`."""
    data: dict[str, object] = field(default_factory=dict)
    """JSON values."""


@dataclass(frozen=True, slots=True, kw_only=True)
class JobView:
    """One job."""

    id: JobId
    kind: str
    state: JobState
    created_unix_ms: int
    updated_unix_ms: int
    arguments: dict[str, object]
    progress: dict[str, object]
    error: str
