"""A node that holds 100,000 shares and is asked for nothing: what its upkeep costs.

Its store is filled as if it had held them for days: who holds the other shares is known, each was
audited this week and looked up within three days. It watches them, audits what falls due, is
audited itself as often as so many shares are, and announces all of them to a small network.
"""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from molia.base.ids import PeerKey
from molia.base.limits import SWEEP_KEYS_PER_WALK
from molia.dht.sweep import CYCLE_S
from tests.bench.held_blobs import NETWORK_NAME
from tests.bench.held_store import fill_home
from tests.bench.net_nodes import COMMON, OFFER, NetNode, network, wait_until
from tests.bench.nodes import ROOT
from tests.bench.report import Figure, against_number, seen

SHARES: Final = 100_000
SHARES_MIN: Final = 200
NODES: Final = 4
WINDOW_S: Final = CYCLE_S * SWEEP_KEYS_PER_WALK / SHARES
"""A turn of its announcing: one of the walks that all together announce every share in 22 h."""
WINDOW_MIN_S: Final = 4.0
assert COMMON["MOLIA_NETWORK"] == NETWORK_NAME


def bench_net_held(folder: Path, scale: float) -> Iterator[Figure]:
    """The idle CPU of such a node, with all that it does meanwhile."""
    count = max(SHARES_MIN, int(SHARES * scale))
    peers = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.held_peers"], cwd=ROOT, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        assert peers.stdout is not None
        others = [(bytes.fromhex(key), (host, port))
                  for key, host, port in json.loads(peers.stdout.readline())]  # fmt: skip
        home = folder / "net" / "holder"
        home.parent.mkdir()
        started_s = time.monotonic()
        fill_home(home, count, others)
        yield seen(f"{count:,} held shares written", time.monotonic() - started_s, "s")
        with network(folder / "net") as net:
            net.add(NODES if scale >= 0.01 else 1, {})
            holder = net.adopt(home, OFFER)
            yield from _watch(holder, peers, count, max(WINDOW_MIN_S, WINDOW_S * min(scale, 1.0)))
    finally:
        peers.kill()
        peers.wait()


def _watch(
    holder: NetNode, peers: "subprocess.Popen[str]", count: int, window_s: float
) -> Iterator[Figure]:
    """Let the node run for a while, and say what it did."""
    assert peers.stdin is not None
    assert peers.stdout is not None
    wait_until(lambda: _held(holder) == count, "the shares are not counted")
    host, _, port = holder.address.rpartition("@")[2].partition(":")
    print(PeerKey.parse(holder.peer).key.hex(), host, port, count, file=peers.stdin, flush=True)
    before, used_s, began_s = _did(holder), holder.cpu_s(), time.monotonic()
    time.sleep(window_s)
    part = 100 * (holder.cpu_s() - used_s) / (time.monotonic() - began_s)
    yield against_number(
        f"a node with {count:,} shares, idle CPU over {window_s:.0f} s", part, "% of a core", None,
        at_most=2,
    )  # fmt: skip
    for name, value in _did(holder).items():
        yield seen(f"  meanwhile: {name}", value - before[name], "")
    yield seen("  blobs that it announces", holder.metric("molia_dht_announced_blobs"), "")
    yield seen("  resident memory", holder.memory_bytes() / 1e6, "MB")
    peers.stdin.close()
    told = json.loads(peers.stdout.readline())
    assert not told["failed"], "an audit of the node failed"
    yield seen("  audits of it that others found sound", told["sound"], "")


def _held(holder: NetNode) -> int:
    return int((holder.ask("GET", "/node")["holding"] or {}).get("shares", 0))


def _packets(holder: NetNode) -> float:
    return holder.metric("molia_wire_packets_total")


def _did(holder: NetNode) -> dict[str, float]:
    """Return what the node has done so far."""
    return {
        "audits of others": holder.metric("molia_audits_total"),
        "requests sent": holder.metric("molia_wire_requests_total"),
        "packets": _packets(holder),
    }
