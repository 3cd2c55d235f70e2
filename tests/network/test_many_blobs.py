"""Many blobs put at once through four nodes while others are killed and come back."""

import contextlib
import os
import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from http.client import HTTPException

from tests.network.crowd import Crowd, Member, got
from tests.node.process import body_of

SMALL = int(os.environ.get("MOLIA_TEST_BLOBS", "400"))
LARGE = max(SMALL // 100, 4)
IS_LONG = SMALL >= 10_000
RESTART_S = 10.0 if IS_LONG else 3.0
"""How often one node in ten is killed and started again."""
ENTRIES, WRITERS, TRIES_S = 4, 16, 600.0
Record = Callable[[str, object], None]


def body(number: int) -> bytes:
    """Return a blob's bytes: the first ones are large."""
    rng = random.Random(number)
    size = rng.randrange(1_000_000, 3_000_000) if number < LARGE else rng.randrange(100, 20_000)
    return body_of(number, size)


@dataclass
class Writers:
    """Clients that put until nothing is left, and what they were told."""

    entries: list[Member]
    left: "queue.SimpleQueue[int]" = field(default_factory=queue.SimpleQueue)
    acknowledged: dict[int, tuple[str, Member]] = field(default_factory=dict)
    retried: int = 0
    failures: list[str] = field(default_factory=list)

    def work(self, first: int) -> None:
        """Put what is left, through whichever entry is there."""
        turn = first
        while True:
            try:
                number = self.left.get_nowait()
            except queue.Empty:
                return
            until_s = time.monotonic() + TRIES_S
            while number not in self.acknowledged and time.monotonic() < until_s:
                entry = self.entries[turn % ENTRIES]
                turn += 1
                self.put(number, entry)
            if number not in self.acknowledged:
                self.failures.append(f"blob {number} was not taken")
                return

    def put(self, number: int, entry: Member) -> None:
        """Put a blob once; one that breaks off is put again elsewhere."""
        with contextlib.suppress(OSError, HTTPException):
            answer = entry.client()("PUT", "/blob", body(number))
            if answer.status in (200, 201) and answer.whole:
                self.acknowledged[number] = (answer.body.decode().strip(), entry)
                return
            if answer.whole and answer.status not in (429, 503):  # else it was killed meanwhile
                self.failures.append(f"blob {number}: {answer}")
        self.retried += 1
        time.sleep(0.1)

    def run(self) -> list[threading.Thread]:
        """Begin."""
        threads = [threading.Thread(target=self.work, args=(n,)) for n in range(WRITERS)]
        for thread in threads:
            thread.start()
        return threads


def test_nothing_that_was_acknowledged_is_lost(crowd: Crowd, record_property: Record) -> None:
    rng, writers, restarts = random.Random(7), Writers(crowd.nodes[:ENTRIES]), 0
    for number in range(SMALL + LARGE):
        writers.left.put(number)
    began_s = time.monotonic()
    threads = writers.run()
    while any(thread.is_alive() for thread in threads):
        round_s = time.monotonic() + RESTART_S
        gone = rng.sample(crowd.nodes, max(1, len(crowd.nodes) // 10))
        crowd.kill(gone)
        for node in gone:
            node.start()
            restarts += 1
        while any(thread.is_alive() for thread in threads) and time.monotonic() < round_s:
            time.sleep(0.05)
    took_s = time.monotonic() - began_s
    assert not writers.failures, writers.failures[:3]
    assert len(writers.acknowledged) == SMALL + LARGE
    crowd.wait_joined(crowd.nodes)
    lost = read_all(crowd, writers)
    record_property(
        "summary",
        f"many blobs: {SMALL} small and {LARGE} large in {took_s:.0f} s through {ENTRIES} nodes, "
        f"{restarts} restarts, {writers.retried} puts tried again; {len(lost)} lost",
    )
    assert not lost


def read_all(crowd: Crowd, writers: Writers) -> list[int]:
    """Return the blobs that another node than the one that took them does not give."""
    lost: list[int] = []

    def read(part: int) -> None:
        for number, (cid, entry) in list(writers.acknowledged.items())[part::WRITERS]:
            reader = crowd.nodes[number % len(crowd.nodes)]
            if reader is entry:
                reader = crowd.nodes[(number + 5) % len(crowd.nodes)]
            if not is_given(reader, cid, body(number)):
                lost.append(number)

    threads = [threading.Thread(target=read, args=(part,)) for part in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return lost


def is_given(reader: Member, cid: str, wanted: bytes) -> bool:
    """Tell whether a node gives a blob; other bytes fail at once."""
    try:
        read = got(cid, reader)
    except AssertionError:
        return False
    assert read == wanted
    return True
