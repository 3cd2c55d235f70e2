"""Whatever happens to a table, in whatever order, its rules hold after each step."""

from collections import Counter

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from molia.dht.bucket import State
from molia.dht.contact import Contact
from molia.dht.table import EntryView, Table, TableConfig
from molia.sim.entropy import SeededEntropy
from tests import oracles
from tests.dht.contacts import population

OWN = 1 << 255
CONFIG = TableConfig(bucket_size=4, group_per_bucket=2, group_per_table=5, graves=12)
HERE = population(90, seed=4, nets=12)
MOVED = [one._replace(address=other.address, group=other.group, encoded=other.encoded)
         for one, other in zip(HERE, HERE[7:] + HERE[:7], strict=True)]  # fmt: skip
someone = st.sampled_from(HERE + MOVED)


class TableSteps(RuleBasedStateMachine):
    """Facts about 90 nodes of 12 networks, each of which may be at another one's address."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table(OWN, CONFIG, entropy=SeededEntropy(1))
        self.now_s = 0.0
        self.alive: dict[bytes, Contact] = {}
        """Where each key answered last, while it missed nothing since."""

    def slots(self) -> list[EntryView]:
        return [view for view in self.table.views() if view.state is not State.SPARE]

    def in_bucket(self, index: int) -> Counter[bytes]:
        return Counter(v.contact.group for v in self.slots() if v.bucket == index)

    @rule(contact=someone, rtt_s=st.sampled_from([None, 0.01, 0.1, 0.5]))
    def answer(self, contact: Contact, rtt_s: float | None) -> None:
        index = self.table._places.index(contact)
        before = self.in_bucket(index)
        room = before.total() < self.table._places.bucket(contact).capacity
        known = {view.contact.key for view in self.table.views()}
        self.table.on_verified(contact, rtt_s, self.now_s)
        self.alive[contact.key.key] = contact
        if contact.key in known:
            return
        after, group = self.in_bucket(index), contact.group
        if not room:
            assert after[group] <= max(before[group], CONFIG.group_per_bucket)
        mine = [view for view in self.table.views() if view.contact == contact]
        if mine and mine[0].state is State.SPARE and self.table._places.has_quota(
            self.table._places.bucket(contact), group
        ):  # fmt: skip
            assert max(after.values()) <= CONFIG.group_per_bucket

    @rule(contact=someone)
    def traffic(self, contact: Contact) -> None:
        self.table.on_alive(contact, self.now_s)
        held = [v.contact for v in self.slots() if v.contact.key == contact.key]
        if held == [contact]:
            self.alive[contact.key.key] = contact

    @rule(contact=someone)
    def miss(self, contact: Contact) -> None:
        self.table.on_miss(contact, self.now_s)
        if self.alive.get(contact.key.key) == contact:
            del self.alive[contact.key.key]

    @rule(contact=someone)
    def goodbye(self, contact: Contact) -> None:
        self.table.on_gone(contact, self.now_s)
        if self.alive.get(contact.key.key) == contact:
            del self.alive[contact.key.key]

    @rule(seconds=st.sampled_from([0.1, 3.0, 40.0, 700.0]))
    def wait(self, seconds: float) -> None:
        self.now_s += seconds
        for contact in self.table.take_checks(self.now_s, 100):
            held = [v for v in self.slots() if v.contact == contact]
            assert held, "only who has a slot is checked"
            assert held[0].state is State.SUSPECT or self.now_s - held[0].heard_s >= 8.0
        next_s = self.table.next_check_s()
        assert next_s is None or next_s > self.now_s

    @rule(contact=someone)
    def hear(self, contact: Contact) -> None:
        before = self.table.views()
        self.table.wants(contact, self.now_s)
        assert self.table.views() == before

    @invariant()
    def only_the_verified_are_passed_on(self) -> None:
        for contact in [*self.table.nearest(OWN, 500), *self.table.contacts()]:
            assert self.alive.get(contact.key.key) == contact

    @invariant()
    def a_key_and_an_address_stand_once(self) -> None:
        views = self.table.views()
        assert len({view.contact.key for view in views}) == len(views)
        assert len({view.contact.address for view in views}) == len(views)

    @invariant()
    def buckets_and_caches_keep_their_sizes(self) -> None:
        counts = Counter((v.bucket, v.state is State.SPARE) for v in self.table.views())
        for (index, is_spare), count in counts.items():
            assert count <= (4 if is_spare or index > 1 else 16 >> index)

    @invariant()
    def the_oldest_come_first(self) -> None:
        since = {view.contact.key: view.since_s for view in self.table.views()}
        ages = [since[contact.key] for contact in self.table.contacts()]
        assert ages == sorted(ages)

    @invariant()
    def all_doors_tell_of_the_same_contacts(self) -> None:
        ids = [contact.id for contact in self.table.contacts()]
        assert len(ids) == self.table.size
        assert [c.id for c in self.table.nearest(5, 7)] == oracles.nearest(ids, 5, 7)
        assert len(self.table.graveyard) <= 12


TestTableSteps = TableSteps.TestCase
TestTableSteps.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)
