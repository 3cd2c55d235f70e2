"""Elastic parity: how much, and the supplement that lists it."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base import limits
from molia.base.cid import Cid, Codec
from molia.blobs.elastic import (
    WATCHES_MIN,
    Supplement,
    copies_wanted,
    readable,
    shares_wanted,
)

CID = Cid(Codec.MANIFEST, bytes(range(32)))


@pytest.mark.parametrize(("p", "shares"), [(0.99, 14), (0.9, 14), (0.8, 22), (0.5, 20)])
def test_readable_equals_a_count_of_trials(p: float, shares: int) -> None:
    rng = random.Random(7)
    trials = 4_000
    hits = sum(sum(rng.random() < p for _ in range(shares)) >= 10 for _ in range(trials))
    assert readable(p, shares) == pytest.approx(hits / trials, abs=0.03)


@pytest.mark.parametrize(
    ("percent", "shares"), [(100, 14), (99, 14), (95, 15), (90, 18), (80, 22), (70, 27), (5, 64)]
)
def test_flaky_holders_ask_for_more_parity(percent: int, shares: int) -> None:
    assert shares_wanted(reached=percent * 10, asked=1_000, present=14) == shares
    wanted = shares_wanted(reached=percent * 10, asked=1_000, present=14)
    assert wanted == limits.SHARES_MAX or readable(percent / 100, wanted) >= 0.9999


def test_parity_is_only_added_and_not_on_a_hunch() -> None:
    assert shares_wanted(reached=1_000, asked=1_000, present=20) == 20
    assert shares_wanted(reached=0, asked=WATCHES_MIN - 1, present=14) == 14
    assert shares_wanted(reached=0, asked=0, present=0) == 14


def test_small_blobs_get_more_copies_when_flaky_or_read() -> None:
    assert copies_wanted(reached=0, asked=0, reads_a_day=0) == 5
    assert copies_wanted(reached=99, asked=100, reads_a_day=0) == 5
    assert copies_wanted(reached=50, asked=100, reads_a_day=0) == 14
    assert copies_wanted(reached=0, asked=100, reads_a_day=0) == 20
    assert copies_wanted(reached=100, asked=100, reads_a_day=3_500) == 8
    assert copies_wanted(reached=100, asked=100, reads_a_day=1e9) == 20


digests = st.binary(min_size=32, max_size=32)


@given(digests, st.lists(digests, min_size=1, max_size=50))
def test_a_supplement_is_read_as_written(digest: bytes, roots: list[bytes]) -> None:
    made = Supplement(Cid(Codec.MANIFEST, digest), tuple(roots))
    assert Supplement.decode(made.encode()) == made
    assert list(made.shares) == list(range(14, 14 + len(roots)))
    assert Supplement.decode(made.encode() + b"x") is None
    assert Supplement.decode(made.encode()[:-1]) is None
    assert made.agrees(roots[:3])
    assert not made.agrees([bytes(32), *roots[1:]]) or roots[0] == bytes(32)
    assert not made.agrees([*roots, roots[0]])


@given(st.binary(max_size=200) | st.binary(max_size=90).map(lambda b: b"molia/supplement/1" + b))
def test_any_bytes_are_a_supplement_or_none(data: bytes) -> None:
    made = Supplement.decode(data)
    assert made is None or made.encode() == data


def test_a_supplement_of_no_shares_or_too_many_is_none() -> None:
    head = Supplement(CID, (bytes(32),)).encode()[:-33]
    assert Supplement.decode(head + b"\0") is None
    assert Supplement.decode(head + bytes([51]) + bytes(51 * 32)) is None
    assert Supplement.decode(head + bytes([50]) + bytes(50 * 32)) is not None
