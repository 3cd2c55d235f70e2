"""The textbook's lookup finds what it should where nobody lies."""

from molia.dht.config import DhtConfig
from molia.dht.outcome import LookupResult
from molia.dht.table import TableConfig
from molia.sim.plain_lookup import PlainLookup
from tests.dht.world import contacts_of, joined

VANILLA = DhtConfig(
    table=TableConfig(group_per_bucket=10_000, group_per_table=10_000),
    lookup_class=PlainLookup,
    stores_nearest=20,
    has_duties=False,
)


def test_the_k_nearest_are_found_and_all_of_them_were_asked() -> None:
    world = joined(40, config=VANILLA)
    target = world.entropy.token(32)
    number = int.from_bytes(target, "big")
    for asker in world.nodes[::9]:
        result = asker.run(lambda by=asker: by.engine.find(target, by.now))  # type: ignore[misc]
        assert isinstance(result, LookupResult)
        others = contacts_of([node for node in world.nodes if node is not asker], world)
        assert list(result.closest) == sorted(others, key=lambda c: c.id ^ number)[:20]
        assert 20 <= result.probes <= 39
