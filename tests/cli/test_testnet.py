"""`molia testnet`: real nodes on loopback that find each other, stay dead, and leave nothing."""

import json
import signal
import subprocess
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Run, spawn
from tests.cli.test_children import is_running

Nodes = list[dict[str, Any]]
WAIT_S = 120.0


@contextmanager
def running(*words: str, base: Path) -> "Iterator[tuple[subprocess.Popen[bytes], Nodes]]":
    """Give a testnet that is up, and the nodes that its one line names."""
    process = spawn("testnet", "--json", "--base", str(base), *words)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, process.communicate()
        yield process, json.loads(line)["nodes"]
    finally:
        process.kill()
        process.communicate()


def end(process: "subprocess.Popen[bytes]", number: int) -> tuple[bytes, str]:
    """Tell a testnet to stop; return what it still wrote."""
    process.send_signal(number)
    out, err = process.communicate(timeout=WAIT_S)
    assert process.returncode == 0, err
    return out, err.decode()


def get(node: dict[str, Any], path: str) -> bytes:
    with urllib.request.urlopen(node["api"] + path, timeout=30) as answer:
        return bytes(answer.read())


def until(holds: Callable[[], bool]) -> bool:
    """Wait a while for something to hold."""
    end_s = time.monotonic() + WAIT_S
    while not holds() and time.monotonic() < end_s:
        time.sleep(0.02)
    return holds()


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base"
    path.mkdir()
    return path


def test_four_nodes_find_each_others_records_and_one_that_is_killed_stays_dead(
    base: Path, molia: Run
) -> None:
    with running("--nodes", "4", base=base) as (process, nodes):
        assert [set(node) for node in nodes] == [{"api", "address", "home", "pid"}] * 4
        assert len({node["pid"] for node in nodes}) == 4
        put = molia("record", "put", "news", "--home", nodes[0]["home"], stdin=b"hello")
        assert put.code == 0, put.stderr
        address = put.out.strip()
        assert [get(node, f"/record/{address}") for node in nodes] == [b"hello"] * 4
        nodes[3]["process"] = spawn("lookup", address, "--trace", "--home", nodes[1]["home"])
        out, err = nodes[3]["process"].communicate(timeout=WAIT_S)
        assert (nodes[3]["process"].returncode, b"molia://" in out) == (0, True), err

        killed = nodes.pop(3)
        subprocess.run(["kill", "-KILL", str(killed["pid"])], check=True)
        assert until(lambda: not is_running(killed["pid"]))
        assert [get(node, f"/record/{address}") for node in nodes] == [b"hello"] * 3
        assert process.stderr is not None
        assert f"pid {killed['pid']}" in process.stderr.readline().decode()

        out, err = end(process, signal.SIGINT)
        assert (out, f"pid {killed['pid']}" in err) == (b"", False), "it is said once"
        assert not any(is_running(node["pid"]) for node in nodes)
    assert list(base.iterdir()) == []


def test_nodes_of_one_process_find_each_others_records(base: Path, molia: Run) -> None:
    with running("--nodes", "4", "--in-process", base=base) as (process, nodes):
        assert {node["pid"] for node in nodes} == {process.pid}
        put = molia("record", "put", "news", "--home", nodes[3]["home"], stdin=b"hello")
        assert put.code == 0, put.stderr
        address = put.out.strip()
        assert [get(node, f"/record/{address}") for node in nodes] == [b"hello"] * 4
        out, _ = end(process, signal.SIGTERM)
        assert out == b""
    assert list(base.iterdir()) == []


def test_a_testnet_that_is_killed_leaves_no_process(base: Path) -> None:
    with running("--nodes", "2", base=base) as (process, nodes):
        assert all(is_running(node["pid"]) for node in nodes)
        process.kill()
        assert until(lambda: not any(is_running(node["pid"]) for node in nodes))


def test_a_testnet_of_one_node_is_joined_at_once_and_ends_when_it_is_killed(base: Path) -> None:
    with running("--nodes", "1", base=base) as (process, nodes):
        assert json.loads(get(nodes[0], "/healthz")) == {"status": "ok"}
        subprocess.run(["kill", "-KILL", str(nodes[0]["pid"])], check=True)
        _, err = process.communicate(timeout=WAIT_S)
        assert process.returncode == 13
        assert "has ended, and stays so" in err.decode()
    assert list(base.iterdir()) == []


def test_a_node_that_cannot_start_is_named_and_all_are_ended(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MOLIA_ADMISSION__ASN_DATABASE", str(base / "missing.mmdb"))
    process = spawn("testnet", "--nodes", "2", "--base", str(base))
    out, err = process.communicate(timeout=WAIT_S)
    assert (process.returncode, out) == (1, b"")
    assert err.decode().startswith("error: node 0 did not start: admission.asn_database")
    assert list(base.iterdir()) == []
