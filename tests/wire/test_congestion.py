"""Congestion controllers against the published formulas."""

import pytest

from molia.base.limits import CONGESTION_WINDOW_MAX
from molia.wire.congestion import CONTROLLERS, Congestion, Cubic, NewReno, SlowStart, start_window
from molia.wire.pacing import Pacer

SIZE = 1200


def acked(control: Congestion, size: int, now_s: float, rtt_s: float = 0.1) -> None:
    """Acknowledge `size` bytes that left one round trip ago."""
    control.on_acked(size, sent_s=now_s - rtt_s, now_s=now_s, rtt_s=rtt_s)


@pytest.mark.parametrize(("size", "window"), [(1200, 12_000), (1472, 14_720), (9000, 18_000)])
def test_a_new_path_gets_the_window_of_rfc_9002(size: int, window: int) -> None:
    assert start_window(size) == window
    assert NewReno(size).window == window


@pytest.mark.parametrize("name", sorted(CONTROLLERS))
def test_every_controller_keeps_the_promises_of_the_protocol(name: str) -> None:
    control: Congestion = CONTROLLERS[name](SIZE)
    acked(control, 12_000, 1.0)
    assert control.window == 24_000, "slow start doubles in a round trip"
    control.on_lost(sent_s=1.0, now_s=1.1)
    reduced = control.window
    assert reduced < 24_000
    phases = [control.in_slow_start]
    control.on_lost(sent_s=1.05, now_s=1.2)
    assert control.window == reduced, "one reduction for what left before it"
    acked(control, 50_000, 1.15)
    assert control.window == reduced, "no growth for what left before it"
    acked(control, reduced, 1.3)
    assert reduced < control.window <= reduced + 2 * SIZE, "about one datagram a round trip"
    control.on_persistent_congestion()
    assert control.window == 2 * SIZE
    assert [*phases, control.in_slow_start] == [False, True]
    for step in range(40):
        control.on_lost(sent_s=10.0 + step, now_s=10.5 + step)
    assert control.window == 2 * SIZE
    control.on_datagram_size(1472)
    assert control.window == 2 * 1472
    fresh: Congestion = CONTROLLERS[name](SIZE)
    for step in range(60):
        acked(fresh, fresh.window, 1.0 + step)
    assert fresh.window == CONGESTION_WINDOW_MAX


def test_newreno_grows_by_one_datagram_for_each_window() -> None:
    control = NewReno(SIZE)
    control.on_lost(sent_s=1.0, now_s=1.0)
    window = control.window
    for _ in range(10):
        acked(control, window // 10, 2.0)
    assert control.window == pytest.approx(window + SIZE, rel=0.02)


def test_cubic_follows_its_cubic_function() -> None:
    """RFC 9438 figure 1 and 2, at a round trip so short that the function leads, not Reno."""
    control = Cubic(SIZE)
    peak = 10_000.0
    control._window = peak * SIZE
    control.on_lost(sent_s=0.0, now_s=0.0)
    assert control.window == pytest.approx(0.7 * peak * SIZE)
    k_s = (peak * 0.3 / 0.4) ** (1 / 3)
    rtt_s, now_s = 0.2, 0.2
    acked(control, control.window, now_s, rtt_s)
    while now_s < 25.0:
        now_s += rtt_s / 10
        acked(control, control.window // 10, now_s, rtt_s)
        expected = 0.4 * (now_s - 0.2 - k_s) ** 3 + peak
        if now_s > 2.0:
            assert control.window / SIZE == pytest.approx(expected, rel=0.01)
    assert control.window / SIZE > peak


def test_cubic_is_no_slower_than_reno_would_be() -> None:
    """RFC 9438 4.3: on short paths with small windows the friendly estimate leads."""
    control = Cubic(SIZE)
    control._window = 20.0 * SIZE
    control.on_lost(sent_s=0.0, now_s=0.0)
    rtt_s, now_s = 0.01, 0.02
    start = control.window / SIZE
    for _ in range(10):
        acked(control, control.window, now_s, rtt_s)
        now_s += rtt_s
    assert control.window / SIZE == pytest.approx(start + 10 * 3 * 0.3 / 1.7, rel=0.02)


def test_cubic_gives_way_faster_when_the_peak_falls() -> None:
    control = Cubic(SIZE)
    control._window = 100.0 * SIZE
    control.on_lost(sent_s=0.0, now_s=0.0)
    assert control._peak == 100.0
    control.on_lost(sent_s=1.0, now_s=1.0)
    assert control._peak == pytest.approx(70 * 1.7 / 2)


def rounds(slow_start: SlowStart, rtts_s: list[float], samples: int = 10) -> int:
    """Play one round of samples for each round trip; return the rounds until it was done."""
    for played, rtt_s in enumerate(rtts_s):
        for sample in range(samples):
            number = played * samples + sample
            slow_start.on_rtt(rtt_s, acked=number, next_number=number + samples)
            if slow_start.done:
                return played
    return len(rtts_s)


def test_slow_start_ends_when_round_trips_grow() -> None:
    assert rounds(SlowStart(), [0.05] * 30) == 30
    assert rounds(SlowStart(), [0.05] * 4 + [0.06] * 20) <= 11
    assert rounds(SlowStart(), [0.05] * 4 + [0.06] + [0.05] * 20) == 25, "a passing delay"


def test_cautious_slow_start_grows_by_a_quarter() -> None:
    slow_start = SlowStart()
    assert slow_start.growth(4000) == 4000
    rounds(slow_start, [0.05, 0.05, 0.05, 0.06, 0.06])
    assert not slow_start.done
    assert slow_start.growth(4000) == 1000


def test_the_pacer_keeps_the_rate_and_lets_worthwhile_bursts_through() -> None:
    pacer, now_s, sent = Pacer(0.0), 0.0, 0
    rate, size = 50e6, 1376
    calls = 0
    while now_s < 1.0:
        count = min(pacer.allowance(rate=rate, size=size, now_s=now_s), 47)
        if count == 0:
            now_s = pacer.next_s(rate=rate, size=size)
            continue
        pacer.spend(count * size)
        sent, calls = sent + count * size, calls + 1
    assert sent == pytest.approx(rate, rel=0.01)
    assert sent / size / calls >= 30, "packets in a burst"


def test_a_slow_path_is_paced_packet_by_packet() -> None:
    pacer, size = Pacer(0.0), 1200
    assert pacer.allowance(rate=12_000, size=size, now_s=0.0) == 10
    pacer.spend(10 * size)
    assert pacer.allowance(rate=12_000, size=size, now_s=0.05) == 0
    due_s = pacer.next_s(rate=12_000, size=size)
    assert due_s == pytest.approx(0.1, abs=1e-5)
    assert pacer.allowance(rate=12_000, size=size, now_s=due_s) == 1
