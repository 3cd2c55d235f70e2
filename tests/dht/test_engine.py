"""Engines join, find each other and keep their tables."""

import pytest

from molia.dht.outcome import LookupResult
from tests.dht.world import contacts_of, joined, loopback, public


@pytest.mark.parametrize("address", [public, loopback])
@pytest.mark.parametrize("count", [2, 5, 30])
def test_nodes_find_each_other_by_one_seed(count, address) -> None:
    world = joined(count, address=address)
    everyone = frozenset(node.key for node in world.nodes)
    for node in world.nodes:
        assert node.engine.is_joined
        known = {contact.key for contact in node.engine.contacts()}
        assert known == everyone - {node.key}, f"{len(known)} of {count - 1}"


def test_a_find_gives_the_closest_twenty_of_all() -> None:
    world = joined(30)
    target = world.entropy.token(32)
    asker = world.nodes[7]
    result = asker.run(lambda: asker.engine.find(target, asker.now))
    assert isinstance(result, LookupResult)
    number = int.from_bytes(target, "big")
    others = contacts_of([n for n in world.nodes if n is not asker], world)
    closest = sorted(others, key=lambda c: c.id ^ number)
    assert list(result.closest[:3]) == closest[:3]
