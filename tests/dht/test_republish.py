"""Own records stay where readers look, whatever the clock does."""

from collections import Counter
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from molia.base.limits import OWN_RECORDS_MAX, REPUBLISH_FLIGHT_MAX
from molia.base.now import Now
from molia.dht.blinding import EDGE_S, PERIOD_S
from molia.dht.republish import LOST_S, REPEAT_S, Republisher, period_of
from molia.sim.entropy import SeededEntropy

START = Now(1_000.0, 1_750_000_000.0)
HOUR = 3_600.0


def republisher(seed: int = 1) -> Republisher:
    """Return an empty schedule."""
    return Republisher(entropy=SeededEntropy(seed))


def with_records(count: int, *, seed: int = 1) -> Republisher:
    """Return a schedule of records that were put over the 8 h before the start."""
    core = republisher(seed)
    for n in range(count):
        stored = START.after(-REPEAT_S * 0.85 * n / count)
        core.add(b"%d" % n, stored, offset_s=(n * 7_919) % PERIOD_S, is_stored=True)
    return core


def offset_of(name: bytes) -> int:
    """Return the offset that `with_records` gave a name."""
    return (int(name) * 7_919) % PERIOD_S


class Day:
    """Drives a schedule through time and remembers each put."""

    def __init__(self, core: Republisher, now: Now = START) -> None:
        self.core, self.now = core, now
        self.puts: list[tuple[float, float, bytes]] = []
        self.most_out = 0

    def run(self, seconds: float, *, ok: bool = True) -> None:
        """Let time pass from deadline to deadline; each put takes 2 s."""
        stop_s = self.now.mono_s + seconds
        while (wake_s := self.core.next_deadline_s()) is not None and wake_s <= stop_s:
            self.now = self.now.after(max(0.0, wake_s - self.now.mono_s))
            names = self.core.due(self.now)
            self.most_out = max(self.most_out, len(names))
            self.puts += [(self.now.mono_s, self.now.unix_s, name) for name in names]
            self.now = self.now.after(2.0 if names else 0.0)
            for name in names:
                self.core.on_done(name, self.now, ok=ok)
        self.now = self.now.after(max(0.0, stop_s - self.now.mono_s))


def test_each_record_is_put_about_every_8_h() -> None:
    day = Day(with_records(50))
    day.run(72 * HOUR)
    for name, count in Counter(name for _, _, name in day.puts).items():
        times = [at for at, _, put in day.puts if put == name]
        assert max(b - a for a, b in pairwise(times)) <= REPEAT_S + 60
        assert 9 <= count <= 15, name


def test_a_record_lies_at_both_periods_an_hour_before_the_period_changes() -> None:
    day = Day(with_records(40))
    day.run(72 * HOUR)
    for n in range(40):
        name = b"%d" % n
        for change in range(1, 3):
            period = period_of(START.unix_s, offset_of(name)) + change
            begins = period * PERIOD_S - offset_of(name)
            early = [at for _, at, put in day.puts if put == name and 0 <= begins - at <= EDGE_S]
            assert begins < START.unix_s + EDGE_S or any(begins - at >= HOUR - 60 for at in early)


def test_a_failed_put_is_tried_again_ever_more_slowly() -> None:
    core = republisher()
    core.add(b"a", START, offset_s=0)
    day = Day(core)
    day.run(12 * HOUR, ok=False)
    waits = [b[0] - a[0] for a, b in pairwise(day.puts)]
    assert 15 <= waits[0] <= 32
    assert waits[9] > 1_000
    assert max(waits) <= HOUR + 2
    assert core.failures == len(day.puts)


def test_a_put_whose_end_nobody_tells_counts_as_failed() -> None:
    core = republisher()
    core.add(b"a", START, offset_s=0)
    assert core.due(START) == [b"a"]
    assert core.due(START.after(LOST_S - 1)) == []
    assert core.next_deadline_s() == START.mono_s + LOST_S
    assert core.due(START.after(LOST_S)) == []
    assert core.failures == 1
    assert core.due(START.after(LOST_S + 30)) == [b"a"]


def test_many_late_records_come_a_few_at_a_time() -> None:
    core = republisher()
    for n in range(500):
        core.add(b"%d" % n, START, offset_s=n)
    day = Day(core)
    day.run(HOUR)
    assert day.most_out == REPUBLISH_FLIGHT_MAX
    assert len({name for _, _, name in day.puts}) == len(day.puts) == 500
    assert day.puts[-1][0] - day.puts[0][0] >= 100


@given(jump_h=st.sampled_from([-30, -25, -1, 1, 7, 25]), seed=st.integers(0, 99))
def test_a_clock_that_jumps_makes_no_storm_and_loses_nothing(jump_h: int, seed: int) -> None:
    day = Day(with_records(64, seed=seed))
    day.run(2 * HOUR)
    before = len(day.puts)
    day.now = Now(day.now.mono_s, day.now.unix_s + jump_h * HOUR)
    day.run(HOUR)
    if abs(jump_h) == 1:
        assert len(day.puts) - before <= 64 * 0.45
    day.run(8 * HOUR)
    assert {name for _, _, name in day.puts[before:]} == {b"%d" % n for n in range(64)}
    assert day.core.jumps <= 1 + (jump_h < 0)
    for n in range(64):
        name = b"%d" % n
        last = max(at for _, at, put in day.puts if put == name)
        here = period_of(day.now.unix_s, offset_of(name))
        assert here <= period_of(last + EDGE_S, offset_of(name)), "it lies where readers look"


def test_a_schedule_goes_on_after_a_restart() -> None:
    day = Day(with_records(100))
    day.run(2 * HOUR)
    state = day.core.encode(day.now)
    later = Now(5.0, day.now.unix_s + 600)
    core = republisher(2)
    assert core.restore(state, later)
    assert len(core) == 100
    core.add(b"0", later, offset_s=0)
    again = Day(core, later)
    again.run(0.9 * HOUR)
    assert len(again.puts) < 40, "nothing starts over"
    again.run(7.2 * HOUR)
    assert len({name for _, _, name in again.puts}) == 100, "and nothing is forgotten"


def test_a_node_that_was_away_for_two_days_puts_all_it_owns() -> None:
    state = with_records(40).encode(START)
    later = Now(5.0, START.unix_s + 48 * HOUR)
    core = republisher(2)
    assert core.restore(state, later)
    day = Day(core, later)
    day.run(120)
    assert len({name for _, _, name in day.puts}) == 40


@given(at=st.integers(0), bit=st.integers(0, 7))
def test_a_damaged_schedule_is_refused_whole(at: int, bit: int) -> None:
    state = bytearray(with_records(3).encode(START))
    state[at % len(state)] ^= 1 << bit
    core = republisher()
    assert not core.restore(bytes(state), START)
    assert not core.restore(bytes(state[: at % len(state)]), START)
    assert len(core) == 0


@given(st.binary(max_size=200))
def test_any_bytes_are_refused(state: bytes) -> None:
    assert not republisher().restore(state, START)


def test_a_removed_record_is_put_no_more() -> None:
    core = republisher()
    core.add(b"a", START, offset_s=0)
    core.add(b"b", START, offset_s=0)
    assert core.due(START) == [b"a", b"b"]
    core.remove(b"a")
    core.on_done(b"a", START, ok=True)
    core.remove(b"b")
    assert core.next_deadline_s() is None


def test_records_are_bounded() -> None:
    core = republisher()
    added = [core.add(b"%d" % n, START, offset_s=0) for n in range(OWN_RECORDS_MAX + 1)]
    assert added.count(False) == 1
    assert not added[-1]
