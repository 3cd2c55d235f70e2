"""Two nodes that begin with each other."""

import pytest

from molia.base.now import Now
from molia.wire.effects import Restarted
from molia.wire.handshake import EndpointConfig
from molia.wire.messages import Number
from molia.wire.peer import Peer
from molia.wire.requests import Ended, Outcome
from molia.wire.transport import Answer
from tests.wire.link import Link, Node
from tests.wire.net import Host, Net


@pytest.mark.parametrize("worker", [0, 1])
@pytest.mark.parametrize("seed", range(8))
def test_who_calls_back_while_it_answers_a_first_request_is_heard(seed: int, worker: int) -> None:
    ours = Node(1, seed=seed, config=EndpointConfig(worker=worker))
    theirs = Node(2, seed=seed)
    link = Link([ours, theirs], seed=seed, delay_s=(0.0, 0.05))

    def call_back(request: bytes) -> bytes:
        theirs.endpoint.connect(ours.key, ours.address, link.now)
        return b"early " + request

    theirs.early = call_back
    ours.endpoint.connect(theirs.key, theirs.address, link.now, request=b"x")
    link.run(1.0)
    assert 1 <= theirs.endpoint.peer_count <= 1 + worker, "a call goes to the first by a guess"
    for node, other in ((ours, theirs), (theirs, ours)):
        peer = node.endpoint.find(other.key)
        assert peer is not None
        node.endpoint.send(peer, b"hello", link.now)
    link.run(1.0)
    assert (ours.heard, theirs.heard) == ([b"hello"], [b"hello"])
    assert not any(isinstance(event, Restarted) for event in ours.events + theirs.events)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("worker", [0, 1])
def test_a_worker_that_calls_and_is_called_is_one_peer(worker: int, *, late: bool) -> None:
    ours, theirs = Host(1, worker=worker), Host(2)
    net = Net([ours, theirs])
    called: list[Peer] = []

    def ask(one: Host, other: Host, number: int) -> None:
        key = other.identity.peer_key
        one.transport.ask_at(key, other.address, number, b"x", net.now, timeout_s=9.0)

    def answer(peer: Peer, request_id: int, body: bytes, now: Now) -> Answer:
        if peer.identity == ours.identity.peer_key and not called:
            called.append(peer)
            if not late:
                ask(theirs, ours, Number.FIND_NODE)
        return Number.NODES, body

    for host in (ours, theirs):
        host.transport.serve({Number.FIND_NODE: answer, Number.HAVE: answer})
    ask(ours, theirs, Number.FIND_NODE)
    ask(ours, theirs, Number.HAVE)
    net.run(1.0, until=lambda: bool(called))
    if late:  # as soon as the answer is out
        ask(theirs, ours, Number.FIND_NODE)
    net.run(1.0)
    for one, other in ((ours, theirs), (theirs, ours)):
        ask(one, other, Number.HAVE)
    net.run(10.0)
    ends = [event for host in (ours, theirs) for event in host.events if isinstance(event, Ended)]
    assert [end.outcome for end in ends] == [Outcome.REPLIED] * 5
