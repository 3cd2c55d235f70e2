"""The size of the network, from distances; pace and blur, which follow from it and from time."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.dht.blur import blurred, real_bits, region_bits
from molia.dht.contact import ID_BITS
from molia.dht.pace import Pace
from molia.dht.size import SPACE, K, SizeEstimate, nodes_by_distances, radius_for
from molia.sim.entropy import SeededEntropy
from tests.dht.model_net import closest, contact_at


def distances(random: Random, ids: list[int]) -> list[int]:
    target = random.getrandbits(ID_BITS)
    return sorted(other ^ target for other in ids)[:K]


@pytest.mark.parametrize("nodes", [50, 1000, 10_000])
def test_the_median_of_32_lookups_is_near_the_truth(nodes: int) -> None:
    random = Random(nodes)
    ids = [random.getrandbits(ID_BITS) for _ in range(nodes)]
    size = SizeEstimate()
    for _ in range(32):
        size.add(distances(random, ids))
    assert size.nodes == pytest.approx(nodes, rel=0.15)
    assert size.radius == pytest.approx(SPACE * 24 / nodes, rel=0.18)


@pytest.mark.parametrize("nodes", [0, 1, 2, 5, 19])
def test_fewer_nodes_than_a_reply_names_are_counted(nodes: int) -> None:
    size = SizeEstimate()
    size.add([Random(n).getrandbits(ID_BITS) for n in range(nodes)])
    assert size.nodes == max(1, nodes)
    assert size.radius == SPACE


def test_a_crowd_at_one_key_moves_the_estimate_hardly() -> None:
    random = Random(7)
    ids = [random.getrandbits(ID_BITS) for _ in range(1000)]
    ids += [ids[0] ^ random.getrandbits(200) for _ in range(250)]
    size = SizeEstimate()
    for _ in range(32):
        size.add(distances(random, ids))
    assert size.nodes == pytest.approx(1000, rel=0.15)


def test_a_guess_is_forgotten_with_the_first_estimate() -> None:
    random = Random(3)
    ids = [random.getrandbits(ID_BITS) for _ in range(500)]
    size = SizeEstimate()
    size.guess(distances(random, ids))
    assert 250 < size.nodes < 1000
    assert size.count == 0
    size.add(distances(random, ids))
    estimate = size.nodes
    size.guess([1] * K)
    assert size.nodes == estimate
    assert size.count == 1


def test_the_oldest_of_32_estimates_is_forgotten() -> None:
    random = Random(3)
    size = SizeEstimate()
    for nodes in (100, 400):
        ids = [random.getrandbits(ID_BITS) for _ in range(nodes)]
        for _ in range(32):
            size.add(distances(random, ids))
    assert size.count == 32
    assert size.nodes == pytest.approx(400, rel=0.2)


def test_evenly_spread_nodes_are_counted_exactly() -> None:
    step = SPACE // 1001
    assert nodes_by_distances([step * i for i in range(1, K + 1)]) == pytest.approx(1000)
    assert nodes_by_distances([0] * K) > 0


@given(nodes=st.floats(1, 1e12))
def test_the_radius_holds_24_nodes(nodes: float) -> None:
    radius = radius_for(nodes)
    assert 0 < radius <= SPACE
    assert radius == SPACE or nodes * radius / SPACE == pytest.approx(24, rel=0.01)


@given(target=st.integers(0, SPACE - 1), nodes=st.floats(1, 1e9), seed=st.integers(0, 99))
def test_a_blurred_target_lies_inside_the_region(target: int, nodes: float, seed: int) -> None:
    near = blurred(target, bits=real_bits(nodes), entropy=SeededEntropy(seed))
    assert near ^ target < radius_for(nodes)
    assert near >> ID_BITS - real_bits(nodes) == target >> ID_BITS - real_bits(nodes)
    bits = region_bits(radius_for(nodes))
    assert 1 << ID_BITS - bits >= radius_for(nodes)
    assert bits == 0 or 1 << ID_BITS - bits < 2 * radius_for(nodes)


def test_a_stranger_gets_what_is_usual_and_a_slow_one_not_much_more() -> None:
    pace = Pace()
    slow, stranger = contact_at(1, b"a"), contact_at(2, b"b")
    assert pace.soft_s(stranger) == 1.0
    assert pace.hard_s() >= 1.0
    for number in range(100):
        pace.add(contact_at(number, b"c"), 0.05 + number / 1000)
    pace.add(slow, 0.9)
    assert pace.soft_s(stranger) == pytest.approx(0.14, abs=0.005)
    assert pace.soft_s(slow) == pytest.approx(0.25, abs=0.005)
    assert pace.soft_s(slow, hurried=True) == pytest.approx(0.15, abs=0.005)
    for _ in range(300):
        pace.add(contact_at(1, b"d"), 0.001)
    assert pace.soft_s(stranger) == 0.05
    assert closest([slow, stranger], 1) == [slow, stranger]
