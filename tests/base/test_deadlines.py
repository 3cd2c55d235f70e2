"""Named timers, compared with a list that is searched from end to end."""

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from molia.base.deadlines import DeadlineTable
from molia.base.now import Now

names, times = st.sampled_from("abcde"), st.integers(0, 20).map(float)


class Timers(RuleBasedStateMachine):
    """The table beside a list of (due, name) in the order of setting."""

    def __init__(self) -> None:
        super().__init__()
        self.table: DeadlineTable[str] = DeadlineTable()
        self.model: list[tuple[float, str]] = []

    @rule(name=names, at_s=times)
    def set(self, name: str, at_s: float) -> None:
        self.clear(name)
        self.table.set(name, at_s)
        self.model.append((at_s, name))

    @rule(name=names)
    def clear(self, name: str) -> None:
        self.table.clear(name)
        self.model = [entry for entry in self.model if entry[1] != name]

    @rule(now_s=times)
    def take_due(self, now_s: float) -> None:
        due = sorted((e for e in self.model if e[0] <= now_s), key=lambda entry: entry[0])
        assert self.table.take_due(now_s) == [name for _, name in due]
        self.model = [entry for entry in self.model if entry[0] > now_s]

    @invariant()
    def knows_the_earliest(self) -> None:
        assert len(self.table) == len(self.model)
        assert self.table.next_s() == min((at_s for at_s, _ in self.model), default=None)


TestTimers = Timers.TestCase


@given(st.floats(0, 1e9), st.floats(0, 1e10), st.floats(0, 1e6))
def test_both_clocks_go_on_together(mono_s: float, unix_s: float, seconds: float) -> None:
    later = Now(mono_s, unix_s).after(seconds)
    assert later == Now(mono_s + seconds, unix_s + seconds)


def test_wall_time_in_milliseconds_is_rounded_down() -> None:
    assert Now(0.0, 1.9999).unix_ms == 1999


def test_a_due_timer_comes_once() -> None:
    table: DeadlineTable[str] = DeadlineTable()
    table.set("a", 1.0)
    assert table.take_due(1.0) == ["a"]
    assert table.take_due(1.0) == []
    assert table.next_s() is None
