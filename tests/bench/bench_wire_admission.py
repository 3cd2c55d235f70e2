"""What the door costs a node: buckets, puzzles, decisions, messages. In CPU time of one core."""

import itertools
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from molia.base.config import AdmissionConfig
from molia.base.hashing import blake2b_digest
from molia.base.now import Now
from molia.wire import messages
from molia.wire.admission import Admission
from molia.wire.limiter import SourceLimiter
from molia.wire.puzzle import NO_PUZZLE, Effort, PuzzleSolver, challenge, is_solved
from tests.bench.report import Figure, against_number, alternate
from tests.wire.doubles import Seeded, at

ROUNDS = 5
KEY, EPHEMERAL = bytes(range(32)), bytes(range(32, 64))


def cost_us(work: Callable[[], object], count: int) -> Callable[[], float]:
    """Return what measures the CPU microseconds of one call, the loop's own left out."""

    def loop(call: Callable[[], object]) -> float:
        started_s = time.process_time()
        for _ in itertools.repeat(None, count):
            call()
        return time.process_time() - started_s

    return lambda: (loop(work) - loop(_nothing)) / count * 1e6


def _nothing() -> None:
    return None


def bench_wire_admission(folder: Path, scale: float) -> Iterator[Figure]:
    """Beside each figure the one hash or dictionary access that it cannot do without."""
    count = max(200, int(100_000 * scale))
    prefix, nonce = challenge(responder_key=KEY, epoch=1, ephemeral=EPHEMERAL, tag=b"abc"), bytes(8)
    text, table = prefix + nonce, {b"\x08\x08\x08\x08": 1.0}
    hash_us, verify_us, get_us, limit_us, idle_us, loaded_us, target_us, join_us = alternate(
        ROUNDS,
        cost_us(lambda: blake2b_digest(text, size=8), count),
        cost_us(lambda: is_solved(prefix, nonce=nonce, bits=14), count),
        cost_us(lambda: table.get(b"\x08\x08\x08\x08"), count),
        cost_us(limiter_take(), count),
        cost_us(admission(loaded=False), count),
        cost_us(admission(loaded=True), count),
        cost_us(find_node(), count),
        cost_us(nodes_reply(), count),
    )
    solver = PuzzleSolver(
        responder_key=KEY, ephemeral=EPHEMERAL, effort=Effort(24, 1, b"abc"), entropy=Seeded(1)
    )
    started_s = time.process_time()
    solver.solve(count)
    solve_us = (time.process_time() - started_s) / count * 1e6
    rows = [
        ("verify a request puzzle", verify_us, hash_us, 1.5),
        ("try one nonce", solve_us, hash_us, 1.5),
        ("buckets of an address and its network", limit_us, get_us, 2.0),
        ("decision of an idle node", idle_us, None, 4.0),
        ("refusal under load without a puzzle", loaded_us, None, 4.0),
        ("decode FIND_NODE", target_us, None, 0.6),
        ("join 20 contacts", join_us, None, 1.0),
    ]
    for name, value, limit, at_most in rows:
        yield against_number(f"admission: {name}", max(value, 0.001), "us", limit, at_most=at_most)


def limiter_take() -> Callable[[], object]:
    """A taking from the buckets of 4,096 addresses in turn, at a rate that they allow."""
    limiter, numbers = SourceLimiter(), itertools.count()

    def take() -> bool:
        n = next(numbers)
        return limiter.take(b"\x08" + (n % 4096).to_bytes(3, "big"), n / 10_000)

    return take


def admission(*, loaded: bool) -> Callable[[], object]:
    """A decision about one of 1,024 addresses in turn."""
    door = Admission(AdmissionConfig(), network=bytes(32), private_network=False)
    if loaded:
        for _ in range(100):
            door.on_handshake(at(0.0), cost_s=10e-3)
        door.advertised_bits(0.0)
    addresses = [(f"8.8.{n >> 2}.{n & 3}", 4001) for n in range(1024)]
    numbers = itertools.count()

    def decide() -> object:
        n = next(numbers)
        now = Now(n / 100_000, n / 100_000)
        return door.admit(addresses[n & 1023], EPHEMERAL, NO_PUZZLE, KEY, now)

    return decide


def find_node() -> Callable[[], object]:
    """Reading a request for contacts."""
    body = messages.encode(messages.FindNode(os.urandom(32)))
    return lambda: messages.find_node_target(body)


def nodes_reply() -> Callable[[], object]:
    """Writing a reply of 20 contacts."""
    parts = [messages.encode_contact(os.urandom(32), (f"8.8.8.{n}", 4001)) for n in range(20)]
    return lambda: messages.encode_nodes(parts)
