"""What a shard is asked and what it answers: plain frozen values.

Those that come in hundreds a batch are named tuples: they are made in a third of the time.
"""

from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple

from molia.base import limits
from molia.store.frame import Buffer
from molia.store.keys import Kind


class Put(NamedTuple):
    """Store a value under a key.

    A BLOCK that is there already is acknowledged as it is, without another frame, unless
    `overwrite`; other kinds are always written. expiry: unix seconds, 0 for never.
    """

    kind: Kind
    key: bytes
    value: Buffer
    expiry: int = 0
    overwrite: bool = False


class Delete(NamedTuple):
    """Forget a key; one that is not there is fine and writes nothing."""

    kind: Kind
    key: bytes


class Guard(NamedTuple):
    """Holds when the live value equals `value`; with None, when the key is absent or expired."""

    kind: Kind
    key: bytes
    value: bytes | None


class Transaction(NamedTuple):
    """Operations that happen all or not at all, also over a power cut."""

    ops: tuple[Put | Delete, ...]
    guard: Guard | None = None


class Reply(Enum):
    """What became of a transaction."""

    APPLIED = "applied"
    REFUSED = "refused"
    """Its guard did not hold; nothing of it was written."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardOptions:
    """Sizes of a shard; tests make them tiny."""

    segment_bytes: int = limits.SEGMENT_SIZE_MAX
    """A segment this long is sealed before the next batch."""
    ballast_bytes: int = limits.BALLAST_MIN
    """Space held back for deletes and checkpoints on a full disk; 0 for none."""
    reserve_bytes: int = 64 * limits.MIB
    """Free space below which blocks and records are refused."""
    map_bytes: int = limits.INDEX_MAP_BYTES
    delta_map_bytes: int = limits.DELTA_MAP_BYTES
    checkpoint_keys: int = limits.CHECKPOINT_KEYS
    checkpoint_log_bytes: int = limits.CHECKPOINT_LOG_BYTES
    slice_keys: int = limits.CHECKPOINT_SLICE_KEYS
    punch_bytes: int = limits.PUNCH_BYTES
    """Dead bytes that are worth a checkpoint of their own."""
    compact: bool = False
    """Rewrite segments that are mostly garbage; somebody must call `Shard.copy_step` then."""
    garbage_share: float = 0.5
    """So much garbage makes a segment worth rewriting."""
    garbage_share_pressed: float = 0.25
    """The same while the quota is nearly used up."""
    open_files: int = limits.SEGMENT_FILES_OPEN_MAX
    sweep_s: float = 0.0
    """Within this time every key is looked at for its expiry; 0: expired keys stay."""
    scrub_s: float = 0.0
    """From one scrubbing of everything to the next; 0: never."""
    shared: bool = False
    """Other processes read the shard: what is acknowledged is shown to them first."""

    def __post_init__(self) -> None:
        assert 4096 < self.segment_bytes <= limits.SEGMENT_SIZE_MAX
        assert 0 < self.garbage_share_pressed <= self.garbage_share < 1
        assert min(self.checkpoint_keys, self.slice_keys, self.punch_bytes, self.open_files) > 0


@dataclass(frozen=True, slots=True)
class Row:
    """A live key, as a scan shows it."""

    key: bytes
    size: int
    expiry: int


@dataclass(frozen=True, slots=True)
class DamagedFrame:
    """Bytes of a segment that are not what they should be; kind 0 and no key when unknown."""

    kind: int
    key: bytes
    offset: int
    reason: str


NamedKey = tuple[Kind, bytes]


@dataclass(frozen=True, slots=True)
class SegmentAudit:
    """What an audit of one segment found."""

    segment_id: int
    frames: int
    bytes: int
    damaged: tuple[DamagedFrame, ...]
    index_wrong: tuple[NamedKey, ...]
    """Keys whose index entry is missing or wrong; `Shard.reindex` mends them."""


@dataclass(frozen=True, slots=True)
class Damage:
    """Damage that recovery met: `segment_id`, and where known the key."""

    segment_id: int
    offset: int
    reason: str
    kind: int = 0
    key: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecoveryReport:
    """What opening a shard found and did."""

    created: bool = False
    """The shard was empty and new."""
    index_rebuilt: bool = False
    rebuild_reason: str = ""
    segments: int = 0
    frames_replayed: int = 0
    bytes_scanned: int = 0
    truncated_bytes: int = 0
    """A torn tail that was cut off; none of it had been acknowledged."""
    removed_files: tuple[str, ...] = ()
    damaged: tuple[Damage, ...] = ()
    """The first of them; `damage_count` counts all."""
    damage_count: int = 0

    def summary(self) -> str:
        """Return one line for people."""
        parts = [f"{self.frames_replayed} frames replayed, {self.bytes_scanned} bytes read"]
        if self.created:
            parts.append("new")
        if self.index_rebuilt:
            parts.append(f"index rebuilt ({self.rebuild_reason})")
        if self.truncated_bytes:
            parts.append(f"torn tail of {self.truncated_bytes} bytes cut off")
        if self.damage_count:
            parts.append(f"{self.damage_count} damaged places")
        return ", ".join(parts)


@dataclass(slots=True)
class Counters:
    """What a shard did since it was opened."""

    batches: int = 0
    frames: int = 0
    bytes: int = 0
    """Bytes written to the log."""
    syncs: int = 0
    checkpoints: int = 0
    index_commits: int = 0
    marks: int = 0
    rolls: int = 0
    punched_values: int = 0
    punched_bytes: int = 0
    compactions: int = 0
    """Finished ones, those that had nothing to copy left out."""
    compacted_bytes: int = 0
    """Bytes that compactions copied."""
    dropped_tombstones: int = 0
    retired_segments: int = 0
    compaction_failures: int = 0
    damaged_reads: int = 0
    reread: int = 0
    """Reads that looked again because the value had moved or gone meanwhile."""
    no_space: int = 0
    expired_keys: int = 0
    """Keys that the hand took out of the index."""
    expired_bytes: int = 0
    readers_cleared: int = 0
    """Snapshots of other processes that died while they read."""
    scrubs: int = 0
    """Passes of the scrubber that ended."""
    scrubbed_bytes: int = 0
    scrub_findings: int = 0
    expiry_waits: int = 0
    """Turns of the hand in which the clock was in doubt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardStats:
    """How a shard is doing."""

    keys: int
    """About how many keys; those not yet in the index may be counted twice."""
    log_bytes: int
    """Disk bytes of the segments, punched holes taken off."""
    disk_bytes: int
    """All that the shard takes on the disk: segments, copies under way, index, delta, ballast."""
    live_bytes: int
    """Bytes of frames that the index points at."""
    punchable_bytes: int
    """Bytes of dead values that wait for being given back."""
    garbage_bytes: int
    """Bytes of dead frames that only compaction gives back."""
    segments: int
    compaction: str
    """What a compaction is at: copy, rename, move, retire or unlink; empty while there is none."""
    unapplied_bytes: int
    """Bytes of log that a restart would have to replay."""
    reader_lag: int
    """Commits of the index that the oldest snapshot is behind: one that is held costs space."""
    failure: str
    """Why the shard takes no writes any more; empty while it does."""
    full: bool
    """The last write did not fit, or the ballast is in use."""
    counters: Counters = field(default_factory=Counters)
