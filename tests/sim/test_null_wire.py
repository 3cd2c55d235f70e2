"""The null wire is the real one in clear: the same datagrams at the same instants."""

import pytest

from molia.sim.churn import Churn, ChurnConfig
from molia.sim.delays import CLEAN, PathConfig
from molia.sim.null_wire import NullTransport
from molia.sim.scenarios.base import Options, Run
from molia.sim.wire_host import transport_type
from molia.sim.workload import LoadConfig
from molia.wire.requests import Outcome
from molia.wire.transport import Transport
from tests.sim.chatter import Town

ROUGH = PathConfig(even_loss=0.03, copied=0.01)


def traces(seed: int, *, nodes: int, seconds: float, path: PathConfig) -> list[Town]:
    towns = []
    for wire in ("real", "null"):
        town = Town(seed, nodes=nodes, wire=wire, path=path)
        town.churn(seconds, every_s=4.0)
        towns.append(town)
    return towns


@pytest.mark.parametrize(
    ("seed", "nodes", "seconds", "path"), [(1, 40, 150.0, PathConfig()), (2, 10, 200.0, ROUGH)]
)
def test_real_and_null_wires_give_one_trace(
    seed: int, nodes: int, seconds: float, path: PathConfig
) -> None:
    """When, from where, where to and how long every datagram was; and what came of each request.

    Long enough for keys to be renewed; with loss, copies, crashes, goodbyes and returns.
    """
    real, null = traces(seed, nodes=nodes, seconds=seconds, path=path)
    assert real.world.trace.kept == null.world.trace.kept
    assert real.world.trace.hexdigest() != null.world.trace.hexdigest(), "one of them encrypts"
    for a, b in zip(real.nodes, null.nodes, strict=True):
        assert [(e.outcome, e.number, e.body) for e in a.ended] == [
            (e.outcome, e.number, e.body) for e in b.ended
        ]
        assert a.host.transport.endpoint.counters == b.host.transport.endpoint.counters
    renewed = sum(node.host.transport.endpoint.counters.handshakes_in for node in null.nodes)
    assert renewed > nodes
    assert {e.outcome for node in null.nodes for e in node.ended} >= {
        Outcome.REPLIED, Outcome.TIMED_OUT,
    }  # fmt: skip


def test_real_and_null_wires_give_one_trace_of_a_network_that_churns() -> None:
    """Whole nodes: their engines draw, ask, store and repair alike on both wires."""
    kept = []
    for wire in ("real", "null"):
        options = Options(scenario="churn", nodes=30, wire=wire, seed=6)
        it = Run(options, load=LoadConfig(keys=3, per_node_s=4.0), keep_trace=True)
        it.settle(8.0)
        churn = Churn(ChurnConfig(mean_s=60.0), it.world, it.fleet.newcomer)
        churn.start(list(it.fleet.nodes))
        it.load.fill(1.0)
        it.measure(14.0)
        assert churn.joins > 0 < churn.leaves
        assert it.load.tallies["get"].successes > 5
        kept.append(it.world.trace.kept)
    assert kept[0] is not None
    assert len(kept[0]) > 5_000
    assert kept[0] == kept[1]


def test_a_null_handshake_for_another_key_is_not_answered() -> None:
    town = Town(3, nodes=3, wire="null", path=CLEAN)
    ann, bob, eve = town.nodes
    ann.host.transport.ask_at(
        bob.identity.peer_key, eve.seat.address, 2, b"", town.world.now, timeout_s=3.0
    )
    ann.host.settle()
    town.world.run(4.0)
    assert Outcome.TIMED_OUT in [ended.outcome for ended in ann.ended]
    assert eve.host.transport.endpoint.counters.bad_initiation >= 1


def test_small_networks_have_real_ciphers_unless_told_otherwise() -> None:
    assert transport_type("auto", 200) is Transport
    assert transport_type("auto", 201) is NullTransport
    assert transport_type("real", 10_000) is Transport
