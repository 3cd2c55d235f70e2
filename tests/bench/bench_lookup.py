"""Lookups: the CPU that their decisions cost, without any message.

The limit beside it is what no lookup can leave out: each contact that is named is looked for in a
dict, its distance is reckoned, and it is put on a heap.
"""

import time
from collections.abc import Iterator, Sequence
from heapq import heappush
from pathlib import Path
from statistics import median

from molia.dht.contact import ID_BITS, Contact
from molia.dht.outcome import Goal
from tests.bench.report import Figure, against_number, alternate
from tests.dht.model_net import Net

NODES = 2_000


def spent_us(net: Net, goal: Goal, answers_max: int) -> float:
    """Return the microseconds that one lookup takes to decide on so many answers."""
    lookup = net.lookup(goal, net.random.getrandbits(ID_BITS), net.random.choice(net.honest))
    spent_ns = answers = 0
    while not lookup.is_done and answers < answers_max:
        started_ns = time.perf_counter_ns()
        probes = lookup.take_probes()
        spent_ns += time.perf_counter_ns() - started_ns
        for contact, asks in probes:
            answers += 1
            told = int.from_bytes(lookup.target_for(contact), "big")
            closer = net.nodes[contact.encoded].answer(net, told, asks=asks)
            started_ns = time.perf_counter_ns()
            lookup.on_reply(contact, closer, None, net.now_s + answers / 1000)
            lookup.next_deadline_s()
            spent_ns += time.perf_counter_ns() - started_ns
    return spent_ns / 1000


def least_us(contacts: Sequence[Contact]) -> float:
    """Return the microseconds that the least costs for these contacts."""
    started_ns = time.perf_counter_ns()
    known: dict[bytes, int] = {}
    heap: list[tuple[int, bytes]] = []
    for contact in contacts:
        if contact.encoded not in known:
            known[contact.encoded] = distance = contact.id ^ 1
            heappush(heap, (distance, contact.encoded))
    return (time.perf_counter_ns() - started_ns) / 1000


def bench_lookup(folder: Path, scale: float) -> Iterator[Figure]:
    """A GET of 10 answers of 20 contacts each, a FIND, and the walk of a region; seeds apart."""
    net = Net(NODES, 3)
    net.settle()
    named = net.random.sample(net.honest, 200)
    count = max(10, int(100 * scale))

    def typical_us(goal: Goal, answers_max: int) -> float:
        return median(spent_us(net, goal, answers_max) for _ in range(count))

    get_us, find_us, region_us, bare_us = alternate(
        3,
        lambda: typical_us(Goal.GET, 10),
        lambda: typical_us(Goal.FIND, 100),
        lambda: typical_us(Goal.REGION, 100),
        lambda: median(least_us(named) for _ in range(count)),
    )
    yield against_number("GET of 10 answers", get_us, "us", bare_us, at_most=500)
    yield against_number("FIND", find_us, "us", bare_us, at_most=500)
    yield against_number("walk of a region", region_us, "us", bare_us, at_most=2000)
