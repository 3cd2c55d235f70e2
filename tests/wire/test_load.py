"""Load, difficulty and the queue: thresholds, speeds of rise and fall, who is served first."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base import limits
from molia.wire import load
from molia.wire.load import HandshakeQueue, LoadMeter, PuzzleLevel


def run(meter: LoadMeter, *, share: float, seconds: float, start_s: float = 0.0) -> float:
    """Let handshakes of 200 us take a share of a core; return when they end."""
    count = int(seconds * share / 200e-6)
    for n in range(count):
        meter.on_handshake(start_s + n * seconds / count, cost_s=200e-6)
    return start_s + seconds


def test_a_node_is_under_load_above_its_share_of_a_core() -> None:
    for share, loaded in ((0.15, False), (0.19, False), (0.21, True), (1.0, True)):
        meter = LoadMeter(share=0.2)
        end_s = run(meter, share=share, seconds=5)
        assert meter.under_load(0, end_s) == loaded


def test_a_flood_is_seen_within_a_quarter_of_a_second() -> None:
    meter = LoadMeter(share=0.2)
    end_s = run(meter, share=1.0, seconds=0.25)
    assert meter.under_load(0, end_s)


def test_load_is_held_for_a_second() -> None:
    meter = LoadMeter(share=0.2)
    assert not meter.under_load(limits.LOADED_QUEUE - 1, 10.0)
    assert meter.under_load(limits.LOADED_QUEUE, 10.0)
    assert meter.under_load(0, 10.99)
    assert not meter.under_load(0, 11.01)


def test_capacity_follows_what_handshakes_cost() -> None:
    meter = LoadMeter(share=0.2)
    assert meter.capacity_per_s == pytest.approx(0.2 / load.FIRST_COST_S)
    for n in range(1000):
        meter.on_handshake(n, cost_s=400e-6)
    assert meter.capacity_per_s == pytest.approx(500, rel=0.01)


def test_a_handshake_whose_cost_was_not_measured_costs_what_others_did() -> None:
    meter, told = LoadMeter(share=0.2), LoadMeter(share=0.2)
    for n in range(2000):
        meter.on_handshake(n / 1000)
        told.on_handshake(n / 1000, cost_s=load.FIRST_COST_S)
        assert meter.under_load(0, n / 1000) == told.under_load(0, n / 1000)
    assert meter.capacity_per_s == told.capacity_per_s


@given(st.lists(st.tuples(st.floats(-1, 1e9), st.floats(0, 1e9)), max_size=30))
def test_no_measured_cost_breaks_the_meter(costs: list[tuple[float, float]]) -> None:
    meter = LoadMeter(share=0.2)
    for cost_s, now_s in costs:
        meter.on_handshake(now_s, cost_s=cost_s)
        meter.under_load(0, now_s)
        assert 20 <= meter.capacity_per_s <= 10_000


# ---------------------------------------------------------------------------- the level


def offer(level: PuzzleLevel, *, start_s: float, rate: float, under_load: bool) -> float:
    """Offer handshakes for one period at a capacity of 100 a second; return its end."""
    level.offered += int(rate * load.PERIOD_S)
    end_s = start_s + load.PERIOD_S
    level.update(end_s, under_load=under_load, capacity_per_s=100.0)
    return end_s


def test_an_idle_node_asks_for_nothing() -> None:
    level = PuzzleLevel()
    for n in range(100):
        assert level.update(n, under_load=False, capacity_per_s=100.0) == 0


def test_the_base_is_14_as_soon_as_the_node_is_under_load() -> None:
    level = PuzzleLevel()
    level.update(0.0, under_load=False, capacity_per_s=100.0)
    assert level.update(0.01, under_load=True, capacity_per_s=100.0) == 14


@pytest.mark.parametrize(
    ("rate", "bits"), [(50, 14), (100, 14), (101, 15), (200, 15), (201, 16), (1600, 18),
                       (10_000, 21), (10**6, 24)],
)  # fmt: skip
def test_bits_rise_at_once_with_the_excess(rate: int, bits: int) -> None:
    assert bits == min(24, 14 + math.ceil(math.log2(max(1, rate / 100))))
    level = PuzzleLevel()
    level.update(0.0, under_load=True, capacity_per_s=100.0)
    offer(level, start_s=0.0, rate=rate, under_load=True)
    assert level.bits == bits


def test_bits_fall_by_one_a_minute_and_end_at_0() -> None:
    level = PuzzleLevel()
    level.update(0.0, under_load=True, capacity_per_s=100.0)
    now_s = offer(level, start_s=0.0, rate=1600, under_load=True)
    seen = []
    for _ in range(int(19 * load.FALL_S / load.PERIOD_S)):
        now_s = offer(level, start_s=now_s, rate=1, under_load=False)
        seen.append(level.bits)
    per_minute = seen[11::12]
    assert per_minute == [17 - n for n in range(18)] + [0]


def test_bits_stay_while_the_excess_lasts() -> None:
    level = PuzzleLevel()
    level.update(0.0, under_load=True, capacity_per_s=100.0)
    now_s = 0.0
    for _ in range(60):
        now_s = offer(level, start_s=now_s, rate=400, under_load=True)
        assert level.bits == 16


def test_a_long_silence_counts_as_a_fall() -> None:
    level = PuzzleLevel()
    level.update(0.0, under_load=True, capacity_per_s=100.0)
    assert level.update(3600.0, under_load=False, capacity_per_s=100.0) == 0


# ---------------------------------------------------------------------------- the queue


@given(st.lists(st.integers(0, 24), max_size=60))
def test_most_effort_is_served_first_and_the_oldest_of_equals(efforts: list[int]) -> None:
    queue: HandshakeQueue[int] = HandshakeQueue()
    for n, effort in enumerate(efforts):
        assert queue.push(n, effort=effort, now_s=1.0)
    served = [queue.pop(1.0) for _ in efforts]
    assert served == sorted(range(len(efforts)), key=lambda n: (-efforts[n], n))
    assert (queue.pop(1.0), len(queue)) == (None, 0)


def test_a_full_queue_prefers_effort() -> None:
    queue: HandshakeQueue[str] = HandshakeQueue()
    for n in range(limits.HANDSHAKE_QUEUE_MAX):
        assert queue.push(f"cheap {n}", effort=14, now_s=1.0)
    assert not queue.push("as cheap", effort=14, now_s=1.0)
    assert not queue.push("free", effort=0, now_s=1.0)
    assert queue.push("dear", effort=15, now_s=1.0)
    assert (len(queue), queue.dropped) == (limits.HANDSHAKE_QUEUE_MAX, 3)
    assert [queue.pop(1.0), queue.pop(1.0)] == ["dear", "cheap 0"]
    left = [queue.pop(1.0) for _ in range(limits.HANDSHAKE_QUEUE_MAX)]
    assert f"cheap {limits.HANDSHAKE_QUEUE_MAX - 1}" not in left


def test_who_waited_too_long_is_not_served() -> None:
    queue: HandshakeQueue[str] = HandshakeQueue()
    queue.push("old", effort=3, now_s=0.0)
    queue.push("new", effort=3, now_s=limits.HANDSHAKE_WAIT_S)
    assert queue.pop(limits.HANDSHAKE_WAIT_S + 0.1) == "new"
    assert (queue.expired, len(queue)) == (1, 0)
