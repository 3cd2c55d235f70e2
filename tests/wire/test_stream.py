"""The halves of a stream against a plain bytearray."""

import random

import hypothesis.strategies as st
import pytest
from hypothesis import given

from molia.base.errors import ChannelFault
from molia.wire.stream import SMALL, ReceiveHalf, SendHalf

DATA = random.Random(1).randbytes(40_000)
cuts = st.lists(st.tuples(st.integers(0, 39_999), st.integers(1, 5_000)), max_size=60)


@given(pieces=cuts, order=st.randoms(use_true_random=False), reads=st.integers(1, 9_000))
def test_pieces_in_any_order_give_the_bytes_in_theirs(
    pieces: list[tuple[int, int]], order: random.Random, reads: int
) -> None:
    half, got = ReceiveHalf(0), b""
    pieces = pieces + [(at, 1_000) for at in range(0, 40_000, 1_000)]
    order.shuffle(pieces)
    held = bytearray(len(DATA) + 1)
    for start, size in pieces:
        data = DATA[start : start + size]
        half.take(start, data, is_end=start + len(data) == len(DATA))
        held[start : start + len(data)] = b"x" * len(data)
        assert half.next == held.index(0)
        if order.random() < 0.3:
            got += half.read(reads)
        assert half.readable == half.next - len(got)
    while piece := half.read(reads):
        got += piece
    assert got == DATA
    assert half.is_complete
    assert half.is_over
    assert half.waiting_count == 0


def test_other_bytes_at_a_place_that_waits_are_a_fault() -> None:
    for start, size in ((100, 50), (90, 20), (140, 60), (90, 200), (120, 10)):
        half = ReceiveHalf(0)
        half.take(100, DATA[100:150], is_end=False)
        half.take(start, DATA[start : start + size], is_end=False)
        with pytest.raises(ChannelFault):
            half.take(start, bytes(size), is_end=False)


def test_a_size_that_changes_is_a_fault() -> None:
    half = ReceiveHalf(0)
    half.check(10, is_end=True)
    half.take(0, bytes(10), is_end=True)
    for stop, is_end in ((11, False), (9, True), (11, True)):
        with pytest.raises(ChannelFault):
            half.check(stop, is_end=is_end)
    with pytest.raises(ChannelFault):
        half.on_reset(0, 11)
    fresh = ReceiveHalf(0)
    fresh.take(0, bytes(10), is_end=False)
    with pytest.raises(ChannelFault):
        fresh.check(9, is_end=True)
    with pytest.raises(ChannelFault):
        fresh.on_reset(0, 9)


def test_tiny_pieces_are_copied_together() -> None:
    half = ReceiveHalf(0)
    for at in range(10_000):
        half.take(at, DATA[at : at + 1], is_end=False)
    assert len(half._ready) == 1
    assert half.read(1 << 20) == DATA[:10_000]


def test_a_run_of_whole_chunks_is_kept_as_it_is() -> None:
    half = ReceiveHalf(0)
    chunks = [DATA[at : at + SMALL] for at in range(0, 10 * SMALL, SMALL)]
    half.take_run(chunks, 10 * SMALL)
    assert half._ready[3] is chunks[3]
    assert half.read(100) + half.read(SMALL) + half.read(1 << 20) == DATA[: 10 * SMALL]


writes = st.lists(st.integers(1, 20_000), min_size=1, max_size=6)


@given(sizes=writes, chunk=st.integers(100, 2_000), seed=st.integers(0, 2**32))
def test_what_is_sent_again_and_again_is_at_last_acknowledged(
    sizes: list[int], chunk: int, seed: int
) -> None:
    """Random losses, late acknowledgements of what was given up, small writes between."""
    rng, half = random.Random(seed), SendHalf(0)
    half.limit = 1 << 40
    written, arrived = b"", bytearray(sum(sizes))
    under_way: list[tuple[int, int, bool]] = []
    given_up: list[tuple[int, int, bool]] = []
    for size in sizes:
        data = rng.randbytes(size)
        half.write(data)
        written += data
        if len(written) == len(arrived):
            half.finish()
        for _ in range(3):
            step(half, chunk, rng, arrived, under_way, given_up)
    while not half.is_over:
        step(half, chunk, rng, arrived, under_way, given_up)
    assert bytes(arrived) == written
    assert half.buffered == 0
    assert half.next_run(1 << 40) is None
    assert not half._pieces


def step(
    half: SendHalf, chunk: int, rng: random.Random, arrived: bytearray,
    under_way: list[tuple[int, int, bool]], given_up: list[tuple[int, int, bool]],
) -> None:  # fmt: skip
    """Send one run, then settle some of what is under way."""
    run = half.next_run(rng.choice((1, 1_000, 1 << 30)))
    if run is not None:
        pieces = half.slices(run.start, run.stop, chunk)
        assert all(len(piece) == chunk for piece in pieces[:-1])
        at = run.start
        for number, piece in enumerate(pieces):
            arrived[at : at + len(piece)] = piece
            last = run.is_end and number == len(pieces) - 1
            under_way.append((at, at + len(piece), last))
            at += len(piece)
        assert at == run.stop
        if not pieces:
            under_way.append((run.start, run.stop, run.is_end))
        new_before = half.next
        assert half.on_sent(run.start, run.stop, is_end=run.is_end) == max(0, run.stop - new_before)
    for place in range(len(under_way) - 1, -1, -1):
        start, stop, last = under_way[place]
        fate = rng.random()
        if fate < 0.4:
            half.on_acked(start, stop, is_end=last)
        elif fate < 0.6:
            half.on_lost(start, stop, is_end=last)
            given_up.append(under_way[place])
        else:
            continue
        del under_way[place]
    if given_up and rng.random() < 0.3:
        start, stop, last = given_up.pop()
        half.on_acked(start, stop, is_end=last)  # it came after all


def test_a_large_write_is_kept_and_not_copied() -> None:
    half = SendHalf(0)
    data = bytes(100_000)
    half.write(data)
    assert half._pieces[0] is data
    piece = half.slices(0, 1_000, 1_000)[0]
    assert isinstance(piece, memoryview)
    assert piece.obj is data


def test_nothing_is_sent_beyond_either_credit() -> None:
    half = SendHalf(0)
    half.write(bytes(1_000))
    half.finish()
    half.limit = 300
    run = half.next_run(1 << 20)
    assert run == (0, 300, False)
    run = half.next_run(200)
    assert run == (0, 200, False)
    assert half.next_run(0) is None
    half.limit = 5_000
    assert half.next_run(5_000) == (0, 1_000, True)


def test_only_what_did_not_arrive_is_sent_again() -> None:
    half = SendHalf(0)
    half.write(bytes(1_000))
    half.on_sent(0, 1_000, is_end=False)
    half.on_acked(200, 400, is_end=False)
    half.on_lost(0, 600, is_end=False)
    for start, stop in ((0, 200), (400, 600)):
        assert half.next_run(0) == (start, stop, False)
        half.on_sent(start, stop, is_end=False)
    assert half.next_run(0) is None


def test_a_reset_drops_everything() -> None:
    half = SendHalf(0)
    half.write(bytes(1_000))
    half.on_sent(0, 400, is_end=False)
    half.reset(7)
    half.on_lost(0, 400, is_end=False)
    assert half.next_run(1 << 20) is None
    assert (half.buffered, half.next, half.takes_writes) == (0, 400, False)
