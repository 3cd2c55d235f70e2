"""What the node counts, in a registry of its own.

Names are `molia_<area>_<what>_<unit>`; no label ever holds a blob's or a peer's name.
"""

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.process_collector import ProcessCollector

from molia.base.views import ShardView

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
            "molia_stripes_decoded",
            "Stripes read with shares missing or corrupt",
            registry=self.registry,
        )
        self.blocks_damaged = Counter(
            "molia_blocks_damaged", "Missing or corrupt blocks found", registry=self.registry
        )
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
        self.objects_swept = Counter(
            "molia_objects_swept", "Unfinished objects removed", registry=self.registry
        )
        self.jobs_ended = Counter(
            "molia_jobs_ended", "Jobs that ended, by how", ["state"], registry=self.registry
        )
        self.blob_count = 0
        self.gauge("molia_blobs", "Blobs kept", lambda: self.blob_count)

    def watch(self, read_shards: Callable[[], Iterable[ShardView]]) -> None:
        """Show the shards and the buffers, read anew at each scrape."""
        self.registry.register(_ShardCollector(read_shards))

    def gauge(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Show a value that is read at each scrape."""
        Gauge(name, text, registry=self.registry).set_function(read)

    def render(self) -> bytes:
        """Return everything in Prometheus' text format."""
        return generate_latest(self.registry)


class _ShardCollector:
    """Turns shard views into metric families."""

    def __init__(self, read_shards: Callable[[], Iterable[ShardView]]) -> None:
        self._read_shards = read_shards

    def collect(self) -> Iterable[Metric]:
        keys = GaugeMetricFamily("molia_shard_keys", "Keys in a shard", labels=["shard"])
        log = GaugeMetricFamily("molia_shard_log_bytes", "Disk bytes of a log", labels=["shard"])
        punchable = GaugeMetricFamily(
            "molia_shard_punchable_bytes", "Dead bytes not yet given back", labels=["shard"]
        )
        writable = GaugeMetricFamily(
            "molia_shard_writable", "1 while a shard takes writes", labels=["shard"]
        )
        for shard in self._read_shards():
            label = [str(shard.index)]
            keys.add_metric(label, shard.keys)
            log.add_metric(label, shard.log_bytes)
            punchable.add_metric(label, shard.punchable_bytes)
            writable.add_metric(label, 0 if shard.state == "read-only" else 1)
        yield from (keys, log, punchable, writable)
