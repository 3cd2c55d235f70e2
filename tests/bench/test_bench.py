"""The harness of the benchmarks works; what they measure is for `make bench` alone."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

import pytest

from molia.node.app import open_node
from molia.node.pieces import Pieces
from tests.bench import report, run
from tests.bench.held_blobs import SMALL, body, cid_of
from tests.bench.held_peers import OTHERS
from tests.bench.held_store import CONFIG, fill_home


def test_a_figure_knows_whether_its_demand_is_met() -> None:
    slow = report.against_limit("put", 40.0, "MB/s", 100.0, at_least=0.5)
    assert (slow.ratio, slow.met, slow.demand) == (0.4, False, ">= 0.5 x limit")
    assert report.against_limit("bytes", 104.0, "MB", 100.0, at_most=1.05).met
    assert not report.against_number("p99", 16.0, "ms", 1.0, at_most=15.0).met
    assert report.against_number("rate", 1600.0, "puts/s", None, at_least=1500.0).met


@pytest.mark.parametrize(("share", "value"), [(0.5, 50), (0.99, 99), (1.0, 100)])
def test_a_percentile_is_a_value_that_was_measured(share: float, value: int) -> None:
    assert report.percentile(range(1, 101), share) == value


def test_alternate_takes_turns_and_returns_medians() -> None:
    calls: list[str] = []
    left, right = iter([3.0, 1.0, 2.0]), iter([9.0, 7.0, 8.0])

    def first() -> float:
        calls.append("a")
        return next(left)

    def second() -> float:
        calls.append("b")
        return next(right)

    assert report.alternate(3, first, second) == [2.0, 8.0]
    assert calls == ["a", "b"] * 3


def test_the_list_for_programs_has_the_promised_keys(tmp_path: Path) -> None:
    figures = [report.against_limit("put", 60.0, "MB/s", 100.0, at_least=0.5)]
    report.write_json(tmp_path / "build" / "bench.json", figures)
    (row,) = json.loads((tmp_path / "build" / "bench.json").read_text())
    assert list(row) == ["name", "value", "unit", "limit", "ratio", "demand", "met"]
    assert "put" in report.table(figures)


@pytest.mark.parametrize("name", [name for name in run.BENCHES if name not in run.NETWORKS])
def test_every_bench_runs_at_a_tiny_size(name: str, tmp_path: Path) -> None:
    figures = run.run([name], scale=0.002, folder=tmp_path)
    assert figures
    assert all(figure.value > 0 or figure.unit == "MB over idle" for figure in figures)
    assert list(tmp_path.iterdir()) == []


def test_the_bench_of_a_network_runs_at_a_tiny_size(tmp_path: Path) -> None:
    figures = {figure.name: figure for figure in run.run(["net"], scale=0.002, folder=tmp_path)}
    assert figures["net put, on the clock"].value > 0
    assert figures["net: first byte of a range, a blob never heard of, p50"].value > 0
    assert list(tmp_path.iterdir()) == []


def test_every_stage_is_a_function_that_there_is() -> None:
    code = "from tests.bench.stages import install; install()"
    subprocess.run([sys.executable, "-c", code], cwd=run.ROOT, check=True, timeout=120)


def test_a_filled_home_holds_shares_that_read_well(tmp_path: Path) -> None:
    others = [(bytes((share,)) * 32, ("127.0.0.1", 1)) for share in OTHERS]
    fill_home(tmp_path / "home", 20, others)

    async def look() -> None:
        async with open_node(tmp_path / "home", CONFIG) as node:
            here, piece = Pieces(node.context).open(cid_of(7), SMALL, 0)
            assert len(here) == 1
            assert piece is not None
            assert piece.block == body().blocks[SMALL, 0]

    asyncio.run(look())
