"""Two nodes that begin with each other."""

import pytest

from molia.wire.effects import Restarted
from molia.wire.handshake import EndpointConfig
from tests.wire.link import Link, Node


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
    assert theirs.endpoint.peer_count == 1 + worker, "a call goes to the first worker by a guess"
    for node, other in ((ours, theirs), (theirs, ours)):
        peer = node.endpoint.find(other.key)
        assert peer is not None
        node.endpoint.send(peer, b"hello", link.now)
    link.run(1.0)
    assert (ours.heard, theirs.heard) == ([b"hello"], [b"hello"])
    assert not any(isinstance(event, Restarted) for event in ours.events + theirs.events)
