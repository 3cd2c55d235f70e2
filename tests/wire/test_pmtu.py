"""The search for the path's MTU, against paths that carry exactly so much."""

import hypothesis.strategies as st
from hypothesis import given

from molia.base.limits import UDP_PAYLOAD_BASE, UDP_PAYLOAD_MAX
from molia.wire.pmtu import BLACK_HOLE_EVENTS, PROBES_MAX, STEP, PathMtu


def search(pmtu: PathMtu, carries: int, now_s: float) -> list[int]:
    """Play probes against a path until there are none; return their sizes."""
    probed: list[int] = []
    while (size := pmtu.wanted(now_s)) is not None:
        pmtu.on_probe_sent()
        assert pmtu.wanted(now_s) is None, "one probe at a time"
        probed.append(size)
        if size <= carries:
            pmtu.on_probe_acked(size)
        else:
            pmtu.on_probe_lost(size)
    return probed


@given(carries=st.integers(UDP_PAYLOAD_BASE, 1600))
def test_the_search_ends_near_what_the_path_carries(carries: int) -> None:
    pmtu = PathMtu(UDP_PAYLOAD_MAX)
    probed = search(pmtu, carries, 0.0)
    assert UDP_PAYLOAD_BASE <= pmtu.size <= carries
    assert min(carries, UDP_PAYLOAD_MAX) - pmtu.size < STEP
    assert len(probed) <= PROBES_MAX * 6
    assert all(probed.count(size) <= PROBES_MAX for size in probed)


def test_a_probe_that_is_lost_once_is_tried_again() -> None:
    pmtu = PathMtu(UDP_PAYLOAD_MAX)
    for _ in range(PROBES_MAX - 1):
        assert pmtu.wanted(0.0) == UDP_PAYLOAD_MAX
        pmtu.on_probe_sent()
        pmtu.on_probe_lost(UDP_PAYLOAD_MAX)
    assert search(pmtu, 1500, 0.0) == [UDP_PAYLOAD_MAX]


def test_larger_sizes_are_tried_again_after_ten_minutes() -> None:
    pmtu = PathMtu(UDP_PAYLOAD_MAX)
    search(pmtu, 1300, 0.0)
    assert search(pmtu, 1500, 599.0) == []
    assert search(pmtu, 1500, 601.0) == [UDP_PAYLOAD_MAX]
    assert pmtu.size == UDP_PAYLOAD_MAX


def test_a_black_hole_needs_losses_with_no_arrival_between() -> None:
    pmtu = PathMtu(UDP_PAYLOAD_MAX)
    search(pmtu, 1500, 0.0)
    for _ in range(20):
        for _ in range(BLACK_HOLE_EVENTS - 1):
            assert not pmtu.on_large(arrived=False, lost=True, now_s=1.0)
        assert not pmtu.on_large(arrived=True, lost=True, now_s=1.0)
    fell = [pmtu.on_large(arrived=False, lost=True, now_s=1.0) for _ in range(BLACK_HOLE_EVENTS)]
    assert fell == [False] * (BLACK_HOLE_EVENTS - 1) + [True]
    assert pmtu.size == UDP_PAYLOAD_BASE
    assert pmtu.wanted(60.0) is None
    assert pmtu.wanted(61.5) == UDP_PAYLOAD_MAX


def test_a_ceiling_at_the_base_turns_the_search_off() -> None:
    assert search(PathMtu(UDP_PAYLOAD_BASE), 1500, 0.0) == []
