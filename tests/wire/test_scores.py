"""Scores fade by half in ten minutes; their consequences last as long as they say."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base import limits
from molia.wire import scores
from molia.wire.scores import Offence, Reputation, Scores, Standing

KEY, NET = b"k" * 32, b"\x08\x00\x00"
POINTS = {
    "BAD_SIGNATURE": -50, "WRONG_ID": -50, "DEAD_CONTACTS": -20, "FLOOD": -10, "WRONG_BYTES": -25,
}  # fmt: skip


def test_every_offence_has_its_points() -> None:
    assert {offence.name: offence.points for offence in Offence} == POINTS


@given(st.lists(st.tuples(st.floats(0, 2000), st.sampled_from(Offence)), max_size=20))
def test_a_score_is_the_sum_of_its_faded_offences(script: list[tuple[float, Offence]]) -> None:
    table, now_s, done = Scores(), 0.0, []
    for wait_s, offence in script:
        now_s += wait_s
        table.add(KEY, offence, now_s)
        done.append((now_s, offence))
        expected = sum(o.points * 0.5 ** ((now_s - at_s) / 600) for at_s, o in done)
        assert table.value(KEY, now_s) == pytest.approx(expected)


def test_at_minus_50_an_identity_is_ignored_for_5_minutes() -> None:
    table = Scores()
    for _ in range(5):
        assert table.standing(KEY, 10.0) is Standing.GOOD
        table.add(KEY, Offence.FLOOD, 10.0)
    assert table.standing(KEY, 10.0) is Standing.IGNORED
    assert table.standing(KEY, 309.9) is Standing.IGNORED
    assert table.standing(KEY, 310.1) is Standing.GOOD


def test_at_minus_100_an_identity_is_blocked_for_an_hour() -> None:
    table = Scores()
    table.add(KEY, Offence.BAD_SIGNATURE, 10.0)
    table.add(KEY, Offence.WRONG_ID, 10.0)
    assert table.standing(KEY, 3609.9) is Standing.BLOCKED
    assert table.standing(KEY, 3610.1) is Standing.GOOD


def test_small_offences_far_apart_have_no_consequence() -> None:
    table = Scores()
    for n in range(1000):
        table.add(KEY, Offence.FLOOD, n * 200.0)
        assert table.standing(KEY, n * 200.0) is Standing.GOOD


def test_a_network_is_slowed_and_never_refused() -> None:
    reputation = Reputation()
    assert (reputation.slowness(NET, 0.0), reputation.extra_bits(NET, 0.0)) == (1, 0)
    for slowness, bits in ((2, 2), (4, 4), (4, 4)):
        offence = Offence.BAD_SIGNATURE
        reputation.penalise(peer_key=None, network=NET, offence=offence, now_s=0.0)
        assert (reputation.slowness(NET, 1.0), reputation.extra_bits(NET, 1.0)) == (slowness, bits)
    assert reputation.slowness(NET, 3601.0) == 1


def test_a_packet_in_anothers_name_does_not_count_against_that_name() -> None:
    reputation = Reputation()
    for _ in range(10):
        reputation.penalise(
            peer_key=None, network=NET, offence=Offence.BAD_SIGNATURE, now_s=0.0
        )  # fmt: skip
    assert reputation.standing(KEY, 0.0) is Standing.GOOD
    reputation.penalise(peer_key=KEY, network=NET, offence=Offence.WRONG_ID, now_s=0.0)
    assert reputation.standing(KEY, 0.0) is Standing.IGNORED
    assert reputation.standing(b"o" * 32, 0.0) is Standing.GOOD


def test_the_table_is_bounded_and_keeps_who_was_touched_last() -> None:
    table = Scores()
    for n in range(3 * limits.SCORES_MAX):
        table.add(n.to_bytes(4, "big"), Offence.BAD_SIGNATURE, 0.0)
        assert len(table) <= limits.SCORES_MAX
        if n % 1000 == 0:
            table.add(KEY, Offence.FLOOD, 0.0)
    assert table.standing(KEY, 0.0) is Standing.BLOCKED
    assert table.standing((3 * limits.SCORES_MAX - 1).to_bytes(4, "big"), 0.0) is Standing.IGNORED
    assert table.standing(bytes(4), 0.0) is Standing.GOOD


def test_times_that_go_back_do_no_harm() -> None:
    table = Scores()
    table.add(KEY, Offence.FLOOD, 100.0)
    assert table.value(KEY, 50.0) == Offence.FLOOD.points
    assert scores.HALF_LIFE_S == 600
