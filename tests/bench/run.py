"""`make bench`: every figure beside a limit that is measured in the same run.

Prints a table and writes build/bench.json: a list of {name, value, unit, limit, ratio, demand,
met}. `--scale 0.01` tries everything in a minute at sizes too small for the figures to mean much.
The exit code is 0 whether the demands are met or not: the table says which.
"""

import argparse
import importlib
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import cast

from tests.bench.report import Figure, machine, table, write_json

ROOT = Path(__file__).parents[2]
Bench = Callable[[Path, float], Iterator[Figure]]
BENCHES = {
    "put": "bench_http:bench_put",
    "get": "bench_http:bench_get",
    "small-puts": "bench_http:bench_small_puts",
    "small-values": "bench_store:bench_small_values",
    "block-get": "bench_store:bench_block_get",
    "log": "bench_log:bench_log",
    "amplification": "bench_log:bench_amplification",
    "reads": "bench_reads:bench_reads",
    "many": "bench_many:bench_many",
    "recovery": "bench_many:bench_recovery",
    "expiry": "bench_many:bench_expiry",
    "memory": "bench_memory:bench_memory",
    "space": "bench_space:bench_space",
    "compaction-puts": "bench_compaction:bench_compaction_puts",
    "compaction-delete": "bench_compaction:bench_compaction_delete",
    "punched-delete": "bench_compaction:bench_punched_delete",
    "compaction-space": "bench_compaction:bench_compaction_space",
    "cli": "bench_cli:bench_cli",
    "requests": "bench_wire:bench_requests",
    "served": "bench_served:bench_served",
    "workers": "bench_wire:bench_workers",
    "bulk": "bench_wire:bench_bulk",
    "handshakes": "bench_wire_handshake:bench_handshake",
    "sessions": "bench_wire_handshake:bench_sessions",
    "packets": "bench_wire_handshake:bench_packets",
    "streams": "bench_wire_streams:bench_wire_streams",
    "admission": "bench_wire_admission:bench_wire_admission",
    "table": "bench_dht:bench_table",
    "lookup": "bench_lookup:bench_lookup",
    "testnet": "bench_testnet:bench_testnet",
    "net": "bench_net:bench_net",
    "net-stages": "bench_net_stages:bench_net_stages",
    "net-held": "bench_net_held:bench_net_held",
}
NETWORKS = ("net", "net-stages", "net-held")
"""Benches of `make bench-net`, which runs nothing else; `make bench` runs the others."""


def find(place: str) -> Bench:
    """Return the bench at `module:function`."""
    module, _, name = place.partition(":")
    return cast("Bench", getattr(importlib.import_module(f"tests.bench.{module}"), name))


def run(names: list[str], *, scale: float, folder: Path) -> list[Figure]:
    """Run the named benches one after the other, each in a folder that goes afterwards."""
    figures: list[Figure] = []
    for name in names:
        place = Path(tempfile.mkdtemp(prefix=f"bench-{name}-", dir=folder))
        started_s = time.monotonic()
        try:
            figures += find(BENCHES[name])(place, scale)
        finally:
            shutil.rmtree(place, ignore_errors=True)
        print(f"{name}: {time.monotonic() - started_s:.0f} s", file=sys.stderr, flush=True)
    return figures


def main() -> int:
    """Run what was asked for; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.run", description=__doc__)
    parser.add_argument("names", nargs="*", help=f"{', '.join(BENCHES)}; none: as make bench")
    parser.add_argument("--scale", type=float, default=1.0, help="part of the full sizes")
    parser.add_argument("--folder", type=Path, default=ROOT / "build", help="where stores are made")
    parser.add_argument("--output", type=Path, default=ROOT / "build" / "bench.json")
    chosen = parser.parse_args()
    if unknown := set(chosen.names) - set(BENCHES):
        parser.error(f"no such bench: {', '.join(sorted(unknown))}")
    chosen.folder.mkdir(parents=True, exist_ok=True)
    names = chosen.names or [name for name in BENCHES if name not in NETWORKS]
    figures = run(names, scale=chosen.scale, folder=chosen.folder)
    write_json(chosen.output, figures)
    print(machine())
    print("medians of rounds that take turns with their limits" + (
        "" if chosen.scale == 1.0 else f"; SCALE {chosen.scale:g}: not the sizes of the demands"
    ))  # fmt: skip
    print(table(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
