"""What a peer's timers do while nothing is said: keepalives, doubt of a silent session."""

import pytest

from molia.wire.noise import WIREGUARD
from molia.wire.packet import DATA, INITIATION
from molia.wire.peer import Peer
from tests.wire.link import START, Link, Node, kinds, meet, two


def configured() -> tuple[Link, Node, Node, Peer]:
    """Return a link, two nodes of the wireguard profile that met, and the first one's peer."""
    ours, theirs = Node(1, profile=WIREGUARD), Node(2, profile=WIREGUARD)
    link = Link([ours, theirs])
    theirs.endpoint.configure(
        ours.identity.exchange_key.public, link.now, address=ours.address
    )  # fmt: skip
    peer = ours.endpoint.configure(
        theirs.identity.exchange_key.public, link.now, address=theirs.address
    )
    ours.endpoint.knock(peer, link.now)
    link.run(1.0)
    return link, ours, theirs, peer


def test_keepalives_are_wireguards() -> None:
    link, ours, theirs, peer = configured()
    ours.endpoint.send(peer, b"data", link.now)
    link.run(30.0)
    keepalives = [(a, at_s) for at_s, a, _, p in link.trace if p[:4] == DATA and len(p) == 32]
    assert [a for a, _ in keepalives] == [ours.address, theirs.address]
    assert keepalives[1][1] - START.mono_s == pytest.approx(1.0 + 10.0 + 0.01)
    assert len(kinds(link, INITIATION)) == 1


def test_in_the_molia_profile_nobody_says_that_a_request_or_its_answer_came() -> None:
    link, ours, theirs = two()
    peer = meet(link, ours, theirs)
    theirs.answer = lambda _, plaintext: b"yes, " + plaintext
    before = len(link.trace)
    ours.endpoint.send(peer, b"you?", link.now)
    link.run(50.0)
    assert ours.heard == [b"yes, you?"]
    assert len(link.trace) - before == 2


def test_silence_after_stream_frames_brings_a_new_handshake_after_15_seconds() -> None:
    link, ours, theirs = two()
    peer = meet(link, ours, theirs)
    link.nodes.remove(theirs)
    link.stream(ours, peer)
    link.run(15.5)
    assert kinds(link, INITIATION)[1:] == [pytest.approx(16.0)]


def test_silence_after_data_brings_a_new_handshake_after_15_seconds() -> None:
    link, ours, theirs, peer = configured()
    link.nodes.remove(theirs)
    ours.endpoint.send(peer, b"anyone?", link.now)
    link.run(15.5)
    assert kinds(link, INITIATION)[1:] == [pytest.approx(16.0)]


def test_a_responder_that_hears_nothing_back_begins_a_handshake_too() -> None:
    link, ours, theirs, _ = configured()
    back = theirs.endpoint._table.find(ours.identity.exchange_key.public + b"\0")
    assert back
    link.run(50.0)
    link.nodes.remove(ours)
    theirs.endpoint.send(back, b"anyone?", link.now)
    link.run(15.5)
    assert kinds(link, INITIATION)[1:] == [pytest.approx(66.0)]


def test_persistent_keepalives_keep_their_pace() -> None:
    link, ours, theirs = two()
    peer = meet(link, ours, theirs)
    ours.endpoint.keep_alive(peer, 20.0, link.now)
    link.run(101.0)
    ups = [p for _, a, _, p in link.trace if a == ours.address and p[:4] == DATA]
    assert len(ups) == 6
    ours.endpoint.keep_alive(peer, 0.0, link.now)
    link.run(50.0)
    assert len([p for _, a, _, p in link.trace if a == ours.address and p[:4] == DATA]) == 6
