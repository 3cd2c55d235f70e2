"""Intervals do what a plain set of numbers does."""

import itertools

import hypothesis.strategies as st
from hypothesis import given

from molia.wire.intervals import Intervals

ranges = st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda p: (p[0], p[0] + p[1]))
steps = st.lists(st.tuples(st.sampled_from(["add", "remove", "below"]), ranges), max_size=40)


def spelled(intervals: Intervals) -> set[int]:
    """Return every number of the set."""
    return {number for start, stop in intervals for number in range(start, stop)}


@given(steps=steps, window=ranges)
def test_intervals_equal_a_set_of_numbers(
    steps: list[tuple[str, tuple[int, int]]], window: tuple[int, int]
) -> None:
    ours, plain = Intervals(), set[int]()
    for verb, (start, stop) in steps:
        numbers = set(range(start, stop))
        if verb == "add":
            ours.add(start, stop)
            plain |= numbers
        elif verb == "remove":
            ours.remove(start, stop)
            plain -= numbers
        else:
            ours.drop_below(start)
            plain = {number for number in plain if number >= start}
        assert spelled(ours) == plain
        pairs = list(ours)
        assert all(start < stop for start, stop in pairs)
        assert all(a[1] < b[0] for a, b in itertools.pairwise(pairs)), "they never touch"
        assert list(ours.newest_first()) == pairs[::-1]
        assert (ours.first, ours.last) == ((pairs[0], pairs[-1]) if pairs else (None, None))
    inside = {n for start, stop in ours.overlaps(*window) for n in range(start, stop)}
    assert inside == plain & set(range(*window))
    assert all((number in ours) == (number in plain) for number in range(80))
