"""Engines join, find each other and keep their tables."""

from collections.abc import Callable

import pytest

from molia.dht.outcome import LookupResult
from molia.wire.addresses import Address
from tests.dht.world import Node, contacts_of, joined, loopback, public


def found(node: Node, target: bytes) -> LookupResult:
    result = node.run(lambda: node.engine.find(target, node.now))
    assert isinstance(result, LookupResult)
    return result


@pytest.mark.parametrize("address", [public, loopback])
@pytest.mark.parametrize("count", [2, 5, 30])
def test_nodes_find_each_other_by_one_seed(count: int, address: Callable[[int], Address]) -> None:
    world = joined(count, address=address)
    for node in world.nodes:
        assert node.engine.is_joined
        assert len(node.engine.contacts()) >= 0.8 * (count - 1)
        for other in world.entropy.random.sample(world.nodes, min(count, 3)):
            if other is not node:
                sought = contacts_of([other], world)[0]
                result = found(node, sought.id.to_bytes(32, "big"))
                assert result.heard[0] == sought


def test_a_find_gives_the_closest_twenty_of_all() -> None:
    world = joined(30)
    target = world.entropy.token(32)
    asker = world.nodes[7]
    result = found(asker, target)
    number = int.from_bytes(target, "big")
    others = contacts_of([n for n in world.nodes if n is not asker], world)
    closest = sorted(others, key=lambda c: c.id ^ number)
    assert list(result.heard[:3]) == closest[:3]
