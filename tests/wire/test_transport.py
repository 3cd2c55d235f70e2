"""Requests and streams over real sessions on a bad network; peers that break the rules are cut."""

import random
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base import limits
from molia.base.config import AdmissionConfig
from molia.base.crypto import Identity
from molia.base.now import Now
from molia.wire.admission import Admission
from molia.wire.effects import PeerDown
from molia.wire.frames import CLOSE, PADDING, encode_frame, encode_frames
from molia.wire.messages import EARLY, Busy, Error, ErrorCode, Number, decode
from molia.wire.peer import Peer
from molia.wire.requests import HEAD, REPLY, REQUEST, Ended, Outcome, pack
from molia.wire.scores import IGNORE_S, Offence, Standing
from molia.wire.stream_events import Broken, Readable, StreamOpened, Writable
from molia.wire.transport import Answer, StreamEvent, TransportEvent
from tests.wire.net import Host, Net

ECHO = 70


def echo(peer: Peer, request_id: int, body: bytes, now: Now) -> Answer | None:
    """Answer with what was asked."""
    return ECHO + 1, body


def pair(**faults: object) -> tuple[Net, Host, Host, Peer]:
    ours, theirs = Host(1), Host(2, {ECHO: echo})
    net = Net([ours, theirs], **faults)  # type: ignore[arg-type]
    return net, ours, theirs, net.connect(ours, theirs)


def ended(host: Host) -> list[Ended[Peer]]:
    return [event for event in host.events if isinstance(event, Ended)]


def test_a_request_waits_for_the_handshake_and_is_answered() -> None:
    net, ours, theirs, peer = pair()
    request_id = ours.transport.ask(peer, ECHO, b"hello", net.now)
    net.run(1.0)
    assert ended(ours) == [Ended(request_id, peer, Outcome.REPLIED, ECHO + 1, b"hello")]
    assert theirs.transport.counters.requests_in == 1


@given(seed=st.integers(0, 1000), loss=st.floats(0, 0.3), copies=st.floats(0, 0.5))
def test_every_request_ends_and_no_reply_is_another_ones(
    seed: int, loss: float, copies: float
) -> None:
    net, ours, _, peer = pair(seed=seed, loss=loss, copies=copies, delay_s=(0.005, 0.2))
    bodies = {
        ours.transport.ask(peer, ECHO, bytes((n,)) * n, net.now, timeout_s=60.0): bytes((n,)) * n
        for n in range(20)
    }
    net.run(100.0)
    assert sorted(end.request_id for end in ended(ours)) == sorted(bodies)
    for end in ended(ours):
        assert end.outcome is not Outcome.REPLIED or end.body == bodies[end.request_id]


def test_an_unknown_number_is_answered_as_unknown() -> None:
    net, ours, theirs, peer = pair()
    ours.transport.ask(peer, 99, b"", net.now)
    net.run(1.0)
    (end,) = ended(ours)
    assert decode(end.number, end.body) == Error(code=ErrorCode.UNKNOWN_MESSAGE)
    assert theirs.transport.counters.requests_unknown == 1


def test_an_answer_may_come_later() -> None:
    asked: list[tuple[Peer, int]] = []

    def later(peer: Peer, request_id: int, body: bytes, now: Now) -> Answer | None:
        asked.append((peer, request_id))
        return None

    ours, theirs = Host(1), Host(2, {ECHO: later})
    net = Net([ours, theirs])
    ours.transport.ask(net.connect(ours, theirs), ECHO, b"", net.now, timeout_s=9.0)
    net.run(0.5)
    peer, request_id = asked[0]
    theirs.transport.reply(peer, request_id, (ECHO + 1, b"late"), net.now)
    net.run(0.5)
    assert ended(ours)[0].body == b"late"


def test_who_left_before_its_answer_was_there_is_not_called_back() -> None:
    asked: list[tuple[Peer, int]] = []

    def later(peer: Peer, request_id: int, body: bytes, now: Now) -> Answer | None:
        asked.append((peer, request_id))
        return None

    ours, theirs = Host(1), Host(2, {ECHO: later})
    net = Net([ours, theirs])
    ours.transport.ask(peer := net.connect(ours, theirs), ECHO, b"", net.now)
    net.run(0.5)
    ours.transport.close(peer, net.now)
    net.run(0.5)
    assert theirs.transport.peer_count == 0
    theirs.transport.reply(*asked[0], (ECHO + 1, b"late"), net.now)
    net.run(10.0)
    assert theirs.transport.peer_count == 0
    assert theirs.transport.endpoint.counters.initiations_out == 0


@pytest.mark.parametrize("at_once", [True, False])
def test_what_must_not_be_done_twice_is_answered_from_memory(*, at_once: bool) -> None:
    done: list[bytes] = []

    def store(peer: Peer, request_id: int, body: bytes, now: Now) -> Answer | None:
        done.append(body)
        return (ECHO + 1, b"stored") if at_once else None

    ours, theirs = Host(1), Host(2, {ECHO: store}, once=(ECHO,))
    net = Net([ours, theirs])
    net.connect(ours, theirs)
    net.run(1.0)
    seen = theirs.transport.endpoint.find(ours.identity.peer_key)
    assert seen is not None
    frame, reply = pack(REQUEST, 7, ECHO, b"x"), pack(REPLY, 7, ECHO + 1, b"stored")
    answers = [theirs.transport.on_plaintext(seen, frame, net.now) for _ in range(3)]
    assert answers == ([reply] * 3 if at_once else [None] * 3)
    if not at_once:
        theirs.transport.reply(seen, 7, (ECHO + 1, b"stored"), net.now)
        assert theirs.transport.on_plaintext(seen, frame, net.now) == reply
    assert done == [b"x"]
    theirs.transport.on_plaintext(seen, pack(REQUEST, 8, ECHO, b"y"), net.now)
    assert done == [b"x", b"y"]


def test_a_peer_that_asks_more_than_its_share_is_told_to_wait() -> None:
    net, ours, theirs, peer = pair()
    net.run(1.0)
    burst = int(limits.PEER_REQUESTS_BURST)
    (seen,) = [theirs.transport.endpoint.find(ours.identity.peer_key)]
    assert seen is not None
    frame = pack(REQUEST, 7, ECHO, b"x")
    answers = [theirs.transport.on_plaintext(seen, frame, net.now) for _ in range(burst + 50)]
    busy = [answer for answer in answers if answer and answer[HEAD.size - 1] == Number.BUSY]
    assert len(busy) == 50
    assert isinstance(decode(Number.BUSY, busy[0][HEAD.size :]), Busy)
    later = net.now.after(1.0)
    answer = theirs.transport.on_plaintext(seen, frame, later)
    assert answer is not None
    assert answer[HEAD.size - 1] == ECHO + 1
    assert peer.current is not None


def test_a_peer_that_lost_its_session_is_noticed_and_answers_again_within_seconds() -> None:
    net, ours, theirs, peer = pair()
    ours.transport.ask(peer, ECHO, b"1", net.now)
    net.run(1.0)
    net.hosts[1] = again = Host(2, {ECHO: echo}, seed=5)  # its process was killed
    ours.transport.ask(peer, ECHO, b"2", net.now, timeout_s=60.0)
    assert net.run(10.0, until=lambda: len(ended(ours)) == 2)
    # nobody knows whether it was carried out: whoever asked must say whether to ask again
    assert ended(ours)[1].outcome is Outcome.PEER_LOST
    ours.transport.ask(peer, ECHO, b"3", net.now)
    net.run(1.0)
    assert ended(ours)[2].body == b"3"
    assert again.transport.counters.requests_in
    assert theirs.transport.counters.requests_in == 1


# ---------------------------------------------------------------------------- streams


class Sender:
    """Writes a body to a stream as fast as it is taken."""

    def __init__(self, net: Net, host: Host, peer: Peer, body: bytes) -> None:
        self.net, self.host, self.peer, self.left = net, host, peer, memoryview(body)
        self.channel = host.transport.channel(peer, net.now)
        stream_id = self.channel.open_stream()
        assert stream_id is not None
        self.stream_id = stream_id
        host.on_events = self.on_events
        self.events: list[TransportEvent] = []
        self.write()

    def on_events(self, events: list[TransportEvent]) -> None:
        self.events += events
        if any(isinstance(e, StreamEvent) and isinstance(e.event, Writable) for e in events):
            self.write()

    def write(self) -> None:
        taken = self.channel.write(self.stream_id, self.left[: 1 << 20])
        self.left = self.left[taken:]
        if not self.left:
            self.channel.finish(self.stream_id)
        self.host.transport.touch(self.peer)


class Receiver:
    """Reads everything that comes on the first stream."""

    def __init__(self, net: Net, host: Host, *, reads: bool = True) -> None:
        self.net, self.host, self.reads = net, host, reads
        self.got = bytearray()
        self.done = False
        self.opened: list[tuple[Peer, int]] = []
        host.on_events = self.on_events

    def on_events(self, events: list[TransportEvent]) -> None:
        for event in events:
            if isinstance(event, StreamEvent) and isinstance(event.event, StreamOpened):
                self.opened.append((event.peer, event.event.stream_id))
        if self.reads and self.opened:
            self.read()

    def read(self) -> None:
        peer, stream_id = self.opened[0]
        channel = self.host.transport.channel(peer, self.net.now)
        while data := channel.read(stream_id, 1 << 20):
            self.got += data
        self.done = channel.ended(stream_id)
        self.host.transport.touch(peer)


@pytest.mark.parametrize("loss", [0.0, 0.02])
def test_a_stream_of_any_size_arrives_whole_over_renewed_keys_and_loss(loss: float) -> None:
    body = random.Random(5).randbytes(3_000_000)
    net, ours, theirs, peer = pair(loss=loss, seed=3, delay_s=(0.02, 0.03))
    receiver = Receiver(net, theirs)
    sender = Sender(net, ours, peer, body)
    net.run(2.0)
    assert len(receiver.got) > 0
    # the session is renewed under the stream: packet numbers go on
    peer.started_s = float("-inf")
    ours.transport.endpoint._upkeep.initiate(peer, net.now)
    assert net.run(300.0, until=lambda: receiver.done), len(receiver.got)
    assert bytes(receiver.got) == body
    assert ours.transport.endpoint.counters.handshakes_out >= 2
    assert not sender.left


def test_who_does_not_read_stops_who_writes() -> None:
    body = bytes(64 << 20)
    net, ours, theirs, peer = pair()
    receiver = Receiver(net, theirs, reads=False)
    sender = Sender(net, ours, peer, body)
    net.run(30.0)
    stalled = len(sender.left)
    net.run(30.0)
    assert len(sender.left) == stalled > len(body) - limits.SEND_BUFFER_MAX - (1 << 21)
    assert net.sent_bytes < 4 << 20, "nothing is sent beyond what the reader offered"
    assert receiver.opened


def test_a_peer_that_restarts_ends_the_streams_and_the_requests_with_it() -> None:
    net, ours, theirs, peer = pair()
    Receiver(net, theirs, reads=False)
    sender = Sender(net, ours, peer, bytes(1 << 20))
    net.run(1.0)
    ours.transport.ask(peer, ECHO, b"", net.now, timeout_s=60.0)
    again = Host(2, {ECHO: echo}, seed=9)
    net.hosts[1] = again
    net.run(40.0)
    kinds = [e.event for e in sender.events if isinstance(e, StreamEvent)]
    assert any(isinstance(kind, Broken) for kind in kinds)
    # a new stream with the new life works
    receiver = Receiver(net, again)
    Sender(net, ours, peer, b"fresh")
    assert net.run(20.0, until=lambda: receiver.done)
    assert receiver.got == b"fresh"


def test_who_knocked_at_many_is_heard_again_as_soon_as_it_has_restarted() -> None:
    net, ours, theirs, _ = pair()
    net.run(1.0)
    for number in range(1_000, 2_000):  # timestamps must not run ahead of the clock
        stranger = Identity(number.to_bytes(32, "big")).peer_key
        ours.transport.connect(stranger, ("203.0.113.1", number), net.now)
    net.run(1.0)
    seen = ours.transport.endpoint.find(theirs.identity.peer_key)
    assert seen is not None
    ours.transport.close(seen, net.now)
    ours.transport.ask(net.connect(ours, theirs), ECHO, b"", net.now)
    net.run(1.0)
    assert len(ended(ours)) == 1
    net.hosts[0] = again = Host(1, seed=5)
    again.transport.ask(net.connect(again, theirs), ECHO, b"", net.now)
    assert net.run(1.0, until=lambda: bool(ended(again)))


def test_a_stream_to_a_peer_that_restarted_unheard_ends_in_seconds() -> None:
    net, ours, theirs, peer = pair()
    receiver = Receiver(net, theirs)
    Sender(net, ours, peer, b"first")
    assert net.run(20.0, until=lambda: receiver.done)
    net.run(6.0)  # a handshake is begun every five seconds at most
    net.hosts[1] = Host(2, {ECHO: echo}, seed=9)
    late = Sender(net, ours, peer, b"second")
    assert net.run(5.0, until=lambda: any(_is_broken(event) for event in late.events))


@pytest.mark.parametrize("idle_s", [1.0, 200.0, 500.0])
def test_a_stream_that_is_opened_after_the_keys_died_leaves_with_the_new_ones(
    idle_s: float,
) -> None:
    net, ours, theirs, peer = pair()
    ours.transport.ask(peer, ECHO, b"", net.now)
    net.run(idle_s)
    receiver = Receiver(net, theirs)
    assert net.connect(ours, theirs) is peer, "it is kept for nine minutes, its keys for three"
    Sender(net, ours, peer, b"late")
    assert net.run(1.0, until=lambda: receiver.done)
    assert receiver.got == b"late"


def test_a_channel_without_keys_is_not_looked_at_again_and_again() -> None:
    net, ours, theirs, peer = pair()
    Receiver(net, theirs)
    Sender(net, ours, peer, bytes(100_000))
    net.run(170.0)
    net.hosts.pop()  # gone, just before the keys die
    sender = Sender(net, ours, peer, bytes(100_000))
    looks, look = [0], ours.transport.on_deadline

    def counted(now: Now) -> None:
        looks[0] += 1
        assert looks[0] < 200
        look(now)

    ours.transport.on_deadline = counted  # type: ignore[method-assign]
    net.run(40.0)
    assert any(_is_broken(event) for event in sender.events), "and given up in time"


def _is_broken(event: object) -> bool:
    return isinstance(event, StreamEvent) and isinstance(event.event, Broken)


# ---------------------------------------------------------------------------- bad input


def cut(net: Net, theirs: Host, ours: Host, plaintext: bytes) -> bool:
    """Tell whether a session ends when its peer says `plaintext`."""
    seen = theirs.transport.endpoint.find(ours.identity.peer_key)
    assert seen is not None
    theirs.transport.on_plaintext(seen, plaintext, net.now)
    net.settle()
    return any(isinstance(event, PeerDown) for event in theirs.events)


@pytest.mark.parametrize(
    ("plaintext", "ends"),
    [
        (encode_frame(PADDING, bytes(30)), False),
        (encode_frame(99, b"unknown and odd"), False),
        (encode_frame(98, b"unknown and even"), True),
        (encode_frame(CLOSE, b""), True),
        (encode_frame(REQUEST, b"short"), True),
        (encode_frame(REPLY, b"short"), True),
        (b"\2\xff\xff", True),
        (b"\2", True),
        (b"\x10\x05\0short", True),
        (encode_frame(16, bytes(19)), True),
        (encode_frame(22, b"\xff" * 17), True),
    ],
)
def test_what_breaks_the_rules_ends_the_session_and_what_is_only_new_does_not(
    plaintext: bytes, *, ends: bool
) -> None:
    net, ours, theirs, _ = pair()
    net.run(1.0)
    assert cut(net, theirs, ours, plaintext) == ends


@given(plaintexts=st.lists(st.binary(min_size=1, max_size=200), min_size=1, max_size=8))
def test_no_plaintext_makes_the_transport_raise(plaintexts: list[bytes]) -> None:
    net, ours, theirs, _ = pair()
    net.run(1.0)
    seen = theirs.transport.endpoint.find(ours.identity.peer_key)
    assert seen is not None
    theirs.transport.on_plaintexts(seen, plaintexts, net.now)
    for plaintext in plaintexts:
        theirs.transport.on_plaintext(seen, plaintext, net.now)
    net.run(5.0)


def test_frames_of_all_kinds_may_share_a_packet() -> None:
    net, ours, theirs, peer = pair()
    net.run(1.0)
    seen = theirs.transport.endpoint.find(ours.identity.peer_key)
    assert seen is not None
    requests = [pack(REQUEST, n, ECHO, b"%d" % n)[3:] for n in (1, 2)]
    mixed = encode_frames([(PADDING, b""), (REQUEST, requests[0]), (REQUEST, requests[1])])
    first = theirs.transport.on_plaintext(seen, mixed, net.now)
    assert first == pack(REPLY, 1, ECHO + 1, b"1")
    (packets, address), *_ = theirs.transport.take_sends(net.now)
    assert (len(packets), address) == (1, ours.address)
    assert peer.current is not None


def find(peer: Peer, request_id: int, body: bytes, now: Now) -> Answer | None:
    """Answer a lookup with what was asked."""
    return Number.NODES, body


def ask_stranger(number: int, body: bytes = b"who", **faults: object) -> tuple[Net, Host, Host]:
    ours, theirs = Host(1), Host(2, {Number.FIND_NODE: find, ECHO: echo})
    net = Net([ours, theirs], delay_s=(0.1, 0.1), **faults)  # type: ignore[arg-type]
    key = theirs.identity.peer_key
    asked = ours.transport.ask_at(key, theirs.address, number, body, net.now, timeout_s=30.0)
    assert asked is not None
    return net, ours, theirs


def test_a_harmless_request_to_a_stranger_takes_one_round_trip_and_is_carried_out_once() -> None:
    net, ours, theirs = ask_stranger(Number.FIND_NODE)
    assert net.run(0.21, until=lambda: bool(ended(ours)))
    assert ended(ours)[0].body == b"who"
    net.run(5.0)
    counters = theirs.transport.counters
    assert (counters.early_requests, counters.requests_in, len(ended(ours))) == (1, 0, 1)


@pytest.mark.parametrize("number", [Number.FIND_NODE, ECHO])
def test_a_request_that_begins_a_new_session_survives_that_the_peer_forgot_the_old(
    number: int,
) -> None:
    net, ours, theirs = ask_stranger(Number.FIND_NODE)
    net.run(200.0)  # the session is over
    seen = theirs.transport.endpoint.find(ours.identity.peer_key)
    assert seen is not None
    theirs.transport.endpoint.close(seen)
    key = theirs.identity.peer_key
    ours.transport.ask_at(key, theirs.address, number, b"again", net.now, timeout_s=30.0)
    net.run(5.0)
    assert [(end.outcome, end.body) for end in ended(ours)[1:]] == [(Outcome.REPLIED, b"again")]


def test_one_that_changes_something_waits_for_the_session() -> None:
    net, ours, theirs = ask_stranger(ECHO)
    assert net.run(0.5, until=lambda: bool(ended(ours)))
    counters = theirs.transport.counters
    assert (counters.early_requests, counters.requests_in) == (0, 1)
    early = theirs.transport.on_early(ours.identity.peer_key, ours.address, bytes((ECHO,)), net.now)
    assert early is None, "nor is it answered when it comes early"
    assert theirs.transport.on_early(ours.identity.peer_key, ours.address, b"", net.now) is None


def test_of_a_stranger_that_calls_back_and_leaves_no_early_request_stays() -> None:
    ours, theirs = Host(1), Host(2, {Number.FIND_NODE: find})
    net = Net([ours, theirs])
    net.loss = 1.0  # it does not hear the initiation, or acts as if
    ours.transport.ask_at(
        theirs.identity.peer_key, theirs.address, Number.FIND_NODE, b"who", net.now
    )
    net.settle()
    net.loss = 0.0
    peer = net.connect(theirs, ours)
    net.run(0.2)
    assert ours.transport.peer_count == 1
    theirs.transport.close(peer, net.now)
    net.run(10.0)
    assert [end.outcome for end in ended(ours)] == [Outcome.PEER_LOST]
    assert not ours.transport._early


@pytest.mark.parametrize("number", sorted(EARLY))
def test_an_early_answer_that_does_not_fit_is_asked_for_again_in_the_session(number: int) -> None:
    def large(peer: Peer, request_id: int, body: bytes, now: Now) -> Answer | None:
        return Number.RECORD, bytes(limits.DATAGRAM_BODY_MAX)

    ours, theirs = Host(1), Host(2, {number: large})
    net = Net([ours, theirs])
    key = theirs.identity.peer_key
    for _ in range(3):  # the same twice and more, at once
        ours.transport.ask_at(key, theirs.address, number, b"x", net.now, timeout_s=9.0)
    net.run(3.0)
    assert [len(end.body) for end in ended(ours)] == [limits.DATAGRAM_BODY_MAX] * 3
    assert theirs.transport.counters.early_requests == 1
    assert not ours.transport._early


def test_who_says_nothing_at_all_gets_one_packet_for_a_request_that_ends_soon() -> None:
    ours, theirs = Host(1), Host(2)
    net = Net([ours])
    key = theirs.identity.peer_key
    assert ours.transport.ask_at(key, theirs.address, Number.PING, b"", net.now, timeout_s=4.5)
    net.run(120.0)
    assert [end.outcome for end in ended(ours)] == [Outcome.TIMED_OUT]
    assert len(net.trace) == 1
    assert not ours.transport._early
    assert not ours.transport.has_session(key, net.now)


@given(seed=st.integers(0, 500))
def test_an_early_request_ends_once_on_a_lossy_path(seed: int) -> None:
    net, ours, _ = ask_stranger(Number.FIND_NODE, seed=seed, loss=0.3, copies=0.2)
    net.run(60.0)
    assert len(ended(ours)) == 1
    assert ended(ours)[0].body in (b"who", b"")
    assert not ours.transport._early


def test_the_same_seed_gives_the_same_bytes() -> None:
    def trace() -> tuple[int, bytes]:
        net, ours, theirs, peer = pair(loss=0.05, seed=11, delay_s=(0.01, 0.1))
        receiver = Receiver(net, theirs)
        Sender(net, ours, peer, random.Random(1).randbytes(300_000))
        net.run(60.0, until=lambda: receiver.done)
        return net.sent_bytes, bytes(receiver.got)

    assert trace() == trace()


def test_readable_is_told_of_what_comes() -> None:
    net, ours, theirs, peer = pair()
    Sender(net, ours, peer, b"word")
    net.run(1.0)
    kinds: list[Callable[..., object]] = [
        type(e.event) for e in theirs.events if isinstance(e, StreamEvent)
    ]
    assert StreamOpened in kinds
    assert Readable in kinds


def test_a_peer_that_goes_on_flooding_is_heard_no_more() -> None:
    door = Admission(AdmissionConfig(), network=bytes(32), private_network=False)
    ours, theirs = Host(1), Host(2, {ECHO: echo}, admission=door)
    net = Net([ours, theirs])
    net.connect(ours, theirs)
    net.run(1.0)
    seen = theirs.transport.endpoint.find(ours.identity.peer_key)
    assert seen is not None
    frame, now = pack(REQUEST, 7, ECHO, b"x"), net.now
    told = 0
    for _ in range(20):
        now = now.after(1.0)
        for _ in range(int(limits.PEER_REQUESTS_PER_S + limits.PEER_REQUESTS_BURST) + 10):
            answer = theirs.transport.on_plaintext(seen, frame, now)
            told += answer is not None and answer[HEAD.size - 1] == Number.BUSY
        if theirs.transport.on_plaintext(seen, frame, now.after(0.9)) is None:
            break
    assert told > 0
    assert door.standing(ours.identity.peer_key, now.mono_s) is not Standing.GOOD
    assert theirs.transport.on_plaintext(seen, frame, now.after(30.0)) is None
    later = now.after(3_600.0)
    assert theirs.transport.on_plaintext(seen, frame, later) is not None, "it is forgiven in time"


def heard(net: Net, ours: Host, theirs: Host, number: int) -> bool:
    """Tell whether a request is answered."""
    ours.events.clear()
    ours.transport.ask_at(
        theirs.identity.peer_key, theirs.address, number, b"x", net.now, timeout_s=2.0
    )
    net.run(5.0)
    (end,) = ended(ours)
    return end.outcome is Outcome.REPLIED


@pytest.mark.parametrize("number", [Number.FIND_NODE, ECHO])
def test_an_ignored_peer_is_answered_in_no_session_and_before_none_until_it_is_forgiven(
    number: int,
) -> None:
    door = Admission(AdmissionConfig(), network=bytes(32), private_network=False)
    ours, theirs = Host(1), Host(2, {Number.FIND_NODE: find, ECHO: echo}, admission=door)
    net = Net([ours, theirs])
    assert heard(net, ours, theirs, number)
    for _ in range(2):
        door.penalise(ours.identity.peer_key, ours.address, Offence.WRONG_BYTES, net.now.mono_s)
    ignored_s = net.now.mono_s
    assert not heard(net, ours, theirs, number)
    for host, other in ((ours, theirs), (theirs, ours)):
        peer = host.transport.endpoint.find(other.identity.peer_key)
        assert peer is not None
        host.transport.endpoint.close(peer)
    assert not heard(net, ours, theirs, number), "it came back by a new session"
    net.run(ignored_s + IGNORE_S - 10.0 - net.now.mono_s)
    assert not heard(net, ours, theirs, number)
    net.run(10.0)
    assert heard(net, ours, theirs, number)
