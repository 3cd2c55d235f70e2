"""Loss recovery against an oracle that keeps one row for each packet, and RFC 9002's numbers."""

import random
from collections.abc import Sequence

import hypothesis.strategies as st
import pytest
from hypothesis import given

from molia.base.limits import PACKET_THRESHOLD_MAX
from molia.wire.recovery import Recovery, RttEstimator, Span


def burst(recovery: Recovery, count: int, now_s: float, size: int = 1200) -> Span:
    """Send `count` packets in one burst that carry 1000 bytes each."""
    first = recovery.next_number
    span = Span(first, first + count, now_s, size, size, 4, first * 1000, 1000,
                (first + count) * 1000)  # fmt: skip
    recovery.on_sent(span)
    return span


def ack(recovery: Recovery, *runs: tuple[int, int], now_s: float) -> tuple[set[int], set[int]]:
    """Return the numbers that an acknowledgement settled: arrived, lost."""
    settled = recovery.on_ack(runs, ack_delay_s=0, now_s=now_s)
    return numbers(settled.acked), numbers(settled.lost)


def numbers(spans: Sequence[Span]) -> set[int]:
    """Return the packet numbers of spans."""
    return {number for span in spans for number in range(span.first, span.stop)}


def test_the_first_sample_sets_everything() -> None:
    rtt = RttEstimator(0.333)
    assert rtt.probe_timeout_s == pytest.approx(0.333 + 4 * 0.1665 + 0.025)
    rtt.on_sample(0.1, ack_delay_s=0.02, now_s=1.0)
    assert (rtt.min_s, rtt.smoothed_s, rtt.variation_s) == (0.1, 0.1, 0.05)


def test_later_samples_are_smoothed_as_the_rfc_says() -> None:
    rtt = RttEstimator(0.333)
    rtt.on_sample(0.1, ack_delay_s=0, now_s=1.0)
    rtt.on_sample(0.2, ack_delay_s=0.02, now_s=2.0)
    assert rtt.variation_s == pytest.approx(0.75 * 0.05 + 0.25 * abs(0.1 - 0.18))
    assert rtt.smoothed_s == pytest.approx(7 / 8 * 0.1 + 0.18 / 8)
    rtt.on_sample(0.11, ack_delay_s=5.0, now_s=3.0)  # would fall below the minimum: not adjusted
    assert rtt.min_s == 0.1
    assert rtt.latest_s == 0.11


def test_three_packets_later_a_missing_one_is_lost() -> None:
    recovery = Recovery(0.1)
    burst(recovery, 10, 0.0)
    assert ack(recovery, (2, 4), (0, 1), now_s=0.1) == ({0, 2, 3}, set())
    assert ack(recovery, (4, 5), now_s=0.1) == ({4}, {1})
    assert recovery.in_flight == 5 * 1200


def test_a_packet_is_lost_by_time_when_a_later_one_arrived() -> None:
    recovery = Recovery(0.1)
    burst(recovery, 2, 0.0)
    assert ack(recovery, (1, 2), now_s=0.1) == ({1}, set())
    due_s = recovery.next_deadline_s()
    assert due_s == pytest.approx(0.1 * 9 / 8)
    assert due_s is not None
    lost = recovery.on_deadline(due_s)
    assert lost is not None
    assert numbers(lost) == {0}
    assert (recovery.in_flight, recovery.next_deadline_s()) == (0, None)


def test_packets_after_the_largest_acknowledged_are_never_lost() -> None:
    recovery = Recovery(0.1)
    burst(recovery, 20, 0.0)
    assert ack(recovery, (0, 8), now_s=50.0)[1] == set()
    assert recovery.in_flight == 12 * 1200


def test_the_probe_timeout_doubles_and_an_acknowledgement_resets_it() -> None:
    recovery = Recovery(0.1)
    burst(recovery, 1, 0.0)
    base_s = 0.1 + 4 * 0.05 + 0.025
    for doublings in range(3):
        due_s = recovery.next_deadline_s()
        assert due_s == pytest.approx(base_s * 2**doublings)
        assert recovery.on_deadline(base_s * 2**doublings) is None
    burst(recovery, 1, 3.0)
    ack(recovery, (0, 2), now_s=3.1)
    assert recovery.pto_count == 0
    assert recovery.next_deadline_s() is None


def test_losses_over_three_probe_timeouts_are_persistent_congestion() -> None:
    recovery = Recovery(0.1)
    burst(recovery, 1, 0.0)
    ack(recovery, (0, 1), now_s=0.1)
    limit_s = recovery.rtt.probe_timeout_s * 3
    for at_s in (1.0, 1.0 + limit_s / 2, 1.001 + limit_s):
        burst(recovery, 1, at_s)
    lost = [Span(n, n + 1, at, 1, 1) for n, at in enumerate((1.0, 1.5, 1.001 + limit_s), start=1)]
    assert recovery.is_persistent(lost)
    assert not recovery.is_persistent(lost[:2])
    apart = [lost[0], Span(5, 6, 1.001 + limit_s, 1, 1)]
    assert not recovery.is_persistent(apart), "an acknowledged packet lay between them"
    early = [Span(1, 2, 0.01, 1, 1), Span(2, 3, 9.0, 1, 1)]
    assert not recovery.is_persistent(early), "the first left before the first sample"


def test_a_late_arrival_makes_it_slower_to_give_packets_up() -> None:
    recovery = Recovery(0.1)
    burst(recovery, 40, 0.0)
    assert ack(recovery, (20, 21), now_s=0.1)[1] == set(range(18))
    settled = recovery.on_ack([(0, 21)], ack_delay_s=0, now_s=0.11)
    assert settled.spurious
    assert recovery.packet_threshold == 21
    assert recovery.time_threshold > 9 / 8
    for _ in range(20):
        burst(recovery, 1000, 1.0)
        ack(recovery, (recovery.next_number - 1, recovery.next_number), now_s=1.1)
        ack(recovery, (0, recovery.next_number), now_s=1.1)
    assert recovery.packet_threshold <= PACKET_THRESHOLD_MAX
    assert recovery.time_threshold <= 2.0


def test_what_was_lost_long_ago_is_not_watched_for() -> None:
    recovery = Recovery(0.1)
    burst(recovery, 10, 0.0)
    ack(recovery, (5, 10), now_s=0.1)
    assert len(recovery._lost_numbers) == 1
    for _ in range(3):
        first = recovery.next_number
        burst(recovery, 1_000, 1.0)
        ack(recovery, (first, first + 1_000), now_s=1.1)
    assert len(recovery._lost_numbers) == 0
    assert recovery.packet_threshold == 3


def test_packets_of_the_old_path_do_not_measure_the_new_one() -> None:
    recovery = Recovery(0.1)
    burst(recovery, 2, 0.0)
    recovery.on_path_changed(0.05)
    burst(recovery, 1, 0.1)
    assert not recovery.on_ack([(0, 2)], ack_delay_s=0, now_s=0.2).rtt_sampled
    assert recovery.on_ack([(2, 3)], ack_delay_s=0, now_s=0.4).rtt_sampled
    assert recovery.rtt.smoothed_s == pytest.approx(0.3)


def test_a_cut_span_carries_its_part_of_the_stream() -> None:
    span = Span(10, 14, 1.0, 1200, 700, 4, 5000, 1000, 8500, is_end=True)
    middle = span.cut(11, 13)
    assert (middle.offset, middle.end, middle.is_end, middle.last_size) == (6000, 8000, False, 1200)
    tail = span.cut(12, 14)
    assert (tail.offset, tail.end, tail.is_end, tail.bytes_in_flight) == (7000, 8500, True, 1900)


class PlainLedger:
    """RFC 9002 appendix A with one row for each packet."""

    def __init__(self) -> None:
        self.rows: dict[int, float] = {}
        self.largest = -1

    def on_ack(
        self, acked: set[int], now_s: float, delay_s: float, threshold: int
    ) -> tuple[set[int], set[int]]:
        """Return the numbers that arrived and that are lost."""
        fresh = acked & set(self.rows)
        self.largest = max(self.largest, *acked)
        for number in fresh:
            del self.rows[number]
        lost = {
            number for number, sent_s in self.rows.items()
            if number < self.largest
            and (sent_s + delay_s <= now_s or self.largest >= number + threshold)
        }  # fmt: skip
        for number in lost:
            del self.rows[number]
        return fresh, lost


@given(seed=st.integers(0, 2**32))
def test_the_ledger_of_bursts_equals_one_row_for_each_packet(seed: int) -> None:
    rng = random.Random(seed)
    recovery, plain, now_s = Recovery(0.1), PlainLedger(), 0.0
    for _ in range(30):
        now_s += rng.choice((0.0, 0.003, 0.05, 0.15))
        if rng.random() < 0.5 or not recovery.next_number:
            recovery.next_number += rng.random() < 0.1  # a number left out
            span = burst(recovery, rng.choice((1, 2, 5, 47)), now_s)
            plain.rows |= dict.fromkeys(range(span.first, span.stop), now_s)
            continue
        picked = {n for n in range(recovery.next_number) if rng.random() < 0.7}
        picked.add(rng.randrange(recovery.next_number))
        runs = runs_of(picked)
        settled = recovery.on_ack(runs, ack_delay_s=0, now_s=now_s)
        delay_s = max(0.001, recovery.time_threshold
                      * max(recovery.rtt.latest_s, recovery.rtt.smoothed_s))  # fmt: skip
        fresh, lost = plain.on_ack(picked, now_s, delay_s, recovery.packet_threshold)
        assert numbers(settled.acked) == fresh
        assert numbers(settled.lost) == lost
        assert recovery.in_flight == 1200 * len(plain.rows)
        for span in settled.acked + settled.lost:
            assert (span.offset, span.end) == (span.first * 1000, span.stop * 1000)


def runs_of(picked: set[int]) -> list[tuple[int, int]]:
    """Return the runs of consecutive numbers, highest first."""
    runs: list[tuple[int, int]] = []
    for number in sorted(picked, reverse=True):
        if runs and runs[-1][0] == number + 1:
            runs[-1] = (number, runs[-1][1])
        else:
            runs.append((number, number + 1))
    return runs
