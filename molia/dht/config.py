"""What of the DHT can be set, and which of its defences can be taken away for comparison."""

from dataclasses import dataclass, field

from molia.base.config import require
from molia.dht.lookup import Lookup
from molia.dht.outcome import LookupConfig
from molia.dht.table import TableConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class DhtConfig:
    """The engine's own settings. An operator's are `base.config`'s; the shell copies them here."""

    table: TableConfig = field(default_factory=TableConfig)
    """The routing table."""
    lookup: LookupConfig = field(default_factory=LookupConfig)
    """Lookups and the region walk."""
    lookup_class: type[Lookup] = Lookup
    """What looks things up. Another one only in comparisons."""
    unproved_per_group: int = 8
    """Hosts of one network that never answered and may be tried in a minute. More joins crowded
    networks faster, and lets a liar have us knock at more doors of one network."""
    refresh_s: float = 60.0
    """Between lookups of random targets, which fill far buckets and tell the network's size. Less
    costs some 10 kB each and follows churn sooner."""
    refresh_early_s: float = 10.0
    """The same until there are `refresh_early_count` estimates of the size."""
    refresh_early_count: int = 6
    """Estimates after which refreshing slows down."""
    graveyard_s: float = 5.0
    """Between probes of contacts that were given up. Less heals partitions sooner."""
    rejoin_s: float = 2.0
    """First wait of a node that knows nobody; it doubles up to `rejoin_max_s`."""
    rejoin_max_s: float = 60.0
    """Longest wait of a node that knows nobody."""
    snapshot_s: float = 180.0
    """Between snapshots of the table. Less loses less by a crash and writes more."""
    reach_s: float = 60.0
    """Between two attempts of a client to prove that it can be reached."""
    reach_again_s: float = 1_800.0
    """After how long a reachable node proves it anew."""
    reach_groups: int = 3
    """Distinct networks that must agree. Fewer lets fewer liars decide."""
    rows_max: int = 1_000_000
    """Records and provider records kept for others. More takes about 1.2 kB each."""
    may_serve: bool = True
    """Whether the node serves when it finds that others reach it; else it stays a client."""
    has_duties: bool = True
    """Whether this node keeps what it stores on the right neighbours. Off only in comparisons."""
    checks_table: bool = True
    """Whether table entries are checked. Off only in comparisons."""
    stores_nearest: int = 0
    """Store at this many nearest instead of in the whole region; 0: the region. Only in
    comparisons: who sits nearest to a key then holds everything."""

    def __post_init__(self) -> None:
        require(1 <= self.unproved_per_group <= 64, "dht.unproved_per_group", "1 to 64")
        require(self.refresh_s >= 1, "dht.refresh_s", "1 s or more")
        require(self.graveyard_s >= 1, "dht.graveyard_s", "1 s or more")
        require(self.rejoin_s > 0, "dht.rejoin_s", "above 0")
        require(1 <= self.reach_groups <= 8, "dht.reach_groups", "1 to 8")
