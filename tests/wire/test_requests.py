"""Requests end once, whatever the path does; replies count from the right peer alone."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base import limits
from molia.base.errors import Busy
from molia.sim.entropy import SeededEntropy
from molia.wire.requests import HEAD, REPLY, REQUEST, Answered, Ended, Outcome, Requests, pack
from molia.wire.rtt import HARD_MIN_S, HARD_UNKNOWN_S, SOFT_MAX_S, SOFT_MIN_S, RttTable


def new() -> Requests[str]:
    return Requests(SeededEntropy(1))


def test_a_request_is_one_frame_and_its_reply_ends_it() -> None:
    requests = new()
    request_id = requests.ask("ann", 64, b"where", now_s=0.0)
    ((peer, frame),) = requests.take_sends()
    assert peer == "ann"
    assert HEAD.unpack_from(frame) == (REQUEST, len(frame) - 3, request_id, 64)
    assert frame[HEAD.size :] == b"where"
    requests.on_reply("ann", request_id, 65, b"here", now_s=0.07)
    assert requests.take_ended() == [Ended(request_id, "ann", Outcome.REPLIED, 65, b"here")]
    assert requests.rtt.smoothed_s("ann") == pytest.approx(0.07)
    assert (len(requests), requests.next_deadline_s()) == (0, None)


def test_a_reply_by_another_peer_or_to_another_question_counts_for_nothing() -> None:
    requests = new()
    request_id = requests.ask("ann", 64, b"", now_s=0.0)
    requests.on_reply("bob", request_id, 64, b"", now_s=0.1)
    requests.on_reply("ann", request_id + 1, 64, b"", now_s=0.1)
    assert (requests.unexpected, requests.take_ended(), len(requests)) == (2, [], 1)


def test_what_is_lost_is_sent_again_with_doubling_waits_and_then_given_up() -> None:
    requests = new()
    requests.ask("ann", 64, b"x", now_s=0.0, timeout_s=20.0)
    sent_at: list[float] = []
    now_s = 0.0
    while True:
        sent_at += [now_s for _ in requests.take_sends()]
        due_s = requests.next_deadline_s()
        if due_s is None:
            break
        now_s = due_s
        requests.on_deadline(now_s)
    assert sent_at == [0.0, SOFT_MAX_S, SOFT_MAX_S * 3]
    assert now_s == 20.0
    assert [ended.outcome for ended in requests.take_ended()] == [Outcome.TIMED_OUT]


def test_a_late_reply_still_counts_and_a_repeated_request_gives_no_sample() -> None:
    requests = new()
    request_id = requests.ask("ann", 64, b"x", now_s=0.0, timeout_s=20.0)
    requests.on_deadline(1.0)
    requests.on_reply("ann", request_id, 64, b"late", now_s=9.0)
    assert requests.take_ended()[0].body == b"late"
    assert requests.rtt.smoothed_s("ann") is None, "Karn: nobody knows which one was answered"


def test_requests_to_a_lost_peer_end_and_those_to_others_go_on() -> None:
    requests = new()
    first = requests.ask("ann", 64, b"", now_s=0.0)
    requests.ask("bob", 64, b"", now_s=0.0)
    requests.on_peer_lost("ann")
    requests.on_peer_lost("ann")
    assert requests.take_ended() == [Ended(first, "ann", Outcome.PEER_LOST)]
    assert len(requests) == 1


def test_a_cancelled_request_is_not_sent_again_and_ends_silently() -> None:
    requests = new()
    request_id = requests.ask("ann", 64, b"", now_s=0.0)
    requests.take_sends()
    requests.cancel(request_id)
    requests.cancel(request_id)
    requests.on_deadline(100.0)
    assert (requests.take_sends(), requests.take_ended(), len(requests)) == ([], [], 0)


def test_the_table_is_bounded_for_a_peer_and_for_all() -> None:
    requests = new()
    for _ in range(limits.REQUESTS_PER_PEER_MAX):
        requests.ask("ann", 64, b"", now_s=0.0)
    with pytest.raises(Busy):
        requests.ask("ann", 64, b"", now_s=0.0)
    others = limits.REQUESTS_MAX - limits.REQUESTS_PER_PEER_MAX
    for number in range(others):
        requests.ask(f"peer {number}", 64, b"", now_s=0.0)
    with pytest.raises(Busy):
        requests.ask("bob", 64, b"", now_s=0.0)


def test_a_fast_asker_does_not_fill_memory_with_timers_of_what_has_ended() -> None:
    requests = new()
    for number in range(5 * limits.REQUESTS_MAX):
        request_id = requests.ask("ann", 64, b"", now_s=number * 1e-6)
        requests.on_reply("ann", request_id, 64, b"", now_s=number * 1e-6)
    assert len(requests._due) <= 2 * limits.REQUESTS_MAX + 1


@given(seed=st.integers(0, 2**32), loss=st.floats(0.0, 0.9))
def test_every_request_ends_exactly_once_on_any_path(seed: int, loss: float) -> None:
    rng, requests = random.Random(seed), new()
    asked = {
        requests.ask(f"peer {number % 3}", 64, b"", now_s=0.0, timeout_s=5.0): number
        for number in range(20)
    }
    ended: list[int] = []
    now_s = 0.0
    while (due_s := requests.next_deadline_s()) is not None:
        for peer, frame in requests.take_sends():
            request_id = HEAD.unpack_from(frame)[2]
            for _ in range(rng.choice([1, 1, 2])):  # the path may also double it
                if rng.random() >= loss:
                    requests.on_reply(peer, request_id, 64, b"", now_s=now_s)
        ended += [end.request_id for end in requests.take_ended()]
        now_s = max(now_s, due_s)
        requests.on_deadline(now_s)
        ended += [end.request_id for end in requests.take_ended()]
    assert sorted(ended) == sorted(asked)


def test_what_was_done_once_is_answered_from_memory_and_memory_is_bounded() -> None:
    answered: Answered[str] = Answered()
    assert answered.find("ann", 7) is None
    answered.note("ann", 7, b"", now_s=0.0)
    assert answered.find("ann", 7) == b"", "still at work: not to be begun again"
    answered.note("ann", 7, b"done", now_s=0.1)
    assert answered.find("ann", 7) == b"done"
    assert answered.find("bob", 7) is None
    for number in range(limits.ANSWERS_MAX + 10):
        answered.note("cy", number, b"x", now_s=1.0)
    assert len(answered) == limits.ANSWERS_MAX
    size = limits.ANSWERS_BYTES_MAX // 4
    for number in range(6):
        answered.note("dan", number, bytes(size), now_s=2.0)
    assert answered.find("dan", 1) is None
    assert answered.find("dan", 5) is not None
    answered.note("eve", 1, b"", now_s=2.0 + limits.ANSWERS_KEEP_S + 0.1)
    assert len(answered) == 1


def test_estimates_follow_rfc_6298() -> None:
    table: RttTable[str] = RttTable()
    table.add("ann", 0.2)
    assert table.soft_timeout_s("ann") == pytest.approx(0.2 + 4 * 0.1)
    table.add("ann", 0.3)
    var_s = 0.1 + (abs(0.2 - 0.3) - 0.1) / 4
    assert table.soft_timeout_s("ann") == pytest.approx(0.2 + 0.1 / 8 + 4 * var_s)


@given(samples=st.lists(st.floats(0.0, 30.0), max_size=400))
def test_timeouts_of_strangers_stay_within_their_bounds(samples: list[float]) -> None:
    table: RttTable[int] = RttTable()
    for number, sample in enumerate(samples):
        table.add(number, sample)
    assert SOFT_MIN_S <= table.soft_timeout_s(-1) <= SOFT_MAX_S
    kept = sorted(samples[-limits.RTT_SAMPLES :])
    highest_s = max(kept) if len(kept) >= 8 else HARD_UNKNOWN_S / 2
    assert HARD_MIN_S <= table.hard_timeout_s() <= max(HARD_MIN_S, 2 * highest_s)


def test_strangers_get_the_ninth_decile_of_what_others_took() -> None:
    table: RttTable[int] = RttTable()
    for number in range(100):
        table.add(number, 0.1 + number / 1000)
    assert table.soft_timeout_s(-1) == pytest.approx(0.19)


def test_the_table_of_estimates_forgets_who_answered_longest_ago() -> None:
    table: RttTable[int] = RttTable()
    for number in range(limits.RTT_PEERS_MAX + 5):
        table.add(number, 0.1)
    assert len(table) == limits.RTT_PEERS_MAX
    assert table.smoothed_s(0) is None


def test_a_reply_has_the_frame_of_a_request_with_another_type() -> None:
    assert pack(REPLY, 1, 65, b"ab").hex() == "040b000100000000000000416162"
