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
    cached: bool = False
    """It may go at any time, in half an hour at the latest; not pinned, whatever `pin` says."""
    expires_unix_s: int | None = None
    """When it goes by itself, pinned or not; in the future."""
    size: int | None = None
    """Body size when the client said it; a body of another size is refused."""
    assert_cid: Cid | None = None
    """The body must hash to this CID, else DigestMismatch."""
    assert_content: bytes | None = None
    """The body's BLAKE3 must be this, else DigestMismatch."""
    wait_placed: bool = True
    """Answer when other nodes have their shares, if there are any; else once it is durable here."""


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
    job: JobId | None = None
    """What brings it to other nodes, or did; None where nothing does, and of a small blob."""


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
class PinView:
    """A blob that was pinned or unpinned."""

    info: BlobInfo
    job: JobId | None = None
    """What fetches a blob that is not here yet."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BlobPage:
    """Part of a listing, newest first."""

    blobs: tuple[BlobInfo, ...]
    next_cursor: str | None
    """Give it back for the next page; None at the end. Opaque, and never longer than 256 chars."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrashedBlob:
    """A removed blob that can be brought back."""

    cid: Cid
    size: int
    name: str
    pinned: bool
    """It will be pinned again."""
    until_unix_s: int
    """When it goes for good."""


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
class RepairView:
    """A blob that lacks shares, or was asked about."""

    cid: Cid
    state: str
    """`waiting` for its grace or turn, `running`, `whole`, or `lost`: too few shares answer."""
    reachable: int
    """Shares that answer now; of a small blob copies."""
    needed: int
    """To read it: 10, or 1."""
    missing: int
    due_s: float | None
    """Seconds until this node may repair it, if nobody does before; None unless it waits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairsView:
    """What this node watches and repairs, over all its workers."""

    enabled: bool
    repairs: tuple[RepairView, ...]
    """The most urgent first."""
    repaired: int
    """Blobs that it repaired since its start."""
    shares_made: int
    failed: int
    """Repairs that came to nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Garbage:
    """What nobody wants any more: what went, or would go."""

    blobs: int = 0
    """The user's, whose time is over."""
    blob_bytes: int = 0
    trashed: int = 0
    """Removed ones that cannot be brought back any more."""
    trashed_bytes: int = 0
    held: int = 0
    """Blobs of which something is kept for others whose leases have all ended."""
    held_bytes: int = 0
    doubt: str = ""
    """Why nothing goes for its age at the moment; empty when it does."""

    def __add__(self, other: "Garbage") -> "Garbage":
        """Return both together."""
        return Garbage(
            blobs=self.blobs + other.blobs, blob_bytes=self.blob_bytes + other.blob_bytes,
            trashed=self.trashed + other.trashed,
            trashed_bytes=self.trashed_bytes + other.trashed_bytes,
            held=self.held + other.held, held_bytes=self.held_bytes + other.held_bytes,
            doubt=self.doubt or other.doubt,
        )  # fmt: skip


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
    live_bytes: int = 0
    """Bytes of the log that the index leads to."""
    garbage_bytes: int = 0
    """Dead bytes that only compaction gives back."""
    segments: int = 0
    compaction: str = ""
    """What a compaction is at: copy, rename, move, retire or unlink; empty while there is none."""
    unapplied_bytes: int = 0
    """How far the index is behind the log: what a restart would read."""
    reader_lag: int = 0
    """Commits of the index that the oldest reader is behind; one that is held costs space."""
    damaged: int = 0
    """Damaged places that reads and scrubbing met since the start."""
    scrub: "ScrubView | None" = None
    """How far the monthly reading of everything is; None before the first."""
    clock: str = ""
    """Why nothing is removed for its age; empty when it is."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScrubView:
    """How far the monthly reading of a shard is."""

    phase: str
    """`idle`, `segments` or `index`."""
    started_unix_s: int
    ended_unix_s: int
    """When the last one that went to its end did; 0 before that."""
    read_bytes: int
    part: float
    """Of this one, what is done: 0 to 1."""
    damaged: int
    """Damaged places that it has met."""


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
class DhtView:
    """How the node stands among the others, over all its workers."""

    is_joined: bool
    """Whether it knows a node that it has verified."""
    reachable: bool | None
    """Whether others reach it unasked; None while that is being found out."""
    contacts: int
    """Verified contacts of its routing table."""
    network_nodes: int | None
    """Estimated nodes of the network; None while nothing was looked up."""
    records: int
    """Records of others that it holds."""
    provider_records: int
    """Provider records of others that it holds."""
    own_records: int
    """Records of its own that it keeps alive."""
    provided: int
    """Blobs that it tells the network it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldingView:
    """What the node keeps for others."""

    offered_bytes: int
    """Space for shares that others bring."""
    held_bytes: int
    """What they have of it."""
    shares: int
    """Shares that are kept, small blobs among them."""


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
    dht: DhtView | None = None
    """None while the node takes no part in a network."""
    holding: HoldingView | None = None
    """The same."""


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


# ---------------------------------------------------------------------------- the DHT


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordPut:
    """What became of a record that was published."""

    address: str
    """`<peer key>` or `<peer key>/<name>`."""
    seq: int
    expires_unix_s: int
    acks: int
    """Nodes that hold it now."""
    created: bool
    """False when an earlier record of this address was replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordView:
    """A record that was found, its signature checked."""

    address: str
    """`<peer key>` or `<peer key>/<name>`."""
    value: bytes
    seq: int
    expires_unix_s: int


class ProviderKind(StrEnum):
    """What a node says it has of a blob."""

    SHARE = "share"
    WHOLE = "whole"
    CACHE = "cache"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderView:
    """A node that says it has the blob or shares of it; only its signature was checked."""

    peer: str
    kind: ProviderKind
    shares: tuple[int, ...]
    """Share indices it holds; empty unless `kind` is a share."""
    addresses: tuple[str, ...]
    """`molia://` addresses that it gives as hints."""
    expires_unix_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Announced:
    """What became of an announcement."""

    cid: Cid
    locations: int
    """Places in the key space where it is announced: the CID's, and its content hash's."""
    acks: int
    """Nodes that took a provider record, over all locations."""
    walks: int
    """Walks through the network that it took."""


class PeerState(StrEnum):
    """What the node knows of another one."""

    VERIFIED = "verified"
    """In the routing table: it answered from this address."""
    DOUBTED = "doubted"
    """In the routing table, and the last question got no answer."""
    SESSION = "session"
    """Has a session, and no place in the table: a client, or not needed there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerView:
    """A node that this one knows."""

    peer: str
    address: str
    """`molia://` address."""
    state: PeerState
    rtt_ms: float | None
    """Smoothed round trip; None while none was measured."""
    age_s: float
    """Since when it is known."""
    has_session: bool
    bucket: int | None
    """Bucket of the routing table, 0 the far half of the space; None outside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PingView:
    """A node's answer to a ping."""

    peer: str
    address: str
    """`molia://` address that answered."""
    rtt_ms: float
    seen_address: str
    """`host:port` from which it saw this node's packet come."""
    clock_offset_s: float
    """Its clock less ours."""
    serves: bool
    """Whether it says that others reach it and it answers for the network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LookupEvent:
    """One step of a lookup, in order."""

    kind: str
    """`start`, `ask`, `answer`, `silence` and the like while it runs; the last is `done`."""
    data: dict[str, object] = field(default_factory=dict)
    """JSON values; of `done` the result: `closest`, `rpcs`, `took_ms`, and what was found."""
