"""Whatever happens, in whatever order: a lookup stays within its bounds and ends."""

from hypothesis import given, settings
from hypothesis import strategies as st

from molia.base import limits
from molia.dht.contact import ID_BITS, Contact
from molia.dht.lookup import Lookup
from molia.dht.outcome import Goal, LookupConfig
from molia.dht.pace import Pace
from molia.dht.size import SizeEstimate, radius_for
from molia.sim.entropy import SeededEntropy
from tests.dht.model_net import contact_at, group_of


def pooled(number: int) -> Contact:
    position = SeededEntropy(number).random.getrandbits(ID_BITS - number % 24)
    return contact_at(position, group_of(number % 70), ("192.0.2.1", number))


POOL = [pooled(number) for number in range(1, 400)]
POOL += [c._replace(address=("192.0.2.2", n), encoded=b"%d" % n) for n, c in enumerate(POOL[:60])]
contacts = st.lists(st.sampled_from(POOL), max_size=50)
events = st.lists(
    st.tuples(
        st.sampled_from(("reply", "value", "fail", "stray", "wait", "nothing")),
        st.integers(0, 40),
        contacts,
    ),
    max_size=60,
)


class Watched:
    """A lookup and what is believed of it at any time."""

    def __init__(self, lookup: Lookup) -> None:
        self.lookup, self.now_s = lookup, 0.0
        self.asked: list[Contact] = []
        self.open: list[Contact] = []

    def take(self) -> None:
        for contact, asks in self.lookup.take_probes():
            self.asked.append(contact)
            self.open.append(contact)
            assert asks == (contact.id ^ self.lookup.target < self.lookup.radius)
        assert len(self.lookup._flights) <= limits.LOOKUP_FLIGHT_MAX
        assert len(self.asked) <= limits.LOOKUP_ATTACKED_WRITE_PROBES_MAX
        heard = self.lookup._candidates.by_contact
        assert len(heard) <= 2 * limits.LOOKUP_REGION_MAX
        if not self.lookup.is_done:
            deadline_s = self.lookup.next_deadline_s()
            assert deadline_s is not None
            assert deadline_s <= 5.0

    def happen(self, kind: str, which: int, named: list[Contact]) -> None:
        lookup = self.lookup
        if kind in ("reply", "value", "fail") and self.open:
            contact = self.open.pop(which % len(self.open))
            if kind == "fail":
                lookup.on_failed(contact, self.now_s)
            else:
                lookup.on_reply(contact, named, which if kind == "value" else None, self.now_s)
        elif kind == "stray" and named:
            lookup.on_reply(named[0], named, None, self.now_s)
            lookup.on_failed(named[-1], self.now_s)
        elif kind == "wait" and not lookup.is_done:
            self.now_s = max(self.now_s, lookup.next_deadline_s() or 0.0)
            lookup.on_deadline(self.now_s)
        self.take()

    def end(self) -> None:
        turns = 0
        while not self.lookup.is_done:
            turns += 1
            assert turns < 3 * limits.LOOKUP_ATTACKED_WRITE_PROBES_MAX
            self.happen("wait", 0, [])
        assert self.now_s <= 5.0


@settings(max_examples=150)
@given(
    goal=st.sampled_from(Goal),
    nodes=st.sampled_from((1.0, 30.0, 1000.0, 1e6)),
    seeds=contacts,
    more=contacts,
    events=events,
)
def test_any_sequence_of_events_stays_within_the_bounds_and_ends(
    goal: Goal,
    nodes: float,
    seeds: list[Contact],
    more: list[Contact],
    events: list[tuple[str, int, list[Contact]]],
) -> None:
    size = SizeEstimate()
    size.nodes, size.radius = nodes, radius_for(nodes)
    lookup = Lookup(
        goal, 1 << ID_BITS - 30, seeds, config=LookupConfig(deadline_s=5), entropy=SeededEntropy(1),
        size=size, pace=Pace(), now_s=0.0, own_key=POOL[3].key, more_seeds=lambda n: more[:n],
    )  # fmt: skip
    watched = Watched(lookup)
    watched.take()
    for event in events:
        watched.happen(*event)
    watched.end()
    asked = watched.asked
    assert POOL[3].key not in [c.key for c in asked]
    result = lookup.result
    assert result.probes == len(asked)
    assert {c.encoded for c in (*result.closest, *result.responders)} <= {c.encoded for c in asked}
    distances = [c.id ^ lookup.target for c in result.heard]
    assert distances == sorted(distances)
    for contact in asked:  # asked for more than who is close at most once after that
        assert asked.count(contact) <= 2
    assert lookup.take_probes() == []
