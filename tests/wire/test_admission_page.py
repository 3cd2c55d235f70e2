"""The page about admission says what the code does."""

import re

from molia.base import limits
from molia.wire import limiter, load, proof, puzzle, scores
from tests.test_formats import REFERENCE, table

PAGE = "admission.md"


def test_rates_on_the_page_are_the_codes() -> None:
    rows = {row[0]: row[2:] for row in table(PAGE, "Rates")}
    assert rows["address"] == [f"{limiter.HOST_RATE:g}/s", f"{limiter.HOST_BURST:g}"]
    assert rows["network"] == [f"{limiter.NETWORK_RATE:g}/s", f"{limiter.NETWORK_BURST:g}"]
    assert rows["operator, under load"][0].startswith(f"{limiter.OPERATOR_SHARE:.0%}")


def test_scores_on_the_page_are_the_codes() -> None:
    points = [float(row[1]) for row in table(PAGE, "Scores")]
    assert points == [offence.points for offence in scores.Offence]


def test_the_layout_of_the_puzzle_is_the_codes() -> None:
    sizes = [int(row[0]) for row in table(PAGE, "Request puzzle")]
    text = puzzle.challenge(responder_key=bytes(32), epoch=1, ephemeral=bytes(32), tag=bytes(3))
    assert sum(sizes) == len(text) + puzzle.NONCE_SIZE
    assert (puzzle.TRAILER_SIZE, len(puzzle.Effort(1, 2, bytes(3)).encode())) == (14, 8)


def test_every_number_in_the_text_is_the_codes() -> None:
    text = " ".join((REFERENCE / PAGE).read_text("utf-8").split())
    for said in (
        f"hold {limits.HOST_BUCKETS_MAX:,} addresses, {limits.NETWORK_BUCKETS_MAX:,} networks and",
        f"and {limits.OPERATOR_BUCKETS_MAX:,} operators",
        f"{limits.LOADED_QUEUE} initiations wait",
        f"a queue of {limits.HANDSHAKE_QUEUE_MAX:,}",
        f"who waited {limits.HANDSHAKE_WAIT_S:g} s",
        f"unix seconds / {puzzle.EPOCH_S}",
        f"2^{limits.SPENT_FILTER_BITS.bit_length() - 1} bits",
        f"Every {load.PERIOD_S:g} s: bits",
        f"base {load.BASE_BITS} under load",
        f"at most {limits.PUZZLE_BITS_MAX}",
        f"Its {proof.PROOF_SIZE} bytes",
        f"{proof.PROOF_BITS} zero bits",
        f"{limits.PROOFS_PER_S_MAX} times a second",
        f"half in {scores.HALF_LIFE_S / 60:g} minutes",
        f"At {scores.IGNORE_AT:g} an identity is ignored for {scores.IGNORE_S / 60:g} minutes",
        f"{limits.SCORES_MAX:,} identities",
    ):
        assert said in text, said
    assert proof.PROOF_EPOCH_S == 30 * 86_400
    assert proof.GATE_BITS == proof.PROOF_BITS == 12
    assert re.search(r"At -100 it is blocked for an hour", text)
    assert (scores.BLOCK_AT, scores.BLOCK_S) == (-100, 3600)
