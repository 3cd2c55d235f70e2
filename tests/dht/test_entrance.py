"""A place in the table costs an identity proof; it is judged once and shown by a PONG."""

from molia.base.now import Now
from molia.dht.config import DhtConfig
from molia.dht.contact import Contact, Space
from molia.dht.entrance import Entrance, OpenGate
from tests.dht.world import World, loopback, public

NOW = Now(1.0, 1_700_000_000.0)
SPACE = Space(bytes(32))


class Judge:
    """A gate that knows one good proof, and counts what it was asked."""

    def __init__(self) -> None:
        self.asked = 0

    def own_proof(self) -> bytes:
        return b"ours"

    def admits(self, contact: Contact, proof: bytes, now: Now) -> bool:
        self.asked += 1
        return proof == b"good"


def contact(host: str) -> Contact:
    """Return somebody at a host."""
    made = SPACE.contact(b"k" * 32, (host, 7071))
    assert made is not None
    return made


def test_who_shows_a_good_proof_is_let_in_and_not_asked_again() -> None:
    judge = Judge()
    entrance, there = Entrance(judge), contact("8.8.8.8")
    assert not entrance.lets_in(there, b"", NOW)
    assert not entrance.lets_in(there, b"bad", NOW)
    assert entrance.lets_in(there, b"good", NOW)
    assert entrance.lets_in(there, b"", NOW)
    assert judge.asked == 3
    assert not entrance.lets_in(contact("9.9.9.9"), b"", NOW)  # the same key elsewhere


def test_local_contacts_and_open_gates_need_none() -> None:
    judge = Judge()
    assert Entrance(judge).lets_in(contact("127.0.0.1"), b"", NOW)
    assert judge.asked == 0
    assert Entrance(OpenGate()).lets_in(contact("8.8.8.8"), b"", NOW)


class Paid(Judge):
    """A gate whose own node has paid."""

    def own_proof(self) -> bytes:
        return b"good"


class Poor(Judge):
    """A gate whose own node has not."""

    def own_proof(self) -> bytes:
        return b""


def test_an_engine_inserts_only_those_whose_pong_shows_a_good_proof() -> None:
    world = World()
    seed = world.add(public(0), is_known=True, gate=Paid())
    paid = [world.add(public(n), is_known=True, gate=Paid()) for n in range(1, 4)]
    poor = [world.add(public(n), is_known=True, gate=Poor()) for n in range(4, 7)]
    world.start(seed)
    for node in (*paid, *poor):
        world.start(node, seed)
    world.run(60.0)
    known = {contact.key for contact in seed.engine.contacts()}
    assert known == {node.key for node in paid}
    assert seed.engine.counters.contacts_unadmitted > 0
    poor[0].engine.on_proof(poor[0].now)  # it pings its neighbours, and still shows nothing good
    world.run(5.0)
    assert {contact.key for contact in seed.engine.contacts()} == known


def test_a_node_that_may_not_serve_stays_a_client_where_others_reach_it() -> None:
    world = World()
    seed = world.add(loopback(0), is_known=True)
    shy = world.add(loopback(1), config=DhtConfig(may_serve=False))
    world.start(seed)
    world.start(shy, seed)
    world.run(20.0)
    assert shy.engine.own is None
    assert shy.engine.is_joined
    assert seed.engine.contacts() == []
