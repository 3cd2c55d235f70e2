"""The routing table: who gets in, who stays, and who is nearest."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base.limits import DATAGRAM_BODY_MAX
from molia.dht.contact import Contact
from molia.dht.nearest import Positions
from molia.dht.table import Table, TableConfig
from molia.sim.entropy import SeededEntropy
from molia.wire.messages import Nodes, Number, decode
from tests import oracles
from tests.dht.contacts import placed, population

OWN = 1 << 255
ids = st.one_of(
    st.integers(0, (1 << 256) - 1), st.integers(0, 300), st.integers(OWN - 200, OWN + 200)
)


def table_of(
    contacts: Sequence[Contact], *, own: int = OWN, now_s: float = 0.0, seed: int = 1,
    config: TableConfig | None = None,
) -> Table:  # fmt: skip
    """Return a table whose contacts have all answered."""
    table = Table(own, config, entropy=SeededEntropy(seed))
    for contact in contacts:
        table.on_verified(contact, 0.05, now_s)
    return table


# -- who is nearest


@given(members=st.sets(ids, max_size=120), target=ids, count=st.integers(1, 30))
def test_nearest_equals_the_brute_force_answer(members: set[int], target: int, count: int) -> None:
    positions = Positions()
    for one in sorted(members):
        positions.add(placed(one))
    expected = oracles.nearest(sorted(members), target, count)
    assert [contact.id for contact in positions.nearest(target, count)] == expected


@given(
    members=st.sets(ids, max_size=60), center=ids,
    radius=st.one_of(st.integers(0, 300), st.integers(0, (1 << 256) - 1)),
)  # fmt: skip
def test_a_region_equals_the_brute_force_answer(
    members: set[int], center: int, radius: int
) -> None:
    positions = Positions()
    for one in sorted(members):
        positions.add(placed(one))
    expected = oracles.in_region(sorted(members), center, radius)
    assert [contact.id for contact in positions.in_region(center, radius)] == expected


@pytest.mark.parametrize("own", [OWN, 0, 12345])
def test_a_table_answers_with_the_nearest_of_those_it_kept(own: int) -> None:
    table = table_of(population(600), own=own)
    kept = [contact.id for contact in table.contacts()]
    chance = SeededEntropy(2).random
    for target in [own, 0, *[chance.getrandbits(256) for _ in range(100)]]:
        assert [c.id for c in table.nearest(target)] == oracles.nearest(kept, target, 20)
        assert [c.id for c in table.nearest(target, 3)] == oracles.nearest(kept, target, 3)


def test_a_nodes_body_holds_the_nearest_and_fits_a_datagram() -> None:
    table = table_of(population(600))
    body = table.nodes_body(77)
    nodes = decode(Number.NODES, body)
    assert isinstance(nodes, Nodes)
    assert [key for key, _ in nodes.contacts] == [c.key.key for c in table.nearest(77)]
    assert len(body) <= DATAGRAM_BODY_MAX


def test_what_is_nearest_to_the_node_itself_is_never_crowded_out() -> None:
    contacts = population(1000)
    table = table_of(contacts)
    expected = oracles.nearest([contact.id for contact in contacts], OWN, 20)
    assert [contact.id for contact in table.nearest(OWN)] == expected
