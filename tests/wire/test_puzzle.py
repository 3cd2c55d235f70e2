"""The request puzzle: what is solved is accepted, once, for what it was solved for."""

import hashlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from molia.base import limits
from molia.wire import puzzle
from molia.wire.puzzle import Effort, PuzzleSolver, PuzzleTrailer, SpentFilter
from tests.vectors.load import vectors
from tests.wire.doubles import UNIX_S, Seeded

KEY, EPHEMERAL, TAG = bytes(range(32)), bytes(range(32, 64)), b"\xc0\x00\x02"
EPOCH = puzzle.epoch_of(UNIX_S)


def zero_bits(digest: bytes) -> int:
    """Count the zero bits in front, one by one."""
    text = "".join(f"{byte:08b}" for byte in digest)
    return len(text) - len(text.lstrip("0"))


def solver(bits: int, seed: int = 1) -> PuzzleSolver:
    """A solver of a challenge that the tests share."""
    return PuzzleSolver(
        responder_key=KEY, ephemeral=EPHEMERAL, effort=Effort(bits, EPOCH, TAG),
        entropy=Seeded(seed),
    )  # fmt: skip


def test_the_vectors_hold() -> None:
    for row in vectors("puzzle"):
        prefix = puzzle.challenge(
            responder_key=bytes.fromhex(row["responder_key"]), epoch=row["epoch"],
            ephemeral=bytes.fromhex(row["ephemeral"]), tag=bytes.fromhex(row["tag"]),
        )  # fmt: skip
        nonce = bytes.fromhex(row["nonce"])
        assert puzzle.is_solved(prefix, nonce=nonce, bits=row["bits"])
        assert not puzzle.is_solved(prefix, nonce=nonce, bits=row["bits"] + 1)
        trailer = PuzzleTrailer(1, row["bits"], row["epoch"], nonce)
        assert trailer.encode().hex() == row["trailer"]
        assert PuzzleTrailer.parse(bytes.fromhex(row["trailer"])) == trailer


@given(st.binary(max_size=80), st.binary(min_size=8, max_size=8))
def test_solved_means_leading_zero_bits_of_blake2b(prefix: bytes, nonce: bytes) -> None:
    zeros = zero_bits(hashlib.blake2b(prefix + nonce, digest_size=8).digest())
    assert [puzzle.is_solved(prefix, nonce=nonce, bits=b) for b in range(25)] == [
        b <= zeros for b in range(25)
    ]


@given(st.integers(1, 9), st.integers(0, 2**32))
def test_a_solver_finds_what_the_verifier_accepts(bits: int, seed: int) -> None:
    work = solver(bits, seed)
    found = None
    while found is None:
        found = work.solve(64)
    prefix = puzzle.challenge(responder_key=KEY, epoch=EPOCH, ephemeral=EPHEMERAL, tag=TAG)
    assert (found.bits, found.epoch) == (bits, EPOCH)
    assert puzzle.is_solved(prefix, nonce=found.nonce, bits=bits)
    assert work.tries % 64 == 0


def test_a_solver_tries_no_more_than_it_may_and_goes_on_where_it_stopped() -> None:
    many, whole = solver(12), solver(12)
    expected = whole.solve(100_000)
    assert expected is not None
    slices = 0
    while (found := many.solve(100)) is None:
        slices += 1
        assert many.tries == slices * 100
    assert found == expected


def test_nonces_go_round_at_their_end() -> None:
    class Last:
        def token(self, size: int) -> bytes:
            return b"\xff" * size

    work = PuzzleSolver(
        responder_key=KEY, ephemeral=EPHEMERAL, effort=Effort(6, EPOCH, TAG), entropy=Last()
    )
    found = work.solve(10_000)
    assert found is not None
    assert int.from_bytes(found.nonce, "little") < 10_000


@pytest.mark.parametrize("bits", [0, limits.PUZZLE_BITS_MAX + 1])
def test_no_work_is_begun_that_nobody_may_ask(bits: int) -> None:
    with pytest.raises(AssertionError):
        solver(bits)


@given(st.binary(max_size=20))
@example(bytes(14))
@example(bytes([255]) * 14)
def test_any_14_bytes_are_a_trailer(data: bytes) -> None:
    trailer = PuzzleTrailer.parse(data)
    assert (trailer is None) == (len(data) != 14)
    assert trailer is None or trailer.encode() == data
    assert PuzzleTrailer.parse(bytes(14)) == puzzle.NO_PUZZLE


@given(st.binary(max_size=12))
@example(bytes(8))
@example(bytes([24]) * 8)
@example(bytes([25]) * 8)
def test_any_8_bytes_that_do_not_ask_too_much_are_an_effort(data: bytes) -> None:
    effort = Effort.parse(data)
    fits = len(data) == 8 and data[0] <= limits.PUZZLE_BITS_MAX
    assert (effort is not None) == fits
    assert effort is None or effort.encode() == data
    assert Effort.parse(bytes(8)) == puzzle.NO_EFFORT


@given(st.sampled_from(["responder_key", "ephemeral", "tag", "epoch"]), st.integers(0, 31))
def test_a_solution_is_for_one_responder_epoch_message_and_source(name: str, at: int) -> None:
    mine: dict[str, object] = {
        "responder_key": KEY, "ephemeral": EPHEMERAL, "tag": TAG, "epoch": EPOCH,
    }  # fmt: skip
    value = mine[name]
    if isinstance(value, bytes):
        at %= len(value)
        value = value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :]
    other = {**mine, name: EPOCH + 1 if name == "epoch" else value}
    assert puzzle.challenge(**mine) != puzzle.challenge(**other)  # type: ignore[arg-type]


def test_this_epoch_and_the_last_are_accepted() -> None:
    assert puzzle.acceptable_epochs(1_200.0) == (2, 1)
    assert puzzle.acceptable_epochs(1_199.9) == (1, 0)


def test_an_ephemeral_is_spent_once_in_its_epoch() -> None:
    spent, seeded = SpentFilter(), Seeded(5)
    ephemerals = [seeded.token(32) for _ in range(2_000)]
    assert all(spent.spend(e, epoch=EPOCH, now_epoch=EPOCH) for e in ephemerals)
    assert not any(spent.spend(e, epoch=EPOCH, now_epoch=EPOCH) for e in ephemerals)
    assert all(spent.spend(e, epoch=EPOCH - 1, now_epoch=EPOCH) for e in ephemerals)


def test_the_filter_is_of_fixed_size_and_forgets_old_epochs() -> None:
    spent = SpentFilter()
    assert spent.size_bytes == 0
    for epoch in range(EPOCH, EPOCH + 20):
        for known in (epoch, epoch - 1):
            spent.spend(bytes(range(32)), epoch=known, now_epoch=epoch)
        assert spent.size_bytes <= 2 * limits.SPENT_FILTER_BITS // 8


def test_a_full_filter_rarely_takes_an_unspent_ephemeral_for_a_spent_one() -> None:
    """A tenth is filled and counted; the rest is the textbook's formula (Bloom, 1970)."""
    spent, seeded = SpentFilter(), Seeded(6)
    count = 60_000
    for _ in range(count):
        spent.spend(seeded.token(32), epoch=EPOCH, now_epoch=EPOCH)
    (bits,) = spent._filters.values()
    ones = int.from_bytes(bytes(bits), "little").bit_count()
    expected = 4 * count * (1 - 2 * count / limits.SPENT_FILTER_BITS)
    assert abs(ones - expected) < 0.01 * expected
    full = 1 - 2.718281828 ** (-4 * 660_000 / limits.SPENT_FILTER_BITS)
    assert full**4 < 1 / 2_000
