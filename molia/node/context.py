"""What every part of a running node is given, in one frozen value."""

from collections.abc import Callable
from dataclasses import dataclass, field

from molia.base.cid import Cid
from molia.base.config import Config
from molia.base.entropy import Entropy
from molia.base.ids import PeerKey
from molia.base.now import Now
from molia.node.budget import Budget
from molia.node.catalog import Bound, Catalog
from molia.node.leaves import LeafCache
from molia.node.metrics import Metrics
from molia.node.objects import Objects
from molia.node.offload import Offload
from molia.node.shards import AnyWriter, ShardSet
from molia.node.system import SystemClock
from molia.node.team import Team
from molia.store.keys import home_shard


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """The parts of one node."""

    config: Config
    peer: PeerKey
    network: bytes
    """The network's id."""
    quota_bytes: int
    clock: SystemClock
    entropy: Entropy
    shards: ShardSet
    catalog: Catalog
    objects: Objects
    offload: Offload
    budget: Budget
    metrics: Metrics
    leaves: LeafCache
    team: Team
    on_blob: list[Callable[[Cid], None]] = field(default_factory=list)
    """Told of a blob that came, went, or is wanted in another way than before."""
    also_here: list[Callable[[Cid, Now], Bound | None]] = field(default_factory=list)
    """Where parts of a blob may lie beside the blobs of our own: kept for others, or cached."""

    def now(self) -> Now:
        """Return this instant."""
        return self.clock.now()

    def home_writer(self, cid: Cid) -> AnyWriter:
        """Return the writer of the shard with a blob's rows."""
        return self.shards.writers[home_shard(cid, self.shards.count)]

    def owns(self, cid: Cid) -> bool:
        """Tell whether this process writes the shard with a blob's rows."""
        return self.team.seat.owns(home_shard(cid, self.shards.count))

    async def mend(self, bound: Bound) -> bool:
        """Write a damaged BIND row again, as changes of its blob are guarded by it; False: it is
        not damaged. Raises NoSpace, ShardUnavailable, Busy.
        """
        if bound.is_second_copy:
            await self.home_writer(bound.cid).write(self.catalog.mend(bound))
        return bound.is_second_copy

    def count_blobs(self, cid: Cid, change: int) -> None:
        """Count a blob that came or went; one of another worker's shard is counted there."""
        if self.owns(cid):
            self.metrics.blob_count += change

    def note_blob(self, cid: Cid) -> None:
        """Say that a blob came, went, or is wanted in another way than before."""
        for told in self.on_blob:
            told(cid)

    @property
    def blob_count(self) -> int:
        """How many blobs the node keeps, over all workers."""
        others = self.team.statuses.values()
        return self.metrics.blob_count + sum(int(status["blobs"]) for status in others)
