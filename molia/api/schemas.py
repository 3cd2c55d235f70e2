"""The JSON that the API speaks: one model per object, made from the views of `base/views.py`."""

from base64 import b64encode
from dataclasses import asdict
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from molia.base import limits
from molia.base.views import (
    Announced,
    BlobHealth,
    BlobInfo,
    BlobPage,
    BlobState,
    JobState,
    JobView,
    ManifestView,
    NodeView,
    PeerState,
    PeerView,
    PingView,
    ProviderKind,
    ProviderView,
    PutResult,
    Readiness,
    RecordPut,
    RecordView,
    ShardView,
    TrashedBlob,
)

CID_PATTERN = r"^baf[ky]r4i[a-h][a-z2-7]{50}[aeimquy4]$"
"""Exactly the CIDs that can name a blob here: BLAKE3-256, raw or dag-cbor, base32 lower."""
REF_PATTERN = r"^(?:baf[ky]r4i[a-h][a-z2-7]{50}[aeimquy4]|[0-9a-fA-F]{64})$"
"""A CID, or the hex BLAKE3 of a blob's bytes."""

CidText = Annotated[str, Field(pattern=CID_PATTERN, examples=["bafkr4i" + "a" * 52])]
HexDigest = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
Count = Annotated[int, Field(ge=0)]


class Model(BaseModel):
    """What all objects share: unknown members are refused, values never change."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Problem(Model):
    """What went wrong, as RFC 9457 describes it."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    hint: str


class Put(Model):
    """What became of a put."""

    cid: CidText
    size: Count
    content: HexDigest
    k: Count
    n: Count
    holders: Count
    survives: Count
    state: BlobState

    @classmethod
    def of(cls, result: PutResult) -> "Put":
        """Return the object for a result."""
        return cls(
            cid=str(result.cid),
            size=result.size,
            content=result.content.hex(),
            k=result.k,
            n=result.n,
            holders=result.holders,
            survives=result.survives,
            state=result.state,
        )


class Blob(Model):
    """A line of the local index."""

    cid: CidText
    size: Count
    content: HexDigest
    name: str
    created_unix_ms: int
    pinned: bool
    expires_unix_s: int | None
    k: Count
    n: Count

    @classmethod
    def of(cls, info: BlobInfo) -> "Blob":
        """Return the object for an index line."""
        return cls(
            cid=str(info.cid),
            size=info.size,
            content=info.content.hex(),
            name=info.name,
            created_unix_ms=info.created_unix_ms,
            pinned=info.pinned,
            expires_unix_s=info.expires_unix_s,
            k=info.k,
            n=info.n,
        )


class Trashed(Model):
    """A removed blob that can be brought back."""

    cid: CidText
    size: Count
    name: str
    pinned: bool
    until_unix_s: Count

    @classmethod
    def of(cls, view: TrashedBlob) -> "Trashed":
        """Return the object for a removed blob."""
        return cls.model_validate({**asdict(view), "cid": str(view.cid)})


class Trash(Model):
    """Removed blobs that can be brought back, those that stay longest first."""

    blobs: list[Trashed]


class Blobs(Model):
    """A page of the local index, newest first."""

    blobs: list[Blob]
    next: str | None
    """Cursor of the next page."""

    @classmethod
    def of(cls, page: BlobPage) -> "Blobs":
        """Return the object for a page."""
        return cls(blobs=[Blob.of(info) for info in page.blobs], next=page.next_cursor)


class Share(Model):
    """One share of a blob."""

    index: Count
    holders: list[str]
    sound: bool
    damaged_blocks: Count
    last_verified_unix_s: int | None


class Health(Model):
    """What a blob would survive."""

    cid: CidText
    state: BlobState
    survives: Count
    spare_shares: Count
    estimate_loss_per_year: float | None
    shares: list[Share]

    @classmethod
    def of(cls, health: BlobHealth) -> "Health":
        """Return the object for a blob's health."""
        return cls(
            cid=str(health.cid),
            state=health.state,
            survives=health.survives,
            spare_shares=health.spare_shares,
            estimate_loss_per_year=health.estimate_loss_per_year,
            shares=[
                Share(
                    index=share.index,
                    holders=list(share.holders),
                    sound=share.sound,
                    damaged_blocks=share.damaged_blocks,
                    last_verified_unix_s=share.last_verified_unix_s,
                )
                for share in health.shares
            ],
        )


class Manifest(Model):
    """A blob's manifest, read out."""

    cid: CidText
    size: Count
    block_size: Count
    k: Count
    n: Count
    content: HexDigest
    roots: list[HexDigest]

    @classmethod
    def of(cls, view: ManifestView) -> "Manifest":
        """Return the object for a manifest."""
        return cls(
            cid=str(view.cid),
            size=view.size,
            block_size=view.block_size,
            k=view.k,
            n=view.n,
            content=view.content.hex(),
            roots=[root.hex() for root in view.roots],
        )


class Scrub(Model):
    """How far the monthly reading of a shard is."""

    phase: Literal["idle", "segments", "index"]
    started_unix_s: Count
    ended_unix_s: Count
    """When the last one that went to its end did; 0 before that."""
    read_bytes: Count
    part: Annotated[float, Field(ge=0, le=1)]
    """Of this one, what is done."""
    damaged: Count


class Shard(Model):
    """One shard of the store."""

    index: Count
    state: str
    reason: str
    keys: Count
    log_bytes: Count
    disk_bytes: Count
    """All that it takes on the disk: log, index, delta, ballast."""
    live_bytes: Count
    punchable_bytes: Count
    garbage_bytes: Count
    """Dead bytes that only compaction gives back."""
    segments: Count
    compaction: str
    """What a compaction is at; empty while there is none."""
    unapplied_bytes: Count
    """How far the index is behind the log."""
    reader_lag: Count
    """Commits of the index that the oldest reader is behind."""
    damaged: Count
    """Damaged places that reads and scrubbing met since the start."""
    scrub: Scrub | None
    clock: str
    """Why nothing is removed for its age; empty when it is."""
    last_recovery: str

    @classmethod
    def of(cls, view: ShardView) -> "Shard":
        """Return the object for a shard."""
        return cls.model_validate(asdict(view))


class Worker(Model):
    """One process of the node."""

    index: Count
    state: str
    pid: Count
    uptime_s: float
    restarts: Count


class Dht(Model):
    """How the node stands among the others."""

    is_joined: bool
    reachable: bool | None
    """Null while that is being found out."""
    contacts: Count
    network_nodes: Count | None
    """An estimate; null while nothing was looked up."""
    records: Count
    provider_records: Count
    own_records: Count
    provided: Count


class Holding(Model):
    """What the node keeps for others."""

    offered_bytes: Count
    held_bytes: Count
    shares: Count
    """Small blobs count as one."""


class Node(Model):
    """Who the node is and how it is doing."""

    peer: str
    version: str
    network: str
    network_id: str
    started_unix_s: int
    uptime_s: float
    workers: Count
    api: list[str]
    home: str
    blobs: Count
    stored_bytes: Count
    quota_bytes: Count
    disk_free_bytes: Count
    shards: list[Shard]
    processes: list[Worker]
    addresses: list[str]
    sessions: Count
    proof_epoch: int | None
    dht: Dht | None
    holding: Holding | None

    @classmethod
    def of(cls, view: NodeView) -> "Node":
        """Return the object for a node."""
        return cls(
            addresses=list(view.addresses),
            sessions=view.sessions,
            proof_epoch=view.proof_epoch,
            dht=None if view.dht is None else Dht(**asdict(view.dht)),
            holding=None if view.holding is None else Holding(**asdict(view.holding)),
            peer=view.peer,
            version=view.version,
            network=view.network,
            network_id=view.network_id,
            started_unix_s=view.started_unix_s,
            uptime_s=view.uptime_s,
            workers=view.workers,
            api=list(view.api),
            home=view.home,
            blobs=view.blobs,
            stored_bytes=view.stored_bytes,
            quota_bytes=view.quota_bytes,
            disk_free_bytes=view.disk_free_bytes,
            shards=[Shard.of(shard) for shard in view.shards],
            processes=[
                Worker(
                    index=worker.index,
                    state=worker.state,
                    pid=worker.pid,
                    uptime_s=worker.uptime_s,
                    restarts=worker.restarts,
                )
                for worker in view.processes
            ],
        )


class JobRequest(Model):
    """A job to start. `verify` without cids reads and checks everything."""

    kind: Literal["verify"]
    cids: Annotated[list[CidText], Field(max_length=limits.JOB_TARGETS_MAX)] = []


class Job(Model):
    """Long work, and where it stands."""

    id: str
    kind: str
    state: JobState
    created_unix_ms: int
    updated_unix_ms: int
    arguments: dict[str, Any]
    progress: dict[str, Any]
    error: str

    @classmethod
    def of(cls, view: JobView) -> "Job":
        """Return the object for a job."""
        return cls(
            id=view.id,
            kind=view.kind,
            state=view.state,
            created_unix_ms=view.created_unix_ms,
            updated_unix_ms=view.updated_unix_ms,
            arguments=view.arguments,
            progress=view.progress,
            error=view.error,
        )


class Jobs(Model):
    """All jobs, newest first."""

    jobs: list[Job]


class Live(Model):
    """The process answers."""

    status: Literal["ok"] = "ok"


class Ready(Model):
    """Whether the node takes work, and why not."""

    ready: bool
    reasons: list[str]

    @classmethod
    def of(cls, readiness: Readiness) -> "Ready":
        """Return the object for a readiness."""
        return cls(ready=readiness.ready, reasons=list(readiness.reasons))


# ---------------------------------------------------------------------------- the network


class RecordReceipt(Model):
    """What became of a record that was published."""

    address: str
    seq: Count
    expires: Count
    """Unix time in seconds."""
    acks: Count
    """Nodes that hold it now."""

    @classmethod
    def of(cls, put: RecordPut) -> "RecordReceipt":
        """Return the object for a result."""
        return cls(address=put.address, seq=put.seq, expires=put.expires_unix_s, acks=put.acks)


class Record(Model):
    """A record."""

    address: str
    seq: Count
    expires: Count
    """Unix time in seconds."""
    size: Count
    value: str | None
    """The bytes in base64; null in a listing."""

    @classmethod
    def of(cls, view: RecordView, *, with_value: bool = False) -> "Record":
        """Return the object for a record."""
        return cls(
            address=view.address,
            seq=view.seq,
            expires=view.expires_unix_s,
            size=len(view.value),
            value=b64encode(view.value).decode("ascii") if with_value else None,
        )


class Records(Model):
    """The records that the node signed and keeps alive."""

    records: list[Record]


class Provider(Model):
    """A node that says it has a blob."""

    peer: str
    kind: ProviderKind
    shares: list[Count]
    addresses: list[str]
    expires: Count

    @classmethod
    def of(cls, view: ProviderView) -> "Provider":
        """Return the object for a provider."""
        return cls(
            peer=view.peer,
            kind=view.kind,
            shares=list(view.shares),
            addresses=list(view.addresses),
            expires=view.expires_unix_s,
        )


class Providers(Model):
    """Who says to have a blob."""

    cid: str
    """As it was asked for."""
    providers: list[Provider]


class Announcement(Model):
    """What became of telling the network that the node has a blob."""

    cid: CidText
    locations: Count
    acks: Count
    walks: Count

    @classmethod
    def of(cls, announced: Announced) -> "Announcement":
        """Return the object for a result."""
        return cls(
            cid=str(announced.cid),
            locations=announced.locations,
            acks=announced.acks,
            walks=announced.walks,
        )


class Peer(Model):
    """A node that this one knows."""

    peer: str
    address: str
    state: PeerState
    rtt_ms: float | None
    age_s: float
    has_session: bool
    bucket: Count | None

    @classmethod
    def of(cls, view: PeerView) -> "Peer":
        """Return the object for a peer."""
        return cls(**asdict(view))


class Peers(Model):
    """The nodes that this one knows, those known longest first."""

    peers: list[Peer]


class Pong(Model):
    """A peer's sign of life."""

    peer: str
    address: str
    rtt_ms: float
    seen_address: str
    """From where it saw this node."""
    clock_offset_s: float
    """Its clock less ours."""
    serves: bool

    @classmethod
    def of(cls, view: PingView) -> "Pong":
        """Return the object for an answer."""
        return cls(**asdict(view))


class LookupResult(BaseModel):
    """What a lookup found: the nodes closest to the key, how it went, and what was there."""

    model_config = ConfigDict(extra="allow", frozen=True)

    key: str
    closest: list[dict[str, Any]]
    rpcs: Count
    took_ms: float
    why: str
    """Why it ended."""
