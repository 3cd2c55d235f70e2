"""A network of node processes: put, get, first byte, repair, and the memory that they take.

The limit of put and get is the transport's own bulk rate, one stream between two processes with a
core each, measured in turns with them; a put sends 14 tenths of what it stores, so its limit is
that rate over 1.4. All nodes and the client share the machine's cores, which the transport alone
has for itself: so what a MiB costs is compared in CPU seconds too, summed over all processes.
"""

import asyncio
import os
import random
import socket
import statistics
import time
from collections.abc import Generator, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

import zfec

from molia.base.limits import DATA_SHARES, TOTAL_SHARES
from molia.wire.channel import SEAL_OVERHEAD
from molia.wire.stream_frames import STREAM_OVERHEAD
from tests.bench import load
from tests.bench.bench_wire import BULK_PACKET, CORES, send_stream, served
from tests.bench.limits import BLOCK_SIZE
from tests.bench.net_nodes import OFFER, Net, NetNode, network, wait_until
from tests.bench.nodes import MIB
from tests.bench.report import Figure, against_limit, against_number, percentile, seen
from tests.bench.wire_server import pinned

SIZE: Final = 256 * MIB
SIZE_MIN: Final = 3 * MIB
HOLDERS: Final = 14
FEW_HOLDERS: Final = 6
DEAD: Final = 4
RANGE: Final = 64 * 1024
SMALLEST: Final = 1_310_720
"""Of the blobs that are each asked for once: one stripe."""
REPAIR_S: Final = 300.0
REPAIR_LOOK_S: Final = 1.0
REPAIR_SCALE: Final = 0.01
"""Below it nobody is killed: who comes back is waited for long."""
SLOW_REPAIRS: Final = {"MOLIA_REPAIR__LOOK_S": "3600"}
"""Nobody repairs what the bench is about to."""


class Cost(NamedTuple):
    """What moving a blob took."""

    rate: float
    """Bytes a second."""
    cpu_s: float
    """CPU seconds of all nodes for a MiB."""


class Sizes(NamedTuple):
    """What is measured at a scale."""

    blob: int
    holders: int
    dead: int
    rounds: int
    ranges: int

    @classmethod
    def at(cls, scale: float) -> "Sizes":
        """Return the sizes; small scales need fewer processes too."""
        blob, is_full = max(SIZE_MIN, int(SIZE * scale)), scale >= 0.05
        few = FEW_HOLDERS if scale >= REPAIR_SCALE else 3
        return cls(
            blob, holders=HOLDERS if is_full else few, dead=DEAD if is_full else 1,
            rounds=5 if scale >= 0.5 else 1, ranges=max(3, min(60, int(60 * scale))),
        )  # fmt: skip


def bench_net(folder: Path, scale: float) -> Iterator[Figure]:
    """All figures of a network of 14 holders, who puts, and who reads."""
    sizes = Sizes.at(scale)
    with network(folder / "net") as net:
        (publisher,) = net.add(1, SLOW_REPAIRS)
        net.add(sizes.holders, OFFER | SLOW_REPAIRS)
        (reader,) = net.add(1, SLOW_REPAIRS)
        net.wait_joined()
        net.note_idle()
        cids = yield from _puts(net, publisher, sizes)
        yield from _first_bytes(publisher, reader, cids[-1], sizes)
        if scale < REPAIR_SCALE:
            return
        publisher.kill()  # else it would be read from, or counted as a holder
        _repaired(reader, _holders(net, reader, cids[-1])[-1], cids[-1])
        whole = _reachable(reader, cids[-1])
        dead = yield from _gets(net, reader, cids[-1], sizes)
        for node in dead:
            node.begin_again()
            node.wait_up()
            node.note_idle()
        net.add(1, OFFER | SLOW_REPAIRS)  # who shall have the share that is made again
        net.wait_joined()
        wait_until(lambda: _reachable(reader, cids[-1]) == whole, "holders did not come back")
        yield from _repair(net, reader, cids[-1], sizes)
        yield against_number(
            "net: peak memory of a node, all of the above", net.peak_bytes() / 1e6,
            "MB over idle", None, at_most=300,
        )  # fmt: skip


# ---------------------------------------------------------------------------- put and get


def transport(size: int) -> Cost:
    """Return what one stream between two processes gives, each on a core of its own."""
    with pinned(CORES, 1), served("sink") as server:
        ours_us, theirs_us, rate = asyncio.run(send_stream(server, size))
    packets = MIB / (BULK_PACKET - STREAM_OVERHEAD - SEAL_OVERHEAD)
    return Cost(rate * 1e6, (ours_us + theirs_us) * packets / 1e6)


def medians(costs: Sequence[Cost]) -> Cost:
    """Return the medians of both figures."""
    rates, cpu_s = zip(*costs, strict=True)
    return Cost(statistics.median(rates), statistics.median(cpu_s))


def _put(net: Net, publisher: NetNode, size: int, seed: int) -> tuple[str, Cost]:
    before_s = net.cpu_s()
    cid, took_s = load.put(publisher.port, size, seed)
    return cid, Cost(size / took_s, (net.cpu_s() - before_s) / (size / MIB))


def _get(net: Net, reader: NetNode, cid: str, size: int) -> Cost:
    before_s = net.cpu_s()
    client = load.Reader(reader.port)
    try:
        took_s = client.get(f"/blob/{cid}")
    finally:
        client.close()
    return Cost(size / took_s, (net.cpu_s() - before_s) / (size / MIB))


def _puts(net: Net, publisher: NetNode, sizes: Sizes) -> Generator[Figure, None, list[str]]:
    bulks, puts, cids = [], [], []
    _put(net, publisher, SIZE_MIN, 1_000)  # sessions are made
    for number in range(sizes.rounds):
        bulks.append(transport(sizes.blob))
        cid, cost = _put(net, publisher, sizes.blob, number)
        health = publisher.ask("GET", f"/blob/{cid}/health")
        wanted = 4 if sizes.holders == HOLDERS else 1
        assert health["survives"] >= wanted, health
        cids.append(cid)
        puts.append(cost)
    yield from _beside("put", medians(puts), medians(bulks), times=1.4)
    return cids


def _beside(name: str, ours: Cost, bulk: Cost, *, times: float) -> Iterator[Figure]:
    """A rate and a cost beside the transport's; times: how often each byte is sent."""
    yield against_limit(
        f"net {name}, on the clock", ours.rate / 1e6, "MB/s", bulk.rate / times / 1e6,
        at_least=0.4,
    )  # fmt: skip
    yield against_limit(
        f"net {name}, CPU of all nodes", ours.cpu_s * 1e3, "ms/MiB", bulk.cpu_s * times * 1e3,
        at_most=2.5,
    )  # fmt: skip


def _gets(
    net: Net, reader: NetNode, cid: str, sizes: Sizes
) -> Generator[Figure, None, list[NetNode]]:
    """Healthy reads in turns with the transport, then reads without the holders of four shares."""
    bulks, healthy = [], []
    _get(net, reader, cid, sizes.blob)
    for _ in range(sizes.rounds):
        bulks.append(transport(sizes.blob))
        healthy.append(_get(net, reader, cid, sizes.blob))
    yield from _beside("get", medians(healthy), medians(bulks), times=1.0)
    dead = _holders(net, reader, cid)[: sizes.dead]
    for node in dead:
        node.kill()
    first = _get(net, reader, cid, sizes.blob)
    hurt = [_get(net, reader, cid, sizes.blob) for _ in range(sizes.rounds)]
    usual, limped = sizes.blob / medians(healthy).rate, sizes.blob / medians(hurt).rate
    yield seen("net get, the first after 4 holders died", sizes.blob / first.rate, "s")
    yield against_limit("net get with 4 data holders dead", limped, "s", usual, at_most=1.3)
    yield against_limit(
        "net get with 4 data holders dead, CPU", medians(hurt).cpu_s * 1e3, "ms/MiB",
        medians(healthy).cpu_s * 1e3, at_most=1.3,
    )  # fmt: skip
    return dead


def _holders(net: Net, asked: NetNode, cid: str) -> list[NetNode]:
    """Return who has shares, in their order."""
    shares = asked.ask("GET", f"/blob/{cid}/health")["shares"]
    return net.named(dict.fromkeys(peer for share in shares for peer in share["holders"]))


# ---------------------------------------------------------------------------- first byte


def _first_bytes(publisher: NetNode, reader: NetNode, cid: str, sizes: Sizes) -> Iterator[Figure]:
    """A range of a blob that is being read, and of blobs that the reader never heard of.

    The second takes a look-up, the manifest and a block: the round trips of a healthy network,
    which on loopback are as good as nothing, so the demand is held against the whole time.
    """
    chance = random.Random(sizes.blob)
    starts = [chance.randrange(sizes.blob - RANGE) for _ in range(sizes.ranges)]
    _first_byte(reader.port, cid, 0)
    known = [_first_byte(reader.port, cid, start) for start in starts]
    fresh = []
    for number in range(max(3, sizes.ranges // 2)):
        other, _ = load.put(publisher.port, SMALLEST, 2_000 + number)
        fresh.append(_first_byte(reader.port, other, chance.randrange(SMALLEST - RANGE)))
    for name, times_s in (("a blob that was read before", known), ("a blob never heard of", fresh)):
        yield against_number(
            f"net: first byte of a range, {name}, p50", percentile(times_s, 0.5) * 1e3, "ms",
            None, at_most=30,
        )  # fmt: skip
        yield seen(f"the same, p95 of {len(times_s)}", percentile(times_s, 0.95) * 1e3, "ms")


def _first_byte(port: int, cid: str, start: int) -> float:
    """Return the seconds until the first byte of a range of 64 KiB is here."""
    asked = (
        f"GET /blob/{cid} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n"
        f"Range: bytes={start}-{start + RANGE - 1}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        started_s = time.perf_counter()
        connection.sendall(asked.encode())
        head, took_s = b"", 0.0
        while part := connection.recv(65_536):
            head = (head + part)[:65_536]
            if not took_s and b"\r\n\r\n" in head and not head.endswith(b"\r\n\r\n"):
                took_s = time.perf_counter() - started_s
    assert head.startswith(b"HTTP/1.1 206"), head[:300]
    return took_s


# ---------------------------------------------------------------------------- repair


def encode_s(size: int) -> float:
    """Return the CPU seconds of coding `size` bytes 10+4, and nothing else."""
    encoder, stripe = zfec.Encoder(DATA_SHARES, TOTAL_SHARES), os.urandom(10 * BLOCK_SIZE)
    blocks = [stripe[at * BLOCK_SIZE : (at + 1) * BLOCK_SIZE] for at in range(DATA_SHARES)]
    parity = tuple(range(DATA_SHARES, TOTAL_SHARES))
    started_s = time.thread_time()
    for _ in range(max(1, size // len(stripe))):
        encoder.encode(blocks, parity)
    return time.thread_time() - started_s


def _repair(net: Net, reader: NetNode, cid: str, sizes: Sizes) -> Iterator[Figure]:
    """The holder of one share dies: another holder is told to repair what is missing."""
    holders, before = _holders(net, reader, cid), _reachable(reader, cid)
    lost, leader = holders[0], holders[-1]
    lost.kill()
    lost_count = before - _reachable(reader, cid)
    before_s, own_s = net.cpu_s(), leader.cpu_s()
    read, made = _moved(leader)
    started_s = time.monotonic()
    _repaired(reader, leader, cid)
    took_s = time.monotonic() - started_s
    all_s, own_s = net.cpu_s() - before_s, leader.cpu_s() - own_s
    read, made = _moved(leader)[0] - read, _moved(leader)[1] - made
    coding_s = statistics.median(encode_s(sizes.blob) for _ in range(3))
    share = sizes.blob / DATA_SHARES
    yield against_number("net repair of a share: reads", read / share, "shares", None, at_most=10.1)
    yield against_number(
        "net repair of a share: writes", made / lost_count, "shares", None, at_most=1
    )
    yield against_limit("net repair: CPU of who repairs", own_s, "s", coding_s, at_most=3)
    yield seen("the same, CPU of all nodes", all_s, "s", coding_s)
    yield seen("the same, on the clock", took_s, "s")


def _repaired(reader: NetNode, leader: NetNode, cid: str) -> None:
    """Have a holder make again what is missing: the publisher's part, or that of who died.

    Asked once a second: what it takes to answer counts as the repair's.
    """
    done = leader.ask("GET", "/repair")["repaired"]
    assert leader.ask("POST", "/repair", {"cid": cid})["missing"] >= 1
    wait_until(
        lambda: leader.ask("GET", "/repair")["repaired"] > done, "no repair", within_s=REPAIR_S,
        every_s=REPAIR_LOOK_S,
    )  # fmt: skip
    wait_until(
        lambda: _reachable(reader, cid) == TOTAL_SHARES, "repaired in part", within_s=REPAIR_S,
        every_s=REPAIR_LOOK_S,
    )  # fmt: skip


def _reachable(asked: NetNode, cid: str) -> int:
    """Return of how many shares somebody answers for."""
    shares = asked.ask("GET", f"/blob/{cid}/health")["shares"]
    return sum(bool(share["holders"]) for share in shares)


def _moved(node: NetNode) -> tuple[float, float]:
    """Return the bytes of blobs that a node was given, and the shares that it had others keep."""
    return node.metric("molia_fetch_bytes_total"), node.metric("molia_shares_sent_total", "kept")
