"""What scenarios share: options, a network that has settled, and the facts of its report."""

from dataclasses import dataclass, replace
from typing import Final

from molia.dht.config import DhtConfig
from molia.dht.table import TableConfig
from molia.sim.churn import Churn, ChurnConfig
from molia.sim.delays import PathConfig
from molia.sim.fleet import Fleet, FleetConfig
from molia.sim.net import Net
from molia.sim.plain_lookup import PlainLookup
from molia.sim.report import Bar, Report, at_least, at_most
from molia.sim.tally import wilson
from molia.sim.wire_host import transport_type
from molia.sim.workload import DEADLINE_S, LoadConfig, Workload
from molia.sim.world import World
from molia.wire.transport import Transport

SETTLE_S: Final = 30.0
FILL_S: Final = 30.0
"""Records are put in this time, after the network has settled."""
_NO_QUOTA: Final = 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a run is told."""

    scenario: str
    nodes: int = 300
    seed: int = 1
    minutes: float = 5.0
    wire: str = "auto"
    defence: str = "all"
    """A name of `DEFENCES` to take away, or "all" to keep them all."""
    rtt_ms: float = 76.0
    law: str = "exponential"
    """Of sessions, where nodes come and go."""
    variant: str = ""
    """Of scenarios with several; "" for all or the first."""

    @property
    def command(self) -> str:
        """Return what replays this run, and nothing else."""
        words = [
            "python -m molia.sim", self.scenario, f"--nodes {self.nodes}", f"--seed {self.seed}",
            f"--minutes {self.minutes:g}",
        ]  # fmt: skip
        plain = Options(scenario=self.scenario)
        for name in ("wire", "defence", "rtt_ms", "law", "variant"):
            value = getattr(self, name)
            if value != getattr(plain, name):
                words.append(f"--{name.replace('_', '-')} {value:g}" if name == "rtt_ms"
                             else f"--{name} {value}")  # fmt: skip
        return " ".join(words)


_OPEN_TABLE: Final = TableConfig(group_per_bucket=_NO_QUOTA, group_per_table=_NO_QUOTA)
DEFENCES: Final[dict[str, tuple[DhtConfig, bool]]] = {
    "all": (DhtConfig(), True),
    "no bound ids": (DhtConfig(), False),
    "no diversity": (DhtConfig(table=_OPEN_TABLE), True),
    "no region": (DhtConfig(lookup_class=PlainLookup, stores_nearest=20), True),
    "no repair": (DhtConfig(has_duties=False), True),
    "no checks": (DhtConfig(checks_table=False), True),
    "vanilla": (
        DhtConfig(
            table=_OPEN_TABLE, lookup_class=PlainLookup, stores_nearest=20, has_duties=False
        ),
        False,
    ),
}  # fmt: skip
"""By name: the engine's settings with a defence taken away, and whether ids are bound. "vanilla"
looks up as the textbook does, stores at the 20 nearest, takes any id anywhere, and keeps no replica
alive."""


class Run:
    """One network under one set of options."""

    def __init__(
        self, options: Options, *, load: LoadConfig | None = None, nated: float = 0.0,
        later: float = 0.0, bind_ids: bool | None = None, nodes: int | None = None,
        keep_trace: bool = False,
    ) -> None:  # fmt: skip
        self.options = options
        count = options.nodes if nodes is None else nodes
        dht, binds = DEFENCES[options.defence]
        path = PathConfig(rtt_median_s=options.rtt_ms / 1_000)
        self.world = World(options.seed, keep_trace=keep_trace)
        self.net = Net(self.world, path, expected=2 * options.nodes)
        config = FleetConfig(
            wire=options.wire, dht=dht, bind_ids=binds if bind_ids is None else bind_ids,
            nated=nated, later=later,
        )  # fmt: skip
        self.fleet = Fleet(self.net, config, nodes=options.nodes)
        self.load = Workload(self.fleet, load or LoadConfig(keys=max(16, min(200, count // 2))))
        self.churn: Churn | None = None
        self._dead: list[float] = []
        self.fleet.found(count)

    # ------------------------------------------------------------------ acts

    def settle(self, seconds: float = SETTLE_S) -> None:
        """Let the nodes that begin find their rhythm."""
        self.world.run(seconds)

    def fill(self, seconds: float = FILL_S) -> None:
        """Put the records, and let them be kept."""
        self.load.fill(seconds)
        self.world.run(seconds + 10.0)

    def start_churn(self, law: str) -> None:
        """Let nodes come and go from now on."""
        self.churn = Churn(ChurnConfig(law=law), self.world, self.fleet.newcomer)
        self.churn.start([node for node in self.fleet.nodes if node.host is not None])

    def measure(self, seconds: float) -> None:
        """Let users work and count bytes for a time, then let what runs come to its end."""
        self.fleet.start_measuring()
        self.load.start()
        self.pass_time(seconds)
        self.rates, self.split = self.fleet.upkeep()
        self.finish()

    def finish(self) -> None:
        """Begin nothing more, and wait until every operation has ended."""
        self.load.stop()
        self.world.run(2 * DEADLINE_S, until=lambda: self.load.running == 0)

    def pass_time(self, seconds: float) -> None:
        """Let time pass, looking at the tables now and then."""
        left_s = seconds
        while left_s > 0:
            step_s = min(20.0, left_s)
            self.world.run(step_s)
            left_s -= step_s
            self._dead.append(self.fleet.dead_share())

    # ------------------------------------------------------------------ the report

    rates: list[float] = []  # noqa: RUF012 - set by `measure`
    split: dict[str, float] = {}  # noqa: RUF012 - set by `measure`

    def report(self) -> Report:
        """Return what was found, without bars."""
        options, net = self.options, self.net.counters
        is_real = transport_type(options.wire, options.nodes) is Transport
        facts: dict[str, object] = {
            "RTT median wanted": f"{options.rtt_ms:g} ms",
            "packets": net.sent,
            "lost": round(net.lost / max(1, net.sent - net.to_nobody - net.boxed), 5),
            "to nobody": round(net.to_nobody / max(1, net.sent), 4),
            "operators: five largest hold": round(self.net.places.top_share, 3),
            "dead entries, mean": round(sum(self._dead) / max(1, len(self._dead)), 4),
            "size estimate over truth": round(self.fleet.size_ratio(), 3),
            "serving": f"{sum(n.is_serving for n in self.fleet.up)} of {len(self.fleet.up)} up",
            "began": "with filled tables, as if it had run for long",
            "events": self.world.events,
            "virtual minutes": round(self.world.time_s / 60, 2),
        }
        if self.churn is not None:
            minutes, nodes = self.world.time_s / 60, options.nodes
            facts["joins and leaves a minute"] = (
                f"{100 * self.churn.joins / minutes / nodes:.1f}% "
                f"{100 * self.churn.leaves / minutes / nodes:.1f}% ({self.churn_law})"
            )
        tallies = {name: t for name, t in self.load.tallies.items() if t.count}
        if self.load.old.count:
            tallies["get old"] = self.load.old
        return Report(
            scenario=options.scenario, nodes=options.nodes, seed=options.seed,
            minutes=options.minutes, wire="real" if is_real else "null", defence=options.defence,
            trace=self.world.trace.hexdigest(), tallies=tallies, upkeep=self.rates,
            upkeep_split=self.split, facts=facts, command=options.command,
        )  # fmt: skip

    @property
    def churn_law(self) -> str:
        """The law of sessions."""
        return self.options.law


def latency_bars(report: Report, *, p50_ms: float = 300.0) -> list[Bar]:
    """Return the bars on how long lookups take."""
    lookups = report.lookups
    return [
        at_most("lookups p50", p50_ms, lookups.quantile_ms(0.5), " ms"),
        at_most("lookups p95", 1_000, lookups.quantile_ms(0.95), " ms"),
        at_most("lookups p99", 2_000, lookups.quantile_ms(0.99), " ms"),
    ]


def success_bar(name: str, wanted: float, report: Report, kind: str | None = None) -> Bar:
    """Return the bar on a share of successes; a miss within the interval's reach says so."""
    tally = report.lookups if kind is None else report.tallies[kind]
    bar = at_least(name, wanted, tally.success)
    low, _ = wilson(tally.successes, tally.count)
    return replace(bar, measured=f"{bar.measured} of {tally.count}, low {100 * low:.1f}%")
