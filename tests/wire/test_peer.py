"""Two endpoints on a bad network: they agree, renew their keys, follow addresses, give up."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from molia.base.ids import PeerKey, network_id
from molia.base.limits import EFFECTS_MAX, PROOF_SIZE_MAX
from molia.wire.effects import EarlyReply, PeerDown, Restarted, Roamed
from molia.wire.frames import PATH_ASK, encode_frame
from molia.wire.handshake import EndpointConfig
from molia.wire.hello import REQUEST_SIZE_MAX
from molia.wire.messages import Number
from molia.wire.noise import WIREGUARD, TransportKeys, molia_profile
from molia.wire.packet import DATA, INITIATION, RESPONSE
from molia.wire.peer import WIREGUARD_TIMING, Peer, Timing
from molia.wire.session import Session
from molia.wire.wakes import Wakes
from tests.wire.link import START, Link, Node, kinds, meet, two

HASTY = EndpointConfig(timing=Timing(rekey_on_send_s=10.0, rekey_on_receive_s=20.0))


def test_a_handshake_takes_one_round_trip_and_the_initiator_confirms_at_once() -> None:
    link, ours, theirs = two()
    peer = meet(link, ours, theirs)
    assert [p[:4] for _, _, _, p in link.trace] == [INITIATION, RESPONSE, DATA]
    assert ours.ups() == theirs.ups() == 1
    assert peer.identity == theirs.key
    seen = theirs.endpoint.find(ours.key)
    assert seen
    assert seen.identity == ours.key
    assert seen.address == ours.address


def test_a_responder_stays_silent_under_new_keys_until_they_are_confirmed() -> None:
    link, ours, theirs = two()
    ours.endpoint.connect(theirs.key, theirs.address, link.now)
    link.settle()
    response = theirs.endpoint.datagram(link.trace[0][3], ours.address, link.now)
    assert response
    assert theirs.endpoint.find(ours.key) is None
    assert theirs.endpoint.peer_count == theirs.endpoint.session_count == 1
    assert theirs.events == []


@given(seed=st.integers(0, 10_000), loss=st.floats(0, 0.4), copies=st.floats(0, 0.5))
def test_two_agree_and_all_that_waited_arrives_over_a_lossy_reordering_link(
    seed: int, loss: float, copies: float
) -> None:
    link, ours, theirs = two(seed, loss=loss, copies=copies, delay_s=(0.01, 0.4))
    peers = [
        a.endpoint.connect(b.key, b.address, link.now) for a, b in ((ours, theirs), (theirs, ours))
    ]
    link.run(85.0)
    for node, other, peer in ((ours, theirs, peers[0]), (theirs, ours, peers[1])):
        assert peer
        assert peer.is_up
        before = len(other.heard)
        for number in range(30):
            node.endpoint.send(peer, b"%d" % number, link.now)
        link.run(1.0)
        got = other.heard[before:]
        assert len(got) == len(set(got)), "a copy came through"
        assert set(got) <= {b"%d" % number for number in range(30)}
        assert len(got) >= 5


@given(seed=st.integers(0, 10_000))
def test_the_same_seed_gives_the_same_packets(seed: int) -> None:
    traces = []
    for _ in range(2):
        link, ours, theirs = two(seed, loss=0.2, copies=0.2, delay_s=(0.01, 0.2))
        theirs.answer = lambda peer, plaintext: plaintext[::-1]
        peer = ours.endpoint.connect(theirs.key, theirs.address, link.now)
        assert peer
        for step in range(5):
            ours.endpoint.send(peer, b"step %d" % step, link.now)
            link.run(7.0)
        traces.append(link.trace)
    assert traces[0] == traces[1]


def test_what_is_sent_before_the_handshake_waits_for_it_in_order() -> None:
    link, ours, theirs = two()
    peer = ours.endpoint.connect(theirs.key, theirs.address, link.now)
    assert peer
    sent = [ours.endpoint.send(peer, b"%d" % number, link.now) for number in range(20)]
    assert sent == [True] * 16 + [False] * 4
    link.run(1.0)
    assert theirs.heard == [b"%d" % number for number in range(16)]
    assert ours.endpoint.counters.waiting_full == 4


def test_a_peer_that_never_answers_is_given_up_after_90_seconds() -> None:
    link, ours, theirs = two(loss=1.0)
    peer = ours.endpoint.connect(theirs.key, theirs.address, link.now, request=b"find")
    assert peer
    ours.endpoint.send(peer, b"hello", link.now)
    link.run(200.0)
    tries = kinds(link, INITIATION)
    gaps = [later - earlier for earlier, later in pairwise(tries)]
    assert 16 <= len(tries) <= 18
    assert all(5.0 <= gap <= 5.34 for gap in gaps)
    assert len(set(gaps)) > 10, "the jitter"
    assert len({packet for _, _, _, packet in link.trace}) == len(tries), "each is fresh"
    assert ours.downs() == ["unreachable"]
    assert [e.reply for e in ours.events if isinstance(e, EarlyReply)] == [None]
    assert ours.endpoint.counters.unanswered == 1
    assert ours.endpoint.peer_count == 0
    assert ours.endpoint.next_deadline_s() is None


def test_keys_are_renewed_by_the_initiator_alone_and_the_old_ones_still_open() -> None:
    link, ours, theirs = two()
    nodes = [Node(number, config=HASTY) for number in (1, 2)]
    link.nodes[:] = nodes
    ours, theirs = nodes
    peer = meet(link, ours, theirs)
    back = theirs.endpoint.find(ours.key)
    assert back
    late = theirs.endpoint.seal(back, b"late", link.now)
    assert late
    for number in range(40):
        ours.endpoint.send(peer, b"%d" % number, link.now)
        theirs.endpoint.send(back, b"%d" % number, link.now)
        link.run(1.0)
        if number == 12:
            assert ours.endpoint.datagram(late, theirs.address, link.now) is None
            assert ours.heard[-1] == b"late"
    assert theirs.heard == [b"%d" % number for number in range(40)]
    assert len(ours.heard) == 41
    renewed = kinds(link, INITIATION)
    assert 3 <= len(renewed) <= 5
    assert {a for _, a, _, p in link.trace if p[:4] == INITIATION} == {ours.address}
    assert ours.endpoint.session_count <= 2
    assert theirs.endpoint.session_count <= 3
    assert ours.ups() == theirs.ups() == 1


def test_receiving_alone_renews_keys_once_they_are_165_seconds_old() -> None:
    link, ours, theirs = two()
    meet(link, ours, theirs)
    back = theirs.endpoint.find(ours.key)
    assert back
    for _ in range(35):
        theirs.endpoint.send(back, b"more", link.now)
        link.run(5.0)
    first, second, *rest = kinds(link, INITIATION)
    assert first == 0.0
    assert 165.0 <= second <= 171.0
    assert rest == []


def test_idle_sessions_end_and_leave_nothing() -> None:
    link, ours, theirs = two()
    meet(link, ours, theirs)
    link.run(530.0)
    assert ours.downs() == []
    link.run(30.0)
    for node in (ours, theirs):
        assert node.downs() == ["idle"]
        assert node.endpoint.peer_count == node.endpoint.session_count == 0
        assert node.endpoint.next_deadline_s() is None


def test_a_peer_is_known_by_the_worker_that_answered() -> None:
    ours, theirs = Node(1), Node(2, config=EndpointConfig(worker=5))
    link = Link([ours, theirs])
    peer = meet(link, ours, theirs)
    assert peer.worker == 5
    assert ours.endpoint.find(theirs.key) is peer
    back = theirs.endpoint.find(ours.key)
    assert back
    link.run(200.0)
    theirs.endpoint.send(back, b"their turn", link.now)
    link.run(1.0)
    assert ours.heard == [b"their turn"]
    assert ours.endpoint.peer_count == 1, "its initiation came from the same worker"


def test_a_private_network_meets_with_its_secret_alone() -> None:
    secret = b"s" * 32
    profile = molia_profile(network_id("mine", secret), secret)
    ours, theirs = Node(1, profile=profile), Node(2, profile=profile)
    meet(Link([ours, theirs]), ours, theirs)
    stranger = Node(3)
    link = Link([stranger, theirs])
    stranger.endpoint.connect(theirs.key, theirs.address, link.now)
    link.run(1.0)
    assert theirs.endpoint.counters.bad_mac1 == 1
    assert len(link.trace) == 1, "a stranger gets no answer"


def test_handshakes_that_cross_both_work() -> None:
    link, ours, theirs = two()
    pair = [
        a.endpoint.connect(b.key, b.address, link.now) for a, b in ((ours, theirs), (theirs, ours))
    ]
    link.run(1.0)
    for node, other, peer in ((ours, theirs, pair[0]), (theirs, ours, pair[1])):
        assert peer
        assert node.endpoint.peer_count == 1
        node.endpoint.send(peer, b"hi", link.now)
        link.run(0.1)
        assert other.heard == [b"hi"]
    link.run(10.0)
    assert len(kinds(link, INITIATION)) == 2


# ---------------------------------------------------------------------------- early data


@given(request=st.binary(max_size=REQUEST_SIZE_MAX), size=st.integers(0, 1300))
@example(request=bytes((Number.PING,)), size=1_300)
def test_an_early_request_is_answered_within_the_response_if_it_fits(
    request: bytes, size: int
) -> None:
    """A PING is not padded to 1,200 bytes: what answers it is shorter anyway."""
    link, ours, theirs = two()
    theirs.early = lambda asked: bytes(size)
    ours.endpoint.connect(theirs.key, theirs.address, link.now, request=request)
    link.run(1.0)
    (reply,) = [event.reply for event in ours.events if isinstance(event, EarlyReply)]
    first, second = link.trace[0][3], link.trace[1][3]
    assert len(first) == 1200 or request[:1] == bytes((Number.PING,))
    assert len(first) >= len(second)
    assert reply == (bytes(size) if size <= len(first) - 92 - 11 - 11 - 3 else None)


def test_early_data_with_a_session_is_asked_in_it() -> None:
    link, ours, theirs = two()
    meet(link, ours, theirs)
    ours.endpoint.connect(theirs.key, theirs.address, link.now, request=b"find")
    link.run(1.0)
    assert [event.reply for event in ours.events if isinstance(event, EarlyReply)] == [None]
    assert len(kinds(link, INITIATION)) == 1


def test_of_two_early_requests_the_first_rides_and_each_gets_its_own_answer() -> None:
    link, ours, theirs = two()
    for request in (b"one", b"two"):
        ours.endpoint.connect(theirs.key, theirs.address, link.now, request=request)
    link.run(1.0)
    replies = [(e.request, e.reply) for e in ours.events if isinstance(e, EarlyReply)]
    assert replies == [(b"two", None), (b"one", b"early one")]


def test_an_early_request_rides_again_when_its_first_initiation_is_lost() -> None:
    link, ours, theirs = two(loss=1.0)
    ours.endpoint.connect(theirs.key, theirs.address, link.now, request=b"find")
    link.run(1.0)
    link.loss = 0.0
    link.run(6.0)
    assert [e.reply for e in ours.events if isinstance(e, EarlyReply)] == [b"early find"]


# ---------------------------------------------------------------------------- roaming


def test_a_peer_that_moves_is_followed_and_has_to_prove_where_it_is() -> None:
    link, ours, theirs = two()
    peer = meet(link, ours, theirs)
    back = theirs.endpoint.find(ours.key)
    assert back
    old, ours.address = ours.address, ("198.51.100.9", 9)
    ours.endpoint.send(peer, b"moved to here", link.now)
    states = []
    for seconds in (0.005, 0.006, 1.0):
        link.run(seconds)
        states.append((back.address, back.proved))
    assert states == [(old, True), (ours.address, False), (ours.address, True)]
    assert [e.old for e in theirs.events if isinstance(e, Roamed)] == [old]
    assert link.bytes_between(theirs.address, ours.address) <= 2 * link.bytes_between(
        ours.address, theirs.address
    )


@given(sizes=st.lists(st.integers(0, 1200), max_size=30), sent=st.integers(0, 400))
def test_a_claimed_address_never_gets_more_than_it_sent(sizes: list[int], sent: int) -> None:
    link, ours, theirs = two()
    peer = meet(link, ours, theirs)
    back = theirs.endpoint.find(ours.key)
    assert back
    victim = ("203.0.113.77", 77)
    for number, size in enumerate(sizes):  # the peer lies about where its packets come from
        plaintext = encode_frame(PATH_ASK, b"8 bytes!") if number % 3 == 0 else bytes(sent)
        packet = ours.endpoint.seal(peer, plaintext, link.now)
        assert packet
        link.post(victim, theirs.address, packet)
        link.run(0.3)
        theirs.endpoint.send(back, bytes(size), link.now)
        theirs.endpoint.seal_many(back, [b"x" * 1000] * 3, link.now)
        link.run(0.3)
    link.run(60.0)
    assert link.bytes_between(theirs.address, victim) <= link.bytes_between(victim, theirs.address)


def test_in_the_wireguard_profile_an_address_is_followed_without_a_question() -> None:
    ours, theirs = (Node(number, profile=WIREGUARD) for number in (1, 2))
    link = Link([ours, theirs])
    peer = ours.endpoint.configure(
        theirs.identity.exchange_key.public, link.now, address=theirs.address
    )
    back = theirs.endpoint.configure(ours.identity.exchange_key.public, link.now)
    ours.endpoint.send(peer, b"inner", link.now)
    link.run(1.0)
    assert theirs.heard == [b"inner".ljust(16, b"\0")]
    ours.address = ("198.51.100.9", 9)
    ours.endpoint.send(peer, b"moved", link.now)
    link.run(1.0)
    assert (back.address, back.proved) == (ours.address, True)
    assert all(len(p) in (148, 92, 32, 48) for _, _, _, p in link.trace)


def test_close_forgets_a_peer_at_once() -> None:
    link, ours, theirs = two()
    peer = meet(link, ours, theirs)
    ours.endpoint.close(peer)
    link.run(1.0)
    assert ours.downs() == ["closed"]
    assert isinstance(ours.events[-1], PeerDown)
    assert ours.endpoint.peer_count == ours.endpoint.session_count == 0
    assert ours.endpoint.seal(peer, b"x", link.now) is None


@pytest.mark.parametrize("restarted_asks", [True, False])
def test_a_peer_that_began_anew_is_noticed_once_and_its_old_keys_are_gone(
    *, restarted_asks: bool
) -> None:
    link, ours, theirs = two()
    meet(link, ours, theirs)
    meet(link, theirs, ours)
    old = ours.endpoint.find(theirs.key)
    assert old
    assert old.current
    before = old.current
    again = Node(2, seed=1)
    link.nodes[1] = again
    link.run(1.0)
    if restarted_asks:
        again.endpoint.connect(ours.key, ours.address, link.now)
    else:
        link.stream(ours, old)
    link.run(30.0)
    assert [event.peer for event in ours.events if isinstance(event, Restarted)] == [old]
    assert before not in (old.previous, old.current, old.next)
    assert not any(isinstance(event, Restarted) for event in again.events)


def test_renewed_keys_are_no_restart() -> None:
    link, ours, theirs = two()
    for node in (ours, theirs):
        node.endpoint._config = node.endpoint._handshaker._config = HASTY
    peer = meet(link, ours, theirs)
    peer.timing = HASTY.timing
    for _ in range(30):
        ours.endpoint.send(peer, b"x", link.now)
        link.run(2.0)
    assert ours.endpoint.counters.handshakes_out > 2
    events = ours.events + theirs.events
    assert not any(isinstance(event, Restarted) for event in events)


def test_who_sends_to_a_peer_that_was_forgotten_meets_it_again() -> None:
    link, ours, theirs = two()
    peer = meet(link, ours, theirs)
    ours.endpoint.close(peer)
    link.run(10.0)
    assert ours.endpoint.send(peer, b"again", link.now)
    link.run(1.0)
    assert theirs.heard == [b"again"]
    assert (ours.endpoint.peer_count, ours.endpoint.session_count) == (1, 1)
    assert ours.endpoint.find(theirs.key) is peer


def test_a_handle_that_was_replaced_sends_nothing() -> None:
    link, ours, theirs = two()
    peer = meet(link, ours, theirs)
    ours.endpoint.close(peer)
    link.run(10.0)
    meet(link, ours, theirs)
    ours.endpoint.take_effects()
    ours.endpoint.send(peer, b"lost", link.now)
    assert ours.endpoint.take_effects() == []
    assert ours.endpoint.session_count == 1


def test_traffic_after_the_keys_died_brings_new_ones() -> None:
    link, ours, theirs = two()
    peer = meet(link, ours, theirs)
    link.run(200.0)
    assert ours.endpoint.seal_many(peer, [b"stream"], link.now) == []
    link.run(1.0)
    assert len(ours.endpoint.seal_many(peer, [b"stream"], link.now)) == 1
    assert ours.ups() == 1
    assert ours.downs() == []


def test_our_proof_of_admission_rides_along() -> None:
    link, ours, theirs = two()
    ours.endpoint.set_proof(b"p" * PROOF_SIZE_MAX)
    meet(link, ours, theirs)
    seen = theirs.endpoint.find(ours.key)
    assert seen
    assert seen.proof == b"p" * PROOF_SIZE_MAX


def test_nobody_connects_to_themselves_or_to_a_key_that_is_none() -> None:
    _, ours, _ = two()
    assert ours.endpoint.connect(ours.key, ours.address, START) is None
    nobody = PeerKey((1).to_bytes(32, "little"))
    assert ours.endpoint.connect(nobody, ours.address, START) is None
    assert ours.endpoint.find(nobody) is None
    assert ours.endpoint.peer_count == 0


def test_an_answer_to_a_burst_is_sealed_in_one_go() -> None:
    link, ours, theirs = two()
    peer = meet(link, ours, theirs)
    theirs.answer = lambda _, plaintext: plaintext.upper()
    packets = ours.endpoint.seal_many(peer, [b"a", b"b", b"c"], link.now)
    back = theirs.endpoint.burst(packets, ours.address, link.now)
    assert len(back) == 3
    assert ours.endpoint.burst(back[::-1], theirs.address, link.now) == []
    assert ours.heard == [b"C", b"B", b"A"]


def test_a_responder_that_answers_from_another_address_is_followed() -> None:
    link, ours, theirs = two()
    ours.endpoint.connect(theirs.key, theirs.address, link.now)
    link.settle()
    response = theirs.endpoint.datagram(link.trace[0][3], ours.address, link.now)
    theirs.address = ("198.51.100.2", 2)
    assert response
    link.post(theirs.address, ours.address, response)
    link.nodes = [ours, theirs]
    link._flying = [flight for flight in link._flying if flight[2] == theirs.address]
    link.run(1.0)
    assert ours.ups() == theirs.ups() == 1
    seen = ours.endpoint.find(theirs.key)
    assert seen
    assert seen.address == theirs.address


def test_keys_that_are_confirmed_from_elsewhere_prove_no_address() -> None:
    link, ours, theirs = two()
    ours.endpoint.connect(theirs.key, theirs.address, link.now)
    link.settle()
    response = theirs.endpoint.datagram(link.trace[0][3], ours.address, link.now)
    assert response
    (waiting,) = theirs.endpoint._table.unconfirmed.values()
    theirs.endpoint.send(waiting, bytes(900), link.now)
    assert theirs.endpoint.take_effects() == [], "an unconfirmed peer is sent nothing"
    ours.endpoint.datagram(response, theirs.address, link.now)
    link.nodes = [ours, theirs]
    ours.address = ("198.51.100.9", 9)
    link.run(0.5)
    states = [(waiting.address, waiting.proved)]
    assert link.bytes_between(theirs.address, ours.address) == 0
    peer = ours.endpoint.find(theirs.key)
    assert peer
    ours.endpoint.send(peer, b"some more bytes", link.now)
    link.run(0.5)
    states.append((waiting.address, waiting.proved))
    assert states == [(ours.address, False), (ours.address, True)]
    assert len(ours.heard) == 1, "what waited came once the address was proved"


def test_what_waits_is_bounded_in_bytes() -> None:
    link, ours, theirs = two(loss=1.0)
    peer = ours.endpoint.connect(theirs.key, theirs.address, link.now)
    assert peer
    assert [ours.endpoint.send(peer, bytes(14_000), link.now) for _ in range(3)] == [
        True, True, False,
    ]  # fmt: skip


# ---------------------------------------------------------------------------- slots and wakes


def session(peer: Peer, index: int, *, is_initiator: bool) -> Session:
    """Return a session of `peer`."""
    keys = TransportKeys(b"1" * 32, b"2" * 32, b"")
    return Session(keys, index=bytes((index,)) * 4, remote=bytes(4), is_initiator=is_initiator,
                   peer=peer, now_s=0.0)  # fmt: skip


def bare() -> Peer:
    """Return a peer without anything."""
    return Peer(bytes(32), identity=None, address=None, timing=WIREGUARD_TIMING)


def test_the_three_slots_move_as_the_kernels() -> None:
    peer = bare()
    first, second, third, fourth, fifth = (
        session(peer, n, is_initiator=n in (1, 3, 5)) for n in range(1, 6)
    )

    def slots() -> list[Session | None]:
        return [peer.previous, peer.current, peer.next]

    assert peer.install(first) == []
    assert slots() == [None, first, None]
    assert peer.install(second) == []
    assert slots() == [None, first, second]
    assert peer.confirm(second) == []
    assert slots() == [first, second, None]
    assert peer.install(third) == [first]
    assert slots() == [second, third, None]
    assert peer.install(fourth) == [second]
    assert slots() == [None, third, fourth]
    assert peer.install(fifth) == [third]
    assert slots() == [fourth, fifth, None]
    assert peer.drop_sessions() == [fourth, fifth]


def test_a_cookie_is_used_for_two_minutes() -> None:
    peer = bare()
    peer.cookie, peer.cookie_s = b"c" * 16, 100.0
    assert [peer.fresh_cookie(at_s) for at_s in (100.0, 219.9, 220.0)] == [b"c" * 16] * 2 + [b""]


def test_wakes_come_in_order_and_old_ones_are_swept() -> None:
    wakes, peers = Wakes(), [bare() for _ in range(5)]
    for due_s in range(1_000, 0, -1):
        for peer in peers:
            peer.silence_due_s = due_s + peers.index(peer) / 10
            wakes.set(peer)
    assert len(wakes) < 200
    assert wakes.next_s() == 1.0
    assert wakes.take_due(0.9) is None
    taken = [wakes.take_due(1.25) for _ in range(4)]
    assert taken == [*peers[:3], None]


def test_effects_that_nobody_takes_are_bounded() -> None:
    link, ours, theirs = two()
    peer = meet(link, ours, theirs)
    for _ in range(EFFECTS_MAX + 5):
        ours.endpoint.send(peer, b"", link.now)
    assert ours.endpoint.counters.effects_full == 5
    assert len(ours.endpoint.take_effects()) == EFFECTS_MAX
