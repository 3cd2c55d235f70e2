"""Our own proof: computed once an address is known, renewed a day early, void elsewhere."""

import pytest

from molia.wire import proof as proofs
from molia.wire.proof import PROOF_EPOCH_S, Proof, ProofGate, ProofSolver, ProofVerdict
from molia.wire.proving import OwnProof
from tests.wire.doubles import Seeded

KEY, NETWORK = bytes(range(32)), bytes(range(32, 64))
HOST, SAME_NET, ELSEWHERE = b"\xc0\0\2\1", b"\xc0\0\2\x63", b"\xc6\x33\x64\1"
START_S = 600.0 * PROOF_EPOCH_S
DAY_S = 86_400.0


@pytest.fixture(autouse=True)
def _cheap(monkeypatch: pytest.MonkeyPatch) -> None:
    """2 bits: what is tested here is when, not how much."""
    monkeypatch.setattr(proofs, "PROOF_BITS", 2)


def own(*, private: bool = False) -> OwnProof:
    """The proofs of an identity that knows no address yet."""
    return OwnProof(peer_key=KEY, network=NETWORK, private_network=private, entropy=Seeded(1))


def prove(it: OwnProof, unix_s: float) -> Proof:
    """Do all work that there is."""
    solver = it.work(unix_s)
    assert solver is not None
    while (found := solver.solve(8)) is None:
        assert it.work(unix_s) is solver
    it.on_solved(solver, found)
    assert it.work(unix_s) is None
    return found


def is_valid(it: Proof | None, unix_s: float, packed: bytes = HOST) -> bool:
    """Ask a gate."""
    gate = ProofGate(network=NETWORK, private_network=False)
    verdict = gate.verify(it, peer_key=KEY, packed=packed, mono_s=0.0, unix_s=unix_s)
    return verdict is ProofVerdict.VALID


def test_nothing_is_proved_before_an_address_is_known() -> None:
    it = own()
    assert (it.work(START_S), it.current(START_S)) == (None, None)
    it.on_address(HOST)
    assert is_valid(prove(it, START_S), START_S)
    assert is_valid(it.current(START_S), START_S)


@pytest.mark.parametrize(("host", "private"), [(b"\x0a\0\0\1", False), (HOST, True)])
def test_local_addresses_and_private_networks_prove_nothing(host: bytes, private: bool) -> None:
    it = own(private=private)
    it.on_address(host)
    assert it.work(START_S) is None


def test_what_is_shown_is_valid_on_every_day_and_renewed_a_day_early() -> None:
    it = own()
    it.on_address(HOST)
    found: list[int] = []
    for hour in range(0, 24 * 100, 6):
        unix_s = START_S + hour * 3600.0
        if it.work(unix_s) is not None:
            found.append(hour)
            prove(it, unix_s)
        assert is_valid(it.current(unix_s), unix_s)
        assert unix_s < it.next_renewal_s(unix_s) <= unix_s + 30 * DAY_S
    assert found == [0, 29 * 24, 59 * 24, 89 * 24]
    assert it.next_renewal_s(START_S) == START_S + 29 * DAY_S


def test_the_last_epochs_proof_is_shown_until_the_new_one_is_found() -> None:
    it = own()
    it.on_address(HOST)
    old = prove(it, START_S)
    assert it.current(START_S + 40 * DAY_S) == old
    assert is_valid(old, START_S + 40 * DAY_S)
    assert it.current(START_S + 61 * DAY_S) is None


def test_a_new_node_on_the_last_day_shows_the_next_epochs_proof() -> None:
    it = own()
    it.on_address(HOST)
    unix_s = START_S + 29.5 * DAY_S
    assert prove(it, unix_s).epoch == 601
    assert is_valid(it.current(unix_s), unix_s)


def test_another_network_voids_proofs_and_another_host_of_the_same_does_not() -> None:
    it = own()
    it.on_address(HOST)
    first = prove(it, START_S)
    it.on_address(SAME_NET)
    assert it.current(START_S) == first
    it.on_address(ELSEWHERE)
    assert it.current(START_S) is None
    assert is_valid(prove(it, START_S), START_S, ELSEWHERE)


def test_a_proof_that_comes_too_late_is_dropped() -> None:
    it = own()
    it.on_address(HOST)
    late = it.work(START_S)
    assert isinstance(late, ProofSolver)
    it.on_address(ELSEWHERE)
    it.on_solved(late, Proof(600, bytes(8), bytes(8)))
    assert it.current(START_S) is None


def test_a_proof_of_an_earlier_run_is_taken_up_where_it_is_good() -> None:
    it, again = own(), own()
    it.on_address(HOST)
    good = prove(it, START_S)
    assert not again.restore(good)
    again.on_address(ELSEWHERE)
    assert not again.restore(good)
    again.on_address(SAME_NET)
    assert not again.restore(good._replace(gate=bytes(8)))
    assert again.current(START_S) is None
    assert again.restore(good)
    assert again.work(START_S) is None
    assert again.current(START_S) == good
