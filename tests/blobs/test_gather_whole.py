"""Small blobs from one of those that keep them."""

import heapq
import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base.errors import NoHolders, SharesOutOfReach
from molia.base.limits import WHOLE_SHARE
from molia.blobs.gather_whole import AskWhole, CancelWhole, Effect, GatherWhole, Whole
from molia.blobs.manifest import cid_of_bytes
from molia.blobs.one_read import Failed, Liar
from molia.blobs.sources import Source

DATA = b"a small blob" * 9
MANNERS = ("good", "wrong", "empty", "stale", "mute", "slow")


def key_of(number: int) -> bytes:
    """A node's key."""
    return bytes([number]) * 32


def source(number: int, *, rtt_s: float = 0.1, share: int = WHOLE_SHARE) -> Source:
    """A node that says it has the blob."""
    return Source(key_of(number), (share,), rtt_s)


def read(manners: list[str]) -> tuple[list[Effect], float]:
    """Read from nodes with these manners; return the effects and how long it took."""
    it = GatherWhole(cid_of_bytes(DATA), now_s=0.0)
    it.on_sources([source(n, rtt_s=0.1 + n / 100) for n in range(len(manners))], now_s=0.0)
    it.on_lookup_over(now_s=0.0)
    answers = {"good": DATA, "slow": DATA, "wrong": DATA + b"x", "empty": b""}
    queue: list[tuple[float, int, bytes]] = []
    order, now_s, seen = itertools.count(), 0.0, list[Effect]()
    while True:
        for effect in it.take_effects():
            seen.append(effect)
            if isinstance(effect, AskWhole) and manners[effect.key[0]] != "mute":
                wait_s = 3.0 if manners[effect.key[0]] == "slow" else 0.1
                heapq.heappush(queue, (now_s + wait_s, next(order), effect.key))
        if it.is_over:
            return seen, now_s
        deadline = it.next_deadline_s()
        now_s = min([*([] if deadline is None else [deadline]), *(row[0] for row in queue[:1])])
        if queue and queue[0][0] <= now_s:
            key = heapq.heappop(queue)[2]
            it.on_whole(key, answers.get(manners[key[0]]), now_s=now_s)
        else:
            it.on_deadline(now_s=now_s)


@given(st.lists(st.sampled_from(MANNERS), max_size=6))
def test_the_right_bytes_or_an_error_that_explains(manners: list[str]) -> None:
    seen, took_s = read(manners)
    able = [m for m in manners if m in ("good", "slow")]
    last = seen[-1]
    if able:
        assert last == Whole(DATA)
    elif manners:
        assert isinstance(last, Failed)
        assert isinstance(last.error, SharesOutOfReach)
        assert len(last.error.asked) == len(manners)
    else:
        assert isinstance(last, Failed)
        assert isinstance(last.error, NoHolders)
    assert took_s < 14


def test_one_is_asked_when_all_is_well() -> None:
    seen, took_s = read(["good"] * 5)
    assert [type(e) for e in seen] == [AskWhole, Whole]
    assert took_s == pytest.approx(0.1)


def test_a_late_one_is_not_waited_for() -> None:
    seen, took_s = read(["mute", "good"])
    assert took_s < 1
    assert seen[-2:] == [CancelWhole(key_of(0)), Whole(DATA)]


def test_a_liar_is_reported_and_not_asked_again() -> None:
    seen, _ = read(["wrong", "empty", "good"])
    liars = [e.key for e in seen if isinstance(e, Liar)]
    assert liars == [key_of(0), key_of(1)]


def test_who_has_a_share_only_is_no_source() -> None:
    it = GatherWhole(cid_of_bytes(DATA), now_s=0.0)
    it.on_sources([source(1, share=3)], now_s=0.0)
    it.on_whole(key_of(1), DATA, now_s=0.0)
    it.on_deadline(now_s=8.0)
    (failed,) = it.take_effects()
    assert isinstance(failed, Failed)
    assert isinstance(failed.error, NoHolders)


def test_a_node_that_sends_is_waited_for_longer() -> None:
    it = GatherWhole(cid_of_bytes(DATA), now_s=0.0)
    it.on_sources([source(1)], now_s=0.0)
    it.on_lookup_over(now_s=0.0)
    for now_s in range(1, 30):
        it.on_part(key_of(1), now_s=float(now_s))
        it.on_deadline(now_s=float(now_s))
        assert not it.is_over
    it.on_part(key_of(1), now_s=29.9)
    it.on_deadline(now_s=30.0)
    assert it.is_over
