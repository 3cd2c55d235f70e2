"""What a benchmark says: figures, a table for people and a list for programs."""

import json
import os
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One measured figure beside the limit that was measured in the same run."""

    name: str
    value: float
    unit: str
    limit: float | None
    """What the machine gives without Molia, in the same unit; None where there is none."""
    ratio: float | None
    """value / limit."""
    demand: str
    met: bool


def against_limit(
    name: str, value: float, unit: str, limit: float, *, at_least: float = 0, at_most: float = 0
) -> Figure:
    """Return a figure whose demand is a ratio to its limit."""
    ratio = value / limit
    if at_least:
        return Figure(name=name, value=value, unit=unit, limit=limit, ratio=ratio,
                      demand=f">= {at_least:g} x limit", met=ratio >= at_least)  # fmt: skip
    return Figure(name=name, value=value, unit=unit, limit=limit, ratio=ratio,
                  demand=f"<= {at_most:g} x limit", met=ratio <= at_most)  # fmt: skip


def against_number(
    name: str, value: float, unit: str, limit: float | None, *,
    at_least: float = 0, at_most: float = 0,
) -> Figure:  # fmt: skip
    """Return a figure whose demand is a number; the limit stands beside it for comparison."""
    met = value >= at_least if at_least else value <= at_most
    demand = f">= {at_least:g} {unit}" if at_least else f"<= {at_most:g} {unit}"
    ratio = value / limit if limit else None
    return Figure(
        name=name, value=value, unit=unit, limit=limit, ratio=ratio, demand=demand, met=met
    )


def seen(name: str, value: float, unit: str, limit: float | None = None) -> Figure:
    """Return a figure that is printed and not demanded."""
    return Figure(
        name=name, value=value, unit=unit, limit=limit, ratio=value / limit if limit else None,
        demand="printed", met=True,
    )  # fmt: skip


def alternate(rounds: int, *measures: Callable[[], float]) -> list[float]:
    """Return the median of each measure over rounds that take turns.

    A machine that slows down for a while then slows down all of them.
    """
    singles = [lambda measure=measure: (measure(),) for measure in measures]
    return [median for (median,) in alternate_many(rounds, *singles)]


def alternate_many(
    rounds: int, *measures: Callable[[], Sequence[float]]
) -> list[tuple[float, ...]]:
    """Return the medians of each measure's several figures over rounds that take turns."""
    results: list[list[Sequence[float]]] = [[] for _ in measures]
    for _ in range(rounds):
        for measure, kept in zip(measures, results, strict=True):
            kept.append(measure())
    return [
        tuple(statistics.median(column) for column in zip(*kept, strict=True)) for kept in results
    ]


def percentile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least `share` of all values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-int(share * 1000) * len(ordered) // 1000) - 1))]


def machine() -> str:
    """Return one line about where this was measured."""
    model = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
        model = next(line.partition(": ")[2] for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    system = f"{platform.system()} {platform.release()}"
    python = f"Python {platform.python_version()}, {_loop_ns():.0f} ns for a turn of a bare loop"
    return f"{model}, {cores} cores, {system}, {python}"


def _loop_ns() -> float:
    """Return the CPU time of one turn of an empty loop: figures of microseconds scale with it."""
    times = []
    for _ in range(5):
        started_ns = time.process_time_ns()
        for _ in range(200_000):
            pass
        times.append((time.process_time_ns() - started_ns) / 200_000)
    return statistics.median(times)


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as a table."""
    head = ("figure", "value", "limit", "ratio", "demand", "met")
    rows = [
        (
            figure.name,
            f"{_short(figure.value)} {figure.unit}",
            "-" if figure.limit is None else f"{_short(figure.limit)} {figure.unit}",
            "-" if figure.ratio is None else f"{figure.ratio:.2f}",
            figure.demand,
            "yes" if figure.met else "NO",
        )
        for figure in figures
    ]
    widths = [max(len(row[column]) for row in [head, *rows]) for column in range(len(head))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
             for row in [head, tuple("-" * width for width in widths), *rows]]  # fmt: skip
    return "\n".join(lines)


def _short(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"


def write_json(path: Path, figures: Sequence[Figure]) -> None:
    """Write the figures as a JSON list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps([asdict(figure) for figure in figures], indent=2) + "\n", "utf-8")
