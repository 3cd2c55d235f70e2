"""What the node counts, in a registry of its own; any worker shows the sums over all.

Names are `molia_<area>_<what>_<unit>`; no label ever holds a blob's or a peer's name.
"""

import operator
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import chain
from typing import Any, Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric, Sample
from prometheus_client.process_collector import ProcessCollector

from molia.base.views import ShardView

_Series = tuple[str, tuple[tuple[str, str], ...]]
_LOWEST: Final = ("_created", "_start_time_seconds", "_max_fds")
"""Endings of samples that are no amounts."""
_LATENCY_S = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)


class Metrics:
    """All metrics of one node."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self.puts = Counter(
            "molia_puts", "Puts that ended, by how", ["outcome"], registry=self.registry
        )
        self.put_bytes = Counter("molia_put_bytes", "Blob bytes stored", registry=self.registry)
        self.put_seconds = Histogram(
            "molia_put_seconds", "Time of a put", buckets=_LATENCY_S, registry=self.registry
        )
        self.read_bytes = Counter(
            "molia_read_bytes", "Blob bytes given out", registry=self.registry
        )
        self.reads_failed = Counter(
            "molia_reads_failed", "Reads that ended in an error", ["code"], registry=self.registry
        )
        self.stripes_decoded = Counter(
            "molia_stripes_decoded", "Stripes read with shares missing or corrupt",
            registry=self.registry,
        )  # fmt: skip
        self.blocks_damaged = Counter(
            "molia_blocks_damaged", "Missing or corrupt blocks found", registry=self.registry
        )
        self.blobs_scrubbed = Counter(
            "molia_blobs_scrubbed", "Blobs that the monthly reading compared with their CIDs",
            registry=self.registry,
        )  # fmt: skip
        self.blocks_healed = Counter(
            "molia_blocks_healed", "Blocks rebuilt and stored again", registry=self.registry
        )
        self.damage_dropped = Counter(
            "molia_damage_dropped",
            "Damage reports dropped because too many waited; verify finds them again",
            registry=self.registry,
        )
        self.leases_ended = Counter(
            "molia_leases_ended", "Blobs removed because nobody wanted them", registry=self.registry
        )
        self.cache_evicted = Counter(
            "molia_cache_evicted", "Cached blobs that made room", registry=self.registry
        )
        self.objects_swept = Counter(
            "molia_objects_swept", "Unfinished objects removed", registry=self.registry
        )
        self.jobs_ended = Counter(
            "molia_jobs_ended", "Jobs that ended, by how", ["state"], registry=self.registry
        )
        self.served, self.served_bytes = _serving_metrics(self.registry)
        self.audits, self.repairs = _keeping_metrics(self.registry)
        self.shares_out = _placing_metrics(self.registry)
        self.fetches, self.fetched_bytes = _fetching_metrics(self.registry)
        self.dht_operations, self.dht_seconds = _dht_metrics(self.registry)
        self.blob_count = 0
        """Blobs whose rows lie on the shards of this process."""
        self.gauge("molia_blobs", "Blobs kept", lambda: self.blob_count)
        self._restarts = _restarts_metric(self.registry)

    def note_worker(self, index: int, *, restarts: int) -> None:
        """Say which worker this is."""
        self._restarts.labels(str(index)).set(restarts)

    def watch(self, read_shards: Callable[[], Iterable[ShardView]]) -> None:
        """Show the shards and the buffers, read anew at each scrape."""
        self.registry.register(_ShardCollector(read_shards))

    def watch_wire(self, read: Callable[[], "WireCounts"]) -> None:
        """Show what the network moved, answered and dropped, read anew at each scrape."""
        self.registry.register(_WireCollector(read))

    def watch_dht(self, read: Callable[[], "DhtCounts"]) -> None:
        """Show how this worker stands in the DHT, read anew at each scrape."""
        self.registry.register(_DhtCollector(read))

    def watch_holding(self, read: Callable[[], "HoldingCounts"]) -> None:
        """Show what is kept for others, read anew at each scrape."""
        self.registry.register(_HoldingCollector(read))

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Show a value that is read at each scrape."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def export(self) -> list[Any]:
        """Return everything as CBOR values, for another worker to sum."""
        return [
            [family.name, family.documentation, family.type, [_plain(s) for s in family.samples]]
            for family in self.registry.collect()
        ]

    def render(self, others: Iterable[list[Any]] = ()) -> bytes:
        """Return everything, and what other workers exported, in Prometheus' text format."""
        return generate_latest(_Sums([self.export(), *others]))


def _restarts_metric(registry: CollectorRegistry) -> Gauge:
    """Return what tells how often each worker was started anew."""
    return Gauge(
        "molia_worker_restarts",
        "How often a worker was started anew since the node started",
        ["worker"],
        registry=registry,
    )


def _placing_metrics(registry: CollectorRegistry) -> Counter:
    """Return what counts shares on their way to other nodes."""
    return Counter(
        "molia_shares_sent",
        "Shares that were sent to other nodes, by what became of them",
        ["outcome"],
        registry=registry,
    )


def _keeping_metrics(registry: CollectorRegistry) -> tuple[Counter, Counter]:
    """Return what counts audits of other holders, and repairs."""
    audits = Counter(
        "molia_audits", "Audits of other holders, by what came of them", ["answer"],
        registry=registry,
    )  # fmt: skip
    repairs = Counter(
        "molia_repairs", "What repairs did, by what it was; shares one by one", ["event"],
        registry=registry,
    )  # fmt: skip
    return audits, repairs


def _serving_metrics(registry: CollectorRegistry) -> tuple[Counter, Counter]:
    """Return what counts answers to other nodes about blobs, and their bytes."""
    served = Counter(
        "molia_blob_requests",
        "What other nodes asked of this one's blobs, by what became of it; blocks one by one",
        ["event"],
        registry=registry,
    )
    size = Counter("molia_blob_served_bytes", "Blob bytes given to other nodes", registry=registry)
    return served, size


def _fetching_metrics(registry: CollectorRegistry) -> tuple[Counter, Counter]:
    """Return what counts reads through the network, and their bytes."""
    events = Counter(
        "molia_fetch_events",
        "Reads through the network: parts asked for, late ones, decodes, answers that were lies",
        ["event"],
        registry=registry,
    )
    size = Counter("molia_fetch_bytes", "Blob bytes that other nodes gave", registry=registry)
    return events, size


def _dht_metrics(registry: CollectorRegistry) -> tuple[Counter, Histogram]:
    """Return what counts and times the operations of the DHT."""
    operations = Counter(
        "molia_dht_operations",
        "What this node asked of the DHT, by what it was and how it ended",
        ["operation", "outcome"],
        registry=registry,
    )
    seconds = Histogram(
        "molia_dht_operation_seconds",
        "Time of what this node asked of the DHT",
        ["operation"],
        buckets=_LATENCY_S,
        registry=registry,
    )
    return operations, seconds


class _Sums(CollectorRegistry):
    """What several workers exported, as one.

    Counters, histograms and gauges are summed; of times and limits the lowest one counts.
    """

    def __init__(self, exports: list[list[Any]]) -> None:
        super().__init__()
        self._exports = exports

    def collect(self) -> Iterator[Metric]:
        """Yield the families, in the order of the first worker that has them."""
        families: dict[str, tuple[Metric, dict[_Series, float]]] = {}
        for name, text, kind, samples in chain.from_iterable(self._exports):
            _, sums = families.setdefault(name, (Metric(name, text, kind), {}))
            for sample, labels, value in samples:
                series = (sample, tuple((key, label) for key, label in labels))
                merge = min if sample.endswith(_LOWEST) else operator.add
                sums[series] = merge(sums[series], value) if series in sums else value
        for family, sums in families.values():
            for (sample, labels), value in sums.items():
                family.add_sample(sample, dict(labels), value)
            yield family


def _plain(sample: Sample) -> list[Any]:
    return [sample.name, sorted(sample.labels.items()), sample.value]


@dataclass(slots=True, kw_only=True)
class WireCounts:
    """What one worker's side of the network counted."""

    packets: dict[str, int] = field(default_factory=dict)
    """By direction: in, out."""
    bytes: dict[str, int] = field(default_factory=dict)
    handshakes: dict[str, int] = field(default_factory=dict)
    """By who began: in, out."""
    requests: dict[str, int] = field(default_factory=dict)
    """By what became of them."""
    dropped: dict[str, int] = field(default_factory=dict)
    """Packets and what else was refused, by reason."""
    sessions: int = 0


class _WireCollector:
    """Turns the network's counts into metric families."""

    def __init__(self, read: Callable[[], WireCounts]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        counts = self._read()
        for name, text, label, values in (
            ("molia_wire_packets", "UDP packets", "direction", counts.packets),
            ("molia_wire_bytes", "UDP payload bytes", "direction", counts.bytes),
            ("molia_wire_handshakes", "Sessions begun", "direction", counts.handshakes),
            ("molia_wire_requests", "Requests between peers", "outcome", counts.requests),
            ("molia_wire_dropped", "Dropped or refused, by reason", "reason", counts.dropped),
        ):
            family = CounterMetricFamily(name, text, labels=[label])
            for key, value in values.items():
                family.add_metric([key], value)
            yield family
        yield GaugeMetricFamily("molia_wire_sessions", "Peers with a session", counts.sessions)


@dataclass(slots=True, kw_only=True)
class DhtCounts:
    """How one worker stands in the DHT, and what it counted."""

    worker: int = 0
    contacts: int = 0
    network_nodes: int = 0
    held: dict[str, int] = field(default_factory=dict)
    """Rows kept for others: records, providers."""
    own_records: int = 0
    announced: int = 0
    events: dict[str, int] = field(default_factory=dict)
    """By the names of `dht.counters.DhtCounters` and of the shell's own."""


@dataclass(slots=True, kw_only=True)
class HoldingCounts:
    """What is kept for other nodes, and what one worker was asked."""

    shares: int = 0
    """Over all workers: 0 but of the first."""
    held_bytes: int = 0
    offered_bytes: int = 0
    events: dict[str, int] = field(default_factory=dict)
    """By what was asked and what became of it."""


class _HoldingCollector:
    """Turns what is kept for others into metric families."""

    def __init__(self, read: Callable[[], HoldingCounts]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        counts = self._read()
        events = CounterMetricFamily(
            "molia_holding_events",
            "What others asked this node to keep, by what became of it, bad input included",
            labels=["event"],
        )
        for event, value in counts.events.items():
            events.add_metric([event], value)
        yield events
        for name, text, value in (
            ("molia_held_shares", "Shares kept for other nodes", counts.shares),
            ("molia_held_bytes", "What they count against the offer", counts.held_bytes),
            ("molia_offered_bytes", "Space offered to other nodes", counts.offered_bytes),
        ):
            yield GaugeMetricFamily(name, text, value)


class _DhtCollector:
    """Turns the counts of the DHT into metric families."""

    def __init__(self, read: Callable[[], DhtCounts]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        counts = self._read()
        events = CounterMetricFamily(
            "molia_dht_events", "What happened in the DHT, bad input included", labels=["event"]
        )
        for event, value in counts.events.items():
            events.add_metric([event], value)
        held = GaugeMetricFamily(
            "molia_dht_held_rows", "Locations with records kept for others", labels=["kind"]
        )
        for kind, value in counts.held.items():
            held.add_metric([kind], value)
        yield from (events, held)
        for name, text, value in (
            ("molia_dht_contacts", "Verified contacts in a worker's table", counts.contacts),
            ("molia_dht_network_nodes", "Estimated nodes of the network", counts.network_nodes),
        ):  # a sum over workers would say nothing
            family = GaugeMetricFamily(name, text, labels=["worker"])
            family.add_metric([str(counts.worker)], value)
            yield family
        yield GaugeMetricFamily(
            "molia_dht_own_records", "Records of this node that are kept alive", counts.own_records
        )
        yield GaugeMetricFamily(
            "molia_dht_announced_blobs", "Blobs that are announced", counts.announced
        )


class _ShardCollector:
    """Turns shard views into metric families."""

    def __init__(self, read_shards: Callable[[], Iterable[ShardView]]) -> None:
        self._read_shards = read_shards

    def collect(self) -> Iterable[Metric]:
        shards = list(self._read_shards())
        for name, text, read in _SHARD_GAUGES:
            family = GaugeMetricFamily(name, text, labels=["shard"])
            for shard in shards:
                family.add_metric([str(shard.index)], read(shard))
            yield family


_SHARD_GAUGES: Final[tuple[tuple[str, str, Callable[[ShardView], float]], ...]] = (
    ("molia_shard_keys", "Keys in a shard", lambda shard: shard.keys),
    ("molia_shard_log_bytes", "Disk bytes of a log", lambda shard: shard.log_bytes),
    ("molia_shard_disk_bytes", "Disk bytes of a shard", lambda shard: shard.disk_bytes),
    ("molia_shard_live_bytes", "Bytes of a log that are alive", lambda shard: shard.live_bytes),
    (
        "molia_shard_punchable_bytes", "Dead bytes not yet given back",
        lambda shard: shard.punchable_bytes,
    ),
    (
        "molia_shard_garbage_bytes", "Dead bytes that only compaction gives back",
        lambda shard: shard.garbage_bytes,
    ),
    ("molia_shard_segments", "Segments of a log", lambda shard: shard.segments),
    (
        "molia_shard_compacting", "1 while a compaction is under way",
        lambda shard: int(bool(shard.compaction)),
    ),
    (
        "molia_shard_unapplied_bytes", "How far an index is behind its log",
        lambda shard: shard.unapplied_bytes,
    ),
    (
        "molia_shard_reader_lag", "Commits that an index's oldest reader is behind",
        lambda shard: shard.reader_lag,
    ),
    (
        "molia_shard_damaged", "Damaged places met since the start",
        lambda shard: shard.damaged,
    ),
    (
        "molia_shard_scrub_part", "What is done of the monthly reading, 0 to 1",
        lambda shard: shard.scrub.part if shard.scrub else 0.0,
    ),
    (
        "molia_shard_scrub_ended_timestamp", "When the last monthly reading ended, 0 for never",
        lambda shard: shard.scrub.ended_unix_s if shard.scrub else 0,
    ),
    (
        "molia_shard_clock_doubted", "1 while nothing is removed for its age",
        lambda shard: int(bool(shard.clock)),
    ),
    (
        "molia_shard_writable", "1 while a shard takes writes",
        lambda shard: 0 if shard.state == "read-only" else 1,
    ),
)  # fmt: skip
