"""The door: its order of checks, and who gets through when many push."""

import tracemalloc
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molia.base import limits
from molia.base.config import AdmissionConfig
from molia.base.ids import PeerKey
from molia.wire import load
from molia.wire.admission import REASONS, Admission
from molia.wire.gate import Verdict
from molia.wire.proof import ProofVerdict
from molia.wire.puzzle import EPOCH_S, NO_PUZZLE, Effort, PuzzleSolver, PuzzleTrailer
from molia.wire.scores import Offence, Standing
from tests.vectors.load import vectors
from tests.wire import flood
from tests.wire.doubles import Seeded, at
from tests.wire.flood import RESPONDER, World, public_host

MINE = ("8.8.4.4", 4001)
PEER = PeerKey(bytes(range(32)))


def door() -> Admission:
    """A door that nobody has come to."""
    return Admission(AdmissionConfig(), network=bytes(32), private_network=False)


def loaded_door(mono_s: float = 1.0) -> Admission:
    """A door under load at this time: a hundred handshakes of 10 ms have just been made."""
    it = door()
    for _ in range(100):
        it.on_handshake(at(mono_s), cost_s=10e-3)
    assert it.under_load(mono_s)
    return it


def solved(effort: Effort, ephemeral: bytes = bytes(32)) -> PuzzleTrailer:
    """Solve what is asked."""
    work = PuzzleSolver(
        responder_key=RESPONDER, ephemeral=ephemeral, effort=effort, entropy=Seeded(3)
    )
    while (found := work.solve(4096)) is None:
        pass
    return found


def ask(it: Admission, trailer: PuzzleTrailer | None, *, mono_s: float = 1.0,
        ephemeral: bytes = bytes(32), host: str = MINE[0]) -> Verdict:  # fmt: skip
    """Come to the door."""
    return it.admit((host, 4001), ephemeral, trailer, RESPONDER, at(mono_s))


def counted(it: Admission) -> dict[str, int]:
    """What was counted, zeros left out."""
    return {reason: count for reason, count in it.counts.items() if count}


def test_an_idle_node_asks_for_nothing() -> None:
    it = door()
    assert not it.under_load(1.0)
    assert it.effort(at(1.0), MINE) == (0, int(at(1.0).unix_s) // EPOCH_S, b"\x08\x08\x04")
    assert ask(it, NO_PUZZLE) is Verdict.ADMIT
    assert counted(it) == {"admitted": 1}


def test_rates_come_before_the_puzzle() -> None:
    it = loaded_door()
    verdicts = [ask(it, NO_PUZZLE) for _ in range(8)]
    assert verdicts == [Verdict.PUZZLE] * 5 + [Verdict.RATE] * 3
    assert counted(it) == {"no_puzzle": 5, "rate": 3}


def test_a_loaded_node_admits_who_solves_what_it_asks() -> None:
    it = loaded_door()
    effort = it.effort(at(1.0), MINE)
    assert effort.bits == 14
    assert it.advertised_bits(1.0) == 14
    assert ask(it, solved(effort)) is Verdict.ADMIT


def test_a_solution_is_taken_once_and_for_what_was_asked() -> None:
    it = loaded_door()
    effort = it.effort(at(1.0), MINE)
    good = solved(effort)
    cheap = solved(effort._replace(bits=13))
    old = solved(effort._replace(epoch=effort.epoch - 2))
    last = solved(effort._replace(epoch=effort.epoch - 1), b"\7" * 32)
    assert ask(it, good) is Verdict.ADMIT
    for n, (trailer, ephemeral, reason) in enumerate([
        (good, bytes(32), "spent"), (good, b"\1" * 32, "wrong_puzzle"),
        (cheap, bytes(32), "few_bits"), (old, bytes(32), "old_epoch"),
        (good._replace(puzzle=2), bytes(32), "no_puzzle"),
        (cheap._replace(bits=14), bytes(32), "wrong_puzzle"),
        (good._replace(bits=255), bytes(32), "wrong_puzzle"),
    ]):  # fmt: skip
        before = it.counts[reason]
        verdict = ask(it, trailer, ephemeral=ephemeral, mono_s=1.1 + n / 10)
        assert (verdict, it.counts[reason]) == (Verdict.PUZZLE, before + 1)
    assert ask(it, last, ephemeral=b"\7" * 32, mono_s=1.9) is Verdict.ADMIT


def test_a_solution_counts_for_its_source_alone() -> None:
    it = loaded_door()
    good = solved(it.effort(at(1.0), MINE))
    assert ask(it, good, host="8.8.5.4") is Verdict.PUZZLE
    assert ask(it, good, host="8.8.4.77") is Verdict.ADMIT  # the same /24


def test_peers_of_the_wireguard_profile_solve_nothing() -> None:
    assert ask(loaded_door(), None) is Verdict.ADMIT


def test_puzzle_and_cookie_stay_while_bits_fall_though_the_load_is_gone() -> None:
    it = loaded_door()
    it.effort(at(1.0), MINE)
    assert not it._is_loaded(10.0)
    assert it.under_load(10.0)
    assert ask(it, NO_PUZZLE, mono_s=10.0) is Verdict.PUZZLE
    minutes = 14 * load.FALL_S + 30
    assert it.advertised_bits(minutes) == 0
    assert not it.under_load(minutes)
    assert ask(it, NO_PUZZLE, mono_s=minutes) is Verdict.ADMIT


def test_an_operator_under_load_gets_a_quarter_and_others_the_rest() -> None:
    it = loaded_door()
    share = int(it._meter.capacity_per_s / 4)
    hosts = [f"8.8.{n}.1" for n in range(share + 30)]
    verdicts = [ask(it, None, host=host) for host in hosts]
    assert verdicts == [Verdict.ADMIT] * share + [Verdict.RATE] * 30
    assert it.counts["operator"] == 30
    assert ask(it, None, host="9.8.1.1") is Verdict.ADMIT


def test_nodes_on_one_machine_have_no_rates_and_pay_all_the_same() -> None:
    it = door()
    assert {ask(it, NO_PUZZLE, host="127.0.0.1") for _ in range(1000)} == {Verdict.ADMIT}
    assert ask(loaded_door(), NO_PUZZLE, host="127.0.0.1") is Verdict.PUZZLE


def test_effort_counts_in_the_queue_once_it_is_verified() -> None:
    claims = [NO_PUZZLE._replace(puzzle=1, bits=bits) for bits in (0, 24, 15)]
    idle, loaded = door(), loaded_door()
    for it, order in ((idle, [0, 1, 2, None]), (loaded, [1, 2, 0, None])):
        for n, claim in enumerate(claims):
            assert it.enqueue(n, claim, at(1.0))
        assert [it.queue.pop(1.0) for _ in order] == order
    assert loaded.enqueue("wireguard", None, at(1.0))


def test_a_waiting_queue_is_load() -> None:
    it = door()
    for n in range(limits.LOADED_QUEUE):
        assert not it.under_load(1.0)
        it.queue.push(n, effort=0, now_s=1.0)
    assert it.under_load(1.0)


def test_a_blocked_identity_gets_no_session_and_an_ignored_one_does() -> None:
    it = door()
    it.penalise(PEER, MINE, Offence.WRONG_ID, 1.0)
    assert (it.standing(PEER, 1.0), it.allows(PEER, MINE, at(1.0))) == (Standing.IGNORED, True)
    it.penalise(PEER, MINE, Offence.BAD_SIGNATURE, 1.0)
    assert not it.allows(PEER, MINE, at(1.0))
    assert counted(it) == {"blocked": 1}


def test_a_network_of_bad_peers_pays_more_and_is_told_so() -> None:
    it = loaded_door()
    for bits in (16, 18):
        it.penalise(None, ("8.8.4.9", 1), Offence.BAD_SIGNATURE, 1.0)
        assert it.effort(at(1.0), MINE).bits == bits
    effort = it.effort(at(1.0), MINE)
    assert it.effort(at(1.0), ("8.8.5.4", 1)).bits == it.advertised_bits(1.0) == 14
    assert ask(it, solved(effort._replace(bits=14))) is Verdict.PUZZLE
    assert ask(it, solved(effort)) is Verdict.ADMIT


def test_a_proof_is_judged_at_the_address_of_the_session() -> None:
    row = vectors("proof")[0]
    it = Admission(
        AdmissionConfig(), network=bytes.fromhex(row["network"]), private_network=False
    )  # fmt: skip
    key, good = PeerKey(bytes.fromhex(row["peer_key"])), bytes.fromhex(row["proof"])
    now = at(0.0)._replace(unix_s=row["epoch"] * 30 * 86_400.0)
    there = (".".join(map(str, bytes.fromhex(row["host"]))), 1)
    assert it.judge_proof(good, key, there, now) is ProofVerdict.VALID
    assert it.judge_proof(good, key, MINE, now) is ProofVerdict.BAD_GATE
    assert it.judge_proof(b"", key, there, now) is ProofVerdict.MISSING
    assert it.judge_proof(b"", key, ("127.0.0.1", 1), now) is ProofVerdict.NOT_NEEDED


trailers = st.builds(
    PuzzleTrailer, st.integers(0, 255), st.integers(0, 255), st.integers(0, 2**32 - 1),
    st.binary(min_size=8, max_size=8),
)  # fmt: skip
hosts = st.ip_addresses().map(str) | st.text(max_size=50)


@given(st.lists(st.tuples(hosts, st.none() | trailers, st.floats(0, 2)), max_size=20))
def test_whatever_comes_gets_a_verdict_that_is_counted(
    script: list[tuple[str, PuzzleTrailer | None, float]],
) -> None:
    it, mono_s = loaded_door(), 1.0
    for host, trailer, wait_s in script:
        mono_s += wait_s
        assert isinstance(ask(it, trailer, mono_s=mono_s, host=host), Verdict)
        effort = it.effort(at(mono_s), (host, 1))
        assert Effort.parse(effort.encode()) == effort
    assert sum(it.counts.values()) == len(script)
    assert set(it.counts) == set(REASONS)


# ---------------------------------------------------------------------------- floods


def spoofed(seed: int, *, initiations: int, rate: float, honest_a_second: int) -> World:
    """A world in which initiations of random sources come, and honest peers all the while."""
    world = World(seed)
    seconds = initiations / rate
    world.flood_of(
        rate, 2.0, 2.0 + seconds, source=lambda n: (public_host(seed * 7919 + n), 1), cookie=False
    )
    for n in range(int((seconds + 2) * honest_a_second)):
        world.honest_peer((f"100.{n % 60}.{n // 60 % 250}.7", 4001), n / honest_a_second)
    return world


def test_a_million_spoofed_initiations_a_minute_leave_memory_flat_and_let_honest_peers_in(
    monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """50,000 at that rate; `make fuzz` plays the whole million. 8 bits: so that it takes 5 s."""
    monkeypatch.setattr(load, "BASE_BITS", 8)
    rate = 1_000_000 / 60
    count = 1_000_000 if settings().max_examples > 1_000 else 50_000
    world = spoofed(1, initiations=count, rate=rate, honest_a_second=20)
    stop_s = 2.0 + count / rate
    world.run(3.0)
    tracemalloc.start()
    try:
        world.run(4.0)  # long enough for every cache to have turned over
        early = tracemalloc.get_traced_memory()[0]
        tracemalloc.reset_peak()
        world.run(stop_s)
        grown = tracemalloc.get_traced_memory()[1] - early
    finally:
        tracemalloc.stop()
    entries, tally = world.admission.table_entries, world.run(stop_s + 17)
    record_property("summary", (
        f"admission: {tally.flood:,} spoofed initiations at {rate:,.0f}/s: {tally.flood_in:,} let "
        f"in, honest peers {tally.success:.1%} of {tally.honest}, memory {grown / 1e6:+.2f} MB"
    ))  # fmt: skip
    assert tally.flood >= count
    assert tally.success >= 0.95
    assert tally.flood_in < rate  # about a second's worth, until the load is seen
    assert entries < 10_000
    assert grown < limits.MIB


def test_the_same_flood_goes_the_same_way_twice() -> None:
    def played() -> tuple[object, ...]:
        world = spoofed(4, initiations=6_000, rate=10_000, honest_a_second=20)
        tally = world.run(20.0)
        return tally, world.admission.counts, world.admission.table_entries

    assert played() == played()


def test_honest_peers_get_in_beside_a_botnet_that_has_cookies(
    monkeypatch: pytest.MonkeyPatch, record_property: Callable[[str, object], None]
) -> None:
    """2,000 real addresses in 1,000 networks at 20,000/s, solving nothing.

    The base is 2 bits and not 14, so that the test need not solve 4,096 times as much.
    """
    monkeypatch.setattr(load, "BASE_BITS", 2)
    world = World(2)
    world.flood_of(
        20_000, 2.0, 6.0, source=lambda n: (f"{20 + n % 100}.7.{n // 100 % 10}.{n // 1000 % 2}", 1),
        cookie=True,
    )  # fmt: skip
    for n in range(120):
        world.honest_peer((f"99.{n % 60}.{n}.7", 4001), n / 20)
    tally = world.run(25.0)
    record_property("summary", (
        f"admission: {tally.flood:,} initiations of a botnet with cookies: {tally.flood_in:,} let "
        f"in, honest peers {tally.success:.1%} of {tally.honest} at {tally.bits_max} bits"
    ))  # fmt: skip
    assert tally.success >= 0.95
    assert tally.bits_max > 2
    assert tally.flood_in < 0.1 * tally.flood


def test_without_the_door_the_same_flood_keeps_honest_peers_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The flood is a flood: let everyone in, and most honest peers find the node busy."""
    monkeypatch.setattr(Admission, "under_load", lambda *_: False)
    monkeypatch.setattr(Admission, "admit", lambda *_: Verdict.ADMIT)
    world = spoofed(1, initiations=60_000, rate=1_000_000 / 60, honest_a_second=30)
    assert world.run(5.6).success < 0.8
    assert flood.HANDSHAKE_S * 1_000_000 / 60 > 1
