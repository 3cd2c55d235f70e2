"""The routing table: what an answer to FIND_NODE costs before it is sealed.

The limit beside it is what no table can leave out: 20 distances, sorted, and their contacts joined.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from molia.base.ids import PeerKey
from molia.base.limits import BUCKET_SIZE_MAX, NODES_CONTACTS_MAX
from molia.dht.contact import Contact
from molia.dht.table import Table, TableConfig
from molia.sim.entropy import SeededEntropy
from molia.wire.messages import encode_contact
from tests.bench.report import Figure, against_number, alternate

OWN = 1 << 255
COUNT = 1_000


def contacts(count: int, *, seed: int) -> list[Contact]:
    """Return contacts at random positions, each in a network of its own."""
    chance = SeededEntropy(seed).random
    made = []
    for number in range(count):
        key = PeerKey(chance.randbytes(32))
        net = bytes((20 + (number >> 16), number >> 8 & 255, number & 255))
        address = (".".join(map(str, (*net, 7))), 7071)
        made.append(
            Contact(chance.getrandbits(256), key, address, b"\4" + net, is_local=False,
                    encoded=encode_contact(key.key, address))
        )  # fmt: skip
    return made


def table_of(members: Sequence[Contact], *, bucket_size: int) -> Table:
    """Return a table to which all have answered."""
    table = Table(OWN, TableConfig(bucket_size=bucket_size), entropy=SeededEntropy(1))
    for number, contact in enumerate(members):
        table.on_verified(contact, 0.05, number * 1e-3)
    return table


def per_call_us(ask: Callable[[int], object], targets: Sequence[int]) -> float:
    """Return the CPU time of a call in microseconds."""
    started_ns = time.process_time_ns()
    for target in targets:
        ask(target)
    return (time.process_time_ns() - started_ns) / len(targets) / 1e3


def least(members: Sequence[Contact]) -> Callable[[int], bytes]:
    """Return a function that does the least: it is told which 20 are nearest."""
    ids = [contact.id for contact in members[:NODES_CONTACTS_MAX]]
    by_id = {contact.id: contact for contact in members}

    def answer(target: int) -> bytes:
        distances = [one ^ target for one in ids]
        distances.sort()
        return b"".join([by_id[distance ^ target].encoded for distance in distances])

    return answer


def bench_table(folder: Path, scale: float) -> Iterator[Figure]:
    """The closest 20 of 1,000 contacts, for random targets, and the NODES body made of them."""
    members = contacts(2 * COUNT, seed=1)
    usual = table_of(members, bucket_size=20)
    whole = table_of(members[:COUNT], bucket_size=BUCKET_SIZE_MAX)
    for contact in members[COUNT:]:
        if whole.size < COUNT:  # some found no slot
            whole.on_verified(contact, 0.05, 1.0)
    assert whole.size == COUNT
    chance = SeededEntropy(2).random
    targets = [chance.getrandbits(256) for _ in range(max(500, int(20_000 * scale)))]
    asked: list[Callable[[int], object]] = [
        whole.nearest, whole.nodes_body, usual.nodes_body, least(members)
    ]  # fmt: skip
    measures = [lambda ask=ask: per_call_us(ask, targets) for ask in asked]
    nearest, body, small, bare = alternate(5, *measures)
    yield against_number("closest 20 of 1,000 contacts", nearest, "us", bare, at_most=10.0)
    yield against_number("NODES of them", body, "us", bare, at_most=10.0)
    yield against_number(f"NODES of a usual table, {usual.size}", small, "us", bare, at_most=10.0)
