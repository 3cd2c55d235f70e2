"""Whatever arrives is dropped and counted: no exception, no state, no more bytes than came in."""

import random
import tracemalloc
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base.crypto import ExchangeKey, Identity
from molia.base.ids import network_id
from molia.base.limits import UNCONFIRMED_MAX
from molia.base.now import Now
from molia.sim.entropy import SeededEntropy
from molia.wire import hello as payloads
from molia.wire import packet
from molia.wire.cookies import Address, mac1_key, stamp
from molia.wire.effects import PeerUp, SolvePuzzle
from molia.wire.endpoint import Endpoint
from molia.wire.gate import OpenAdmission, Verdict
from molia.wire.handshake import EndpointConfig
from molia.wire.hello import Hello
from molia.wire.noise import WIREGUARD, Initiator, Profile, molia_profile
from molia.wire.peer import WIREGUARD_TIMING, Peer
from molia.wire.peers import PeerTable, Timestamps
from molia.wire.puzzle import Effort, PuzzleTrailer
from tests.wire.link import OURS, START, Link, Node, meet, two

AWAY: Address = ("203.0.113.5", 5)
MOLIA_SIZES = (0, 3, 4, 8, 31, 32, 72, 92, 162, 1200, 1201)


def state(endpoint: Endpoint) -> tuple[object, ...]:
    """Return all that an endpoint keeps of others, but counters."""
    table = endpoint._table
    sessions = [
        (s.index, s.sent, s._highest, s._missing, s.peer.address) for s in table.sessions.values()
    ]
    return (
        list(table.confirmed), list(table.unconfirmed), list(table.pendings), sessions,
        list(table.timestamps._newest.items()), len(endpoint._outbox), len(endpoint._wakes),
    )  # fmt: skip


def dropped(endpoint: Endpoint, data: bytes, now: Now = START, source: Address = AWAY) -> str:
    """Give a packet that must be dropped in silence; return the reason that was counted."""
    before, kept = endpoint.counters.as_dict(), state(endpoint)
    assert endpoint.datagram(data, source, now) is None
    assert state(endpoint) == kept
    after = endpoint.counters.as_dict()
    changed = [n for n in after if after[n] != before[n] and n != "packets_in"]
    assert len(changed) == 1, changed
    assert after[changed[0]] == before[changed[0]] + 1
    return changed[0]


@pytest.fixture(scope="module")
def talking() -> tuple[Link, Node, Node]:
    """Two nodes in the middle of a session and of a handshake, for packets that change nothing."""
    link, ours, theirs = two()
    meet(link, ours, theirs)
    ours.endpoint.send(ours.endpoint._table.primary[theirs.identity.exchange_key.public],
                       b"data", link.now)  # fmt: skip
    link.run(1.0)
    third = Node(3)
    ours.endpoint.connect(third.key, third.address, link.now)
    link.settle()
    return link, ours, theirs


@given(data=st.data())
def test_random_packets_are_dropped_and_counted(
    talking: tuple[Link, Node, Node], data: st.DataObject
) -> None:
    link, ours, _ = talking
    head = data.draw(st.sampled_from([b"", *(bytes((n, 0, 0, 0)) for n in range(6)), b"\1\1\0\0"]))
    index = data.draw(
        st.sampled_from([b"", *ours.endpoint._sessions, *ours.endpoint._table.pendings])
    )
    size = data.draw(st.sampled_from(MOLIA_SIZES))
    filler = random.Random(data.draw(st.integers(0, 2**32))).randbytes(size)
    raw = (head + index + filler)[:size]
    reason = dropped(ours.endpoint, raw, link.now)
    assert reason in ("bad_type", "bad_size", "bad_mac1", "unknown_index", "bad_cookie", "forged")


@given(number=st.integers(0, 30), at=st.integers(0, 2000), bit=st.integers(0, 7))
def test_replayed_reflected_truncated_and_flipped_packets_change_nothing(
    talking: tuple[Link, Node, Node], number: int, at: int, bit: int
) -> None:
    link, ours, theirs = talking
    _, source, target, raw = link.trace[number % len(link.trace)]
    victim = {ours.address: ours, theirs.address: theirs}.get(target, theirs).endpoint
    author = {ours.address: ours, theirs.address: theirs}[source].endpoint
    dropped(victim, raw, link.now, source)  # replayed
    dropped(author, raw, link.now, source)  # reflected
    dropped(victim, raw[: at % len(raw)], link.now, source)
    flipped = bytearray(raw)
    flipped[at % len(raw)] ^= 1 << bit
    dropped(victim, bytes(flipped), link.now, source)


@given(number=st.integers(0, 30), at=st.integers(0, 2000), bit=st.integers(0, 7))
def test_a_burst_drops_the_bad_ones_of_its_packets(
    talking: tuple[Link, Node, Node], number: int, at: int, bit: int
) -> None:
    link, ours, theirs = talking
    burst = [raw for _, source, target, raw in link.trace if target == theirs.address]
    flipped = bytearray(burst[number % len(burst)])
    flipped[at % len(flipped)] ^= 1 << bit
    kept = state(theirs.endpoint)
    data = [raw for raw in burst if raw[:4] == packet.DATA]
    for packets in (burst, [bytes(flipped), *burst], data, [*data, bytes(flipped)], []):
        assert theirs.endpoint.burst(packets, ours.address, link.now) == []
    assert state(theirs.endpoint) == kept


# ---------------------------------------------------------------------------- initiations


def initiation(
    target: Node, *, seed: bytes = b"\7" * 32, profile: Profile = OURS,
    ephemeral: bytes = b"e" * 32, payload: bytes | None = None, sender: bytes = b"\0abc",
    **said: object,
) -> bytes:  # fmt: skip
    """Return an initiation to `target` by the owner of `seed`, sound but for what is asked."""
    identity = Identity(seed)
    noise = Initiator(
        profile, static=identity.exchange_key, responder=target.identity.exchange_key.public,
        ephemeral=ExchangeKey(ephemeral),
    )  # fmt: skip
    timestamp = payloads.tai64n(START.unix_s)
    words = Hello(timestamp=timestamp, identity=identity.peer_key)
    if payload is None:
        changed = replace(words, **said)  # type: ignore[arg-type]
        payload = payloads.encode_hello(changed) if profile.is_molia else changed.timestamp
    sealed = noise.initiate(payload)
    assert sealed
    trailer = PuzzleTrailer() if profile.is_molia else None
    parts = packet.Initiation(sender, noise.ephemeral.public, *sealed, trailer)
    key = mac1_key(profile, target.identity.exchange_key.public)
    return stamp(packet.encode_initiation(parts), key=key, cookie=b"")


def test_a_sound_initiation_is_answered_with_no_more_bytes() -> None:
    node = Node(1)
    raw = initiation(node)
    answer = node.endpoint.datagram(raw, AWAY, START)
    assert answer
    assert len(answer) <= len(raw)
    assert dropped(node.endpoint, raw) == "stale_timestamp"


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"identity": Identity(b"\x08" * 32).peer_key}, "wrong_identity"),
        ({"features": 1}, "unknown_feature"),
        ({"features": 2}, None),
        ({"versions": (2, 9)}, "no_common_version"),
        ({"versions": (1, 9)}, None),
        ({"versions": (2, 1)}, "bad_hello"),
        ({"versions": (0, 1)}, "bad_hello"),
        ({"payload": b"short"}, "bad_size"),
        ({"payload": b"twelve bytes" + b"\x02"}, "bad_hello"),
        ({"payload": payloads.tai64n(START.unix_s)}, "bad_hello"),
        ({"seed": b"\1" * 32}, "reflected"),
        ({"profile": molia_profile(bytes(32))}, "bad_initiation"),
        ({"profile": molia_profile(network_id("x", b"s" * 32), b"s" * 32)}, "bad_mac1"),
        ({"proof": bytes(129)}, "bad_hello"),
    ],
)
def test_each_fault_of_an_initiation_has_its_counter(
    changes: dict[str, object], reason: str | None
) -> None:
    node = Node(1)
    raw = initiation(node, **changes)  # type: ignore[arg-type]
    before = len(node.endpoint._table.timestamps)
    answer = node.endpoint.datagram(raw, AWAY, START)
    assert (answer is None) == (reason is not None)
    if reason:
        assert node.endpoint.counters.as_dict()[reason] == 1
        assert node.endpoint.peer_count == node.endpoint.session_count == 0
        assert len(node.endpoint._table.timestamps) - before <= 1


def test_one_key_is_answered_once_in_20_ms_and_in_the_order_of_its_timestamps() -> None:
    node, later = Node(1), START.unix_s + 1
    answers = []
    for number, (unix_s, after_s) in enumerate(
        [(later, 0.0), (later + 1, 0.019), (later + 1, 0.021), (later, 1.0), (later + 2, 2.0)]
    ):
        stamped = payloads.tai64n(unix_s)
        raw = initiation(node, timestamp=stamped, ephemeral=bytes((number + 1,)) * 32)
        answers.append(node.endpoint.datagram(raw, AWAY, START.after(after_s)) is not None)
    assert answers == [True, False, True, False, True]
    counters = node.endpoint.counters
    assert (counters.too_frequent, counters.stale_timestamp) == (1, 1)
    assert node.endpoint.session_count == 1


def test_workers_of_one_peer_have_sessions_of_their_own() -> None:
    node = Node(1)
    for worker in range(16):
        raw = initiation(
            node, sender=bytes((worker,)) + b"abc", ephemeral=bytes((worker + 1,)) * 32
        )
        assert node.endpoint.datagram(raw, AWAY, START) is not None
    assert node.endpoint.peer_count == node.endpoint.session_count == 16


def test_our_indices_name_our_worker() -> None:
    node = Node(1, config=EndpointConfig(worker=11))
    for number in range(1, 30):
        raw = initiation(node, seed=bytes((number + 40,)) * 32, ephemeral=bytes((number,)) * 32)
        assert node.endpoint.datagram(raw, AWAY, START)
    assert {packet.worker_of(index) for index in node.endpoint._sessions} == {11}


def test_wireguard_knows_no_strangers() -> None:
    node = Node(1, profile=WIREGUARD)
    raw = initiation(node, profile=WIREGUARD)
    assert dropped(node.endpoint, raw) == "unknown_peer"
    node.endpoint.configure(Identity(b"\7" * 32).exchange_key.public, START)
    answer = node.endpoint.datagram(raw, AWAY, START)
    assert answer
    assert len(answer) == 92


def test_under_load_nothing_is_spent_before_a_cookie() -> None:
    node = Node(1, admission=OpenAdmission(loaded=True))
    raw = initiation(node)
    kept = state(node.endpoint)
    answer = node.endpoint.datagram(raw, AWAY, START)
    assert answer
    assert answer[:4] == packet.COOKIE
    assert len(answer) < len(raw)
    assert state(node.endpoint) == kept
    assert node.endpoint.counters.cookies_out == 1


def test_an_honest_peer_brings_its_cookie_at_once_though_both_sides_are_loaded() -> None:
    nodes = [Node(number, admission=OpenAdmission(loaded=True)) for number in (1, 2)]
    link = Link(nodes)
    meet(link, *nodes)
    assert nodes[1].endpoint.counters.cookies_out == 1
    assert nodes[0].endpoint.counters.cookies_in >= 1
    assert nodes[0].ups() == nodes[1].ups() == 1


class Asking(OpenAdmission):
    """Asks a puzzle of 9 bits of everybody."""

    def admit(self, *words: object) -> Verdict:
        """Admit whoever says 9 bits."""
        trailer = words[2]
        assert isinstance(trailer, PuzzleTrailer)
        return Verdict.ADMIT if trailer.bits == 9 else Verdict.PUZZLE

    def effort(self, *_: object) -> Effort:
        """Ask 9 bits in epoch 5."""
        return Effort(9, 5, b"tag")


def test_a_puzzle_is_handed_out_and_its_answer_opens_the_door() -> None:
    ours, theirs = Node(1), Node(2, admission=Asking())
    link = Link([ours, theirs])
    peer = ours.endpoint.connect(theirs.key, theirs.address, link.now)
    link.run(1.0)
    (task,) = [event for event in ours.events if isinstance(event, SolvePuzzle)]
    assert (task.peer, task.effort) == (peer, Effort(9, 5, b"tag"))
    wrong = ExchangeKey(b"w" * 32)
    ours.endpoint.on_solved(task.peer, wrong, PuzzleTrailer(1, 9, 5, b"solution"), link.now)
    assert ours.endpoint.take_effects() == []
    ours.endpoint.on_solved(
        task.peer, task.ephemeral, PuzzleTrailer(1, 9, 5, b"solution"), link.now
    )
    link.run(1.0)
    assert any(isinstance(event, PeerUp) for event in ours.events)
    sent = [packet.parse_initiation(p, OURS) for _, _, _, p in link.trace
            if p[:4] == packet.INITIATION]  # fmt: skip
    assert sent[-1].ephemeral == task.ephemeral.public
    assert theirs.endpoint.counters.refused_puzzle == 1


class Strict(OpenAdmission):
    """Admits no one from AWAY and allows no identity."""

    def admit(self, *words: object) -> Verdict:
        """Refuse AWAY."""
        return Verdict.RATE if words[0] == AWAY else Verdict.ADMIT

    def allows(self, *_: object) -> bool:
        """Allow nobody."""
        return False


def test_the_door_refuses_in_silence_by_address_and_by_identity() -> None:
    node = Node(1, admission=Strict())
    raw = initiation(node)
    assert dropped(node.endpoint, raw) == "refused_rate"
    assert node.endpoint.datagram(raw, ("198.51.100.1", 1), START) is None
    assert node.endpoint.counters.refused_identity == 1
    assert node.endpoint.peer_count == 0


# ---------------------------------------------------------------------------- floods


def test_a_flood_of_spoofed_initiations_leaves_memory_flat_and_reflects_less_than_it_sends() -> (
    None
):
    node = Node(1, admission=OpenAdmission(loaded=True))
    template = initiation(node)
    key = mac1_key(OURS, node.identity.exchange_key.public)
    entropy = random.Random(1)

    def flood(count: int) -> None:
        for number in range(count):
            body = template[:8] + entropy.randbytes(32) + template[40:-32]
            raw = stamp(body, key=key, cookie=b"")
            answer = node.endpoint.datagram(raw, (f"10.0.{number % 251}.1", number), START)
            assert answer is None or len(answer) <= len(raw)

    flood(100)
    tracemalloc.start()
    flood(2_000)
    grown = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert grown < 20_000
    assert state(node.endpoint)[:5] == ([], [], [], [], [])


def test_strangers_who_knock_and_leave_fill_a_bounded_room_and_drive_no_one_out() -> None:
    link, ours, theirs = two()
    meet(link, ours, theirs)
    table = theirs.endpoint._table
    for number in range(40):
        seed = number.to_bytes(32, "little")
        raw = initiation(theirs, seed=seed, ephemeral=bytes((number + 1,)) * 32)
        assert theirs.endpoint.datagram(raw, AWAY, link.now)
    assert len(table.unconfirmed) == 40 < UNCONFIRMED_MAX
    assert len(theirs.endpoint._wakes) < 10
    link.run(181.0)
    assert len(table.unconfirmed) == 0
    assert theirs.endpoint.session_count <= 3
    assert theirs.endpoint.find(ours.key)


def test_the_tables_stay_within_their_bounds() -> None:
    table = PeerTable(SeededEntropy(1), worker=0, peers_max=100)
    gone = []
    for number in range(1_500):
        static = number.to_bytes(32, "big")
        peer = Peer(static, identity=None, address=AWAY, timing=WIREGUARD_TIMING)
        peer.heard_s = float(number % 7)
        peer.is_configured = number == 0
        gone += table.add(peer)
        gone += table.add_unconfirmed(
            Peer(b"u" + static[1:], identity=None, address=AWAY, timing=WIREGUARD_TIMING)
        )
    assert len(table.confirmed) == 100
    assert len(table.unconfirmed) == UNCONFIRMED_MAX
    assert table.find(bytes(33)), "a configured peer stays"
    assert len(gone) == 1_400 + 1_500 - UNCONFIRMED_MAX
    assert set(table.primary) == {peer.static for peer in table.confirmed.values()}
    stamps = Timestamps()
    for number in range(33_000):
        stamps.note(number.to_bytes(33, "big"), b"t", 0.0)
    assert len(stamps) == 32_768
    assert stamps.is_newer(bytes(33), b"a")
    assert not stamps.is_newer((32_999).to_bytes(33, "big"), b"t")
