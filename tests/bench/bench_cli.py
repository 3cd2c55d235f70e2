"""Start-up of the command line's client verbs."""

import os
from collections.abc import Iterator
from pathlib import Path

from tests.bench import limits
from tests.bench.report import Figure, alternate

BOUND_MS = 120.0
RATIO = 2.5


def bench_cli(folder: Path, scale: float) -> Iterator[Figure]:
    """`molia ls` with no node to ask: everything but the answer. Limit: `import click`."""
    environment = {n: v for n, v in os.environ.items() if not n.startswith("MOLIA_")}
    environment["MOLIA_HOME"] = str(folder / "nobody")
    own_s, click_s = alternate(
        max(3, int(15 * min(1.0, scale))),
        lambda: limits.start_up("-m", "molia", "ls", "-q", environment=environment),
        lambda: limits.start_up("-c", "import click", environment=environment),
    )
    value, limit = own_s * 1e3, click_s * 1e3
    yield Figure(
        name="start-up of a client verb", value=value, unit="ms", limit=limit,
        ratio=value / limit, demand=f"<= {BOUND_MS:g} ms or {RATIO:g} x limit",
        met=value <= BOUND_MS or value <= RATIO * limit,
    )  # fmt: skip
