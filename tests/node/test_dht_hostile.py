"""A real node among hostile peers: it keeps answering, and counts what it refused."""

import random
import re
import select
import socket
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count

import pytest

from molia.base.crypto import Identity
from molia.base.ids import network_id, network_label
from molia.dht.blinding import period_at
from molia.dht.records import publish
from molia.node.system import SystemClock, SystemEntropy
from molia.wire.addresses import PeerAddress
from molia.wire.dht_messages import FindNode, Nodes
from molia.wire.features import FEATURES, VERSIONS
from molia.wire.messages import Busy, Contact, Error, ErrorCode, Hello, Number, Ping, Pong, encode
from molia.wire.noise import molia_profile
from molia.wire.peer import Peer
from molia.wire.requests import REPLY, Ended, Outcome, pack
from molia.wire.transport import Answer, Transport
from tests.node.process import Node, close_all, until
from tests.node.test_dht import get, joined, peer, put_well

NETWORK = network_id("molia")
NUMBERS = range(64, 84)
LATE_S = 2.5
Behaviour = Callable[[int, bytes], Answer | None]
HELLO = encode(
    Hello(version_min=VERSIONS[0], version_max=VERSIONS[1], features=FEATURES, software="liar/1",
          workers=1, network=bytes.fromhex(network_label(NETWORK)))
)  # fmt: skip


class Hostile:
    """A peer on a socket of its own that serves as `behave` says; a thread moves its packets."""

    def __init__(self, number: int, behave: Behaviour) -> None:
        self.identity = Identity(bytes((number,)) * 32)
        self.behave, self._clock = behave, SystemClock()
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((f"127.9.{number}.1", 0))
        self.socket.setblocking(False)
        self.address = self.socket.getsockname()
        handlers = {number: partial(self._on_request, number) for number in NUMBERS}
        self._wire = Transport(
            molia_profile(NETWORK), identity=self.identity, entropy=SystemEntropy(),
            handlers={Number.HELLO: self._on_hello, Number.PING: self._on_ping, **handlers},
        )  # fmt: skip
        self.asked = 0
        self._places: dict[int, PeerAddress] = {}
        self._late: list[tuple[float, Peer, int, Answer]] = []
        self._ended: dict[int, Ended[Peer]] = {}
        self._lock, self._is_over = threading.Lock(), False
        self._told = threading.Condition(self._lock)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._is_over = True
        self._thread.join()
        self.socket.close()

    def ask(self, node: Node, number: int, body: bytes, *, within_s: float = 20.0) -> Ended[Peer]:
        """Ask the node, and return what became of it."""
        place = self._place_of(node)
        with self._lock:
            request_id = self._wire.ask_at(
                place.peer_key, (place.host, place.port), number, body, self._clock.now(),
                timeout_s=within_s,
            )  # fmt: skip
            self._send()
        assert request_id is not None
        with self._told:
            assert self._told.wait_for(lambda: request_id in self._ended, within_s + 5.0), "no end"
            return self._ended.pop(request_id)

    def _place_of(self, node: Node) -> PeerAddress:
        if node.port not in self._places:
            told = node.client()("GET", "/node").json()["addresses"][0]
            self._places[node.port] = PeerAddress.parse(told)
        return self._places[node.port]

    def is_answered(self, node: Node, number: int = Number.PING, body: bytes = b"") -> bool:
        """Tell whether the node answers."""
        body = body or encode(Ping(serves=True))
        return self.ask(node, number, body).outcome is Outcome.REPLIED

    def tell(self, node_peer: Peer, plaintexts: list[bytes]) -> None:
        """Send the node sealed plaintexts that it did not ask for."""
        with self._lock:
            for plaintext in plaintexts:
                self._wire.endpoint.send(node_peer, plaintext, self._clock.now())
            self._send()

    # ------------------------------------------------------------------ packets

    def _run(self) -> None:
        while not self._is_over:
            readable, _, _ = select.select([self.socket], [], [], 0.02)
            with self._lock:
                now = self._clock.now()
                while readable:
                    try:
                        data, address = self.socket.recvfrom(65_536)
                    except OSError:
                        break
                    back = self._wire.datagram(data, address, now)
                    if back is not None:
                        self.socket.sendto(back, address)
                due_s = self._wire.next_deadline_s()
                if due_s is not None and due_s <= now.mono_s:
                    self._wire.on_deadline(now)
                for late in [late for late in self._late if late[0] <= now.mono_s]:
                    self._late.remove(late)
                    self._wire.reply(late[1], late[2], late[3], now)
                self._send()

    def _send(self) -> None:
        for packets, address in self._wire.take_sends(self._clock.now()):
            for packet in packets:
                self.socket.sendto(packet, address)
        for event in self._wire.take_events():
            if isinstance(event, Ended):
                self._ended[event.request_id] = event
                self._told.notify_all()

    # ------------------------------------------------------------------ answers

    def _on_hello(self, *_: object) -> Answer:
        return Number.HELLO, HELLO

    def _on_ping(self, asker: Peer, *_: object) -> Answer:
        assert asker.address is not None
        seen = (asker.address[0], asker.address[1])
        now = self._clock.now()
        return Number.PONG, encode(Pong(seen=seen, unix_ms=now.unix_ms, serves=True))

    def _on_request(
        self, number: int, asker: Peer, request_id: int, body: bytes, *_: object
    ) -> Answer | None:
        self.asked += 1
        answer = self.behave(number, body)
        if answer is None and asker.key:  # who asks in an initiation is answered at once or never
            late = (Number.NODES, endless(number, body)[1])
            self._late.append((self._clock.now().mono_s + LATE_S, asker, request_id, late))
        return answer


# ---------------------------------------------------------------------------- behaviours


def garbage(number: int, _: bytes) -> Answer:
    return number + 1, random.Random(number).randbytes(1_100)


def another_type(number: int, _: bytes) -> Answer:
    return (Number.PONG, b"") if number % 4 else (Number.ADDED, b"\x0a\x01\x00")


def endless(_: int, __: bytes) -> Answer:
    """Name 20 whom nobody ever heard of, at ports where nobody is."""
    contacts = [
        Contact(random.randbytes(32), (f"127.8.{n}.1", random.randrange(1_024, 65_536)))
        for n in range(20)
    ]
    return Number.NODES, encode(Nodes(tuple(contacts)))


def impossible(_: int, __: bytes) -> Answer:
    good = encode(Nodes((Contact(random.randbytes(32), ("127.8.7.6", 7071)),)))
    return Number.NODES, good.replace(bytes((127, 8, 7, 6)), bytes((224, 0, 0, 1)))


def misplaced(number: int, body: bytes) -> Answer:
    """Give a record that holds, of another place, to whoever looks for any."""
    if number != Number.GET:
        return endless(number, body)
    liar, now = Identity(b"l" * 32), int(time.time())
    record = publish(
        liar, NETWORK, b"x", b"lie", seq=99, expires=now + 600,
        period=period_at(liar.peer_key, now),
    )  # fmt: skip
    return Number.RECORD, b"\x0a" + bytes((len(record.encoded) & 0x7F | 0x80,
                                           len(record.encoded) >> 7)) + record.encoded  # fmt: skip


def malformed(number: int, _: bytes) -> Answer:
    """Give whoever looks for a record something that is none, and know nobody."""
    if number != Number.GET:
        return Number.NODES, encode(Nodes(()))
    return Number.RECORD, b"\x0a\x10" + bytes(16)


def busy(_: int, __: bytes) -> Answer:
    return Number.BUSY, encode(Busy(retry_after_ms=3_600_000, effort_bits=0))


def refusing(_: int, __: bytes) -> Answer:
    return Number.ERROR, encode(Error(code=ErrorCode.FAILED))


def slow(_: int, __: bytes) -> Answer | None:
    return None


BEHAVIOURS = (
    garbage,
    another_type,
    endless,
    impossible,
    misplaced,
    malformed,
    busy,
    refusing,
    slow,
)


# ---------------------------------------------------------------------------- the network


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[list[Node], list[Hostile]]]:
    """Two honest nodes, and hostile ones of every kind that both have in their tables."""
    homes = tmp_path_factory.mktemp("hostile")
    nodes = [Node(homes / f"home{number}") for number in range(2)]
    hostile = [Hostile(number, each) for number, each in enumerate(BEHAVIOURS, 1)]
    try:
        nodes[0].start()
        url = nodes[0].client()("GET", "/node").json()["addresses"][0]
        nodes[1].settings["MOLIA_DHT__BOOTSTRAP"] = str(url)
        nodes[1].start()
        for node in nodes:
            for each in hostile:
                assert each.is_answered(node)
        joined(nodes, len(hostile))
        yield nodes, hostile
    finally:
        for each in hostile:
            each.close()
        close_all(nodes)  # says so if there is a traceback in the log


def counted(node: Node, metric: str) -> dict[str, float]:
    """Return a metric by its label."""
    text = node.client()("GET", "/metrics").body.decode()
    found = re.findall(rf'^{metric}\{{.*\w+="(\w+)"\}} (\S+)$', text, re.MULTILINE)
    return {name: float(value) for name, value in found}


events = partial(counted, metric="molia_dht_events_total")
requests = partial(counted, metric="molia_wire_requests_total")


def test_records_and_lookups_work_among_liars_and_what_they_said_is_counted(
    network: tuple[list[Node], list[Hostile]],
) -> None:
    nodes, hostile = network
    for number, node in enumerate(nodes):
        stored = put_well(node, "motto", b"of %d" % number, acks=2)
        assert stored.status == 201, stored
    for number, owner in enumerate(nodes):
        for asker in nodes:
            found = get(asker, f"{peer(owner)}/motto")
            assert (found.status, found.body) == (200, b"of %d" % number), found
    assert get(nodes[0], f"{peer(nodes[1])}/nothing").code in (
        "record-not-found", "lookup-timed-out"
    )  # fmt: skip
    assert nodes[0].client()("GET", f"/lookup/{'a5' * 32}").status == 200
    assert all(each.asked for each in hostile)
    salts = count()

    def is_counted() -> bool:
        """Tell whether all of it was; whoever gives garbage may not have been asked yet."""
        counts = [events(node) for node in nodes]
        kinds = ("bad_replies", "records_malformed", "refused", "failed")
        if all(sum(each[name] for each in counts) for name in kinds):
            return True
        get(nodes[0], f"{peer(nodes[1])}/nothing-{next(salts)}")
        return False

    until(is_counted, "not all that the liars said is counted")


def test_garbage_under_every_number_is_answered_as_such_and_nothing_else_suffers(
    network: tuple[list[Node], list[Hostile]],
) -> None:
    nodes, (asker, *_) = network
    node, before = nodes[0], events(nodes[0])["bad_requests"]
    bodies = (b"", b"\xff" * 9, random.Random(5).randbytes(1_100), encode(FindNode(bytes(32))))
    asked = [(number, body) for number in NUMBERS for body in bodies]
    assert all(asker.is_answered(node, number, body or b"\0") for number, body in asked)
    assert events(node)["bad_requests"] >= before + 20
    assert asker.is_answered(node)
    assert get(node, f"{peer(nodes[1])}/motto").status == 200


def test_floods_of_noise_and_of_replies_that_nobody_asked_for_change_nothing(
    network: tuple[list[Node], list[Hostile]],
) -> None:
    nodes, (flooder, *_, honest) = network
    node, before, heard = nodes[0], events(nodes[0]), requests(nodes[0])
    ended = flooder.ask(node, Number.PING, encode(Ping(serves=True)))
    there = ended.peer.address
    assert there is not None
    chance = random.Random(6)
    noise = [chance.randbytes(size) for size in (65_507, 65_507, 1_200, 148, 92, 64, 1)]

    def flood() -> bool:
        """Flood the node; of a node that stands still meanwhile the system keeps little of it."""
        for n in range(700):
            flooder.socket.sendto(noise[n % len(noise)], there)
            if n % 100 == 0:
                told = endless(0, b"")[1]
                flooder.tell(ended.peer, [
                    pack(REPLY, chance.getrandbits(64), Number.NODES, told) for _ in range(100)
                ])  # fmt: skip
        until(lambda: honest.is_answered(node), "the node answers nobody any more", within_s=30.0)
        return requests(node)["unexpected_reply"] >= heard["unexpected_reply"] + 300

    until(flood, "nobody counts replies that nobody asked for")
    assert get(node, f"{peer(nodes[1])}/motto").status == 200
    after = events(node)
    assert after["contacts_impossible"] == before["contacts_impossible"]
    assert node.memory("VmRSS") < 400 * 1024 * 1024
