"""The node on the network: one transport, its sockets, and tasks that ask and answer peers.

    network = Network(settings, offload, clock=clock)
    tasks.start_soon(network.run, sockets)
    pong = await network.ask(key, address, Ping(), timeout_s=5.0)

Puzzles that a peer asks for, and our own identity proof, are solved in threads, slice by slice.
Source: docs/reference/requests.md, docs/reference/admission.md.
"""

import asyncio
from collections import Counter
from collections.abc import (
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Coroutine,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import asynccontextmanager
from dataclasses import dataclass
from socket import socket
from typing import Any, Final

import structlog

from molia import __version__
from molia.base import limits
from molia.base.config import AdmissionConfig
from molia.base.crypto import Identity
from molia.base.errors import BadAnswer, Busy, ConnectionLost, MoliaError, PeerRefused, TimedOut
from molia.base.ids import PeerKey, network_id, network_label
from molia.base.now import Now
from molia.node.asn import open_asn_database
from molia.node.offload import Offload
from molia.node.parts import Driven, Part
from molia.node.peer_streams import STREAM_HEAD, PeerStream
from molia.node.system import SystemClock, SystemEntropy
from molia.node.udp import UdpDriver
from molia.wire import messages
from molia.wire.addresses import Address as NumericAddress
from molia.wire.addresses import PeerAddress, pack_host
from molia.wire.admission import Admission
from molia.wire.channel import Channel
from molia.wire.cookies import Address, CookieSecret
from molia.wire.effects import PeerDown, PeerLeft, PeerUp, Roamed, SolvePuzzle
from molia.wire.features import FEATURES, VERSIONS
from molia.wire.handshake import EndpointConfig
from molia.wire.messages import ErrorCode, Message, Number
from molia.wire.noise import molia_profile
from molia.wire.peer import Peer
from molia.wire.proof import Proof, ProofSolver
from molia.wire.proving import OwnProof
from molia.wire.puzzle import PuzzleSolver, PuzzleTrailer
from molia.wire.requests import REQUEST, Ended, Outcome
from molia.wire.stream_events import Broken, StreamOpened
from molia.wire.transport import Answer, Handler, StreamEvent, Transport

log = structlog.get_logger(__name__)

PUZZLE_SLICE: Final = 20_000
PROOF_SLICE: Final = 64
PROOF_LOOK_S: Final = 60.0
StreamHandler = Callable[[PeerStream], Awaitable[None]]
"""Serves one stream: reads the request's body from it and writes the reply's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """What the node's network is made of."""

    identity: Identity
    name: str
    secret: bytes = b""
    """Of a private network; empty for an open one."""
    bind_ids: bool = True
    """Whether positions in the DHT follow from addresses."""
    worker: int = 0
    worker_count: int = 1
    admission: AdmissionConfig
    external: NumericAddress | None = None
    """Where others reach us, if somebody confirmed it."""

    @property
    def network(self) -> bytes:
        """The network's id."""
        return network_id(self.name, self.secret, bind_ids=self.bind_ids)


class Network:
    """One worker's side of the network."""

    def __init__(
        self,
        settings: NetworkSettings,
        offload: Offload,
        *,
        clock: SystemClock,
        handlers: Mapping[int, Handler] | None = None,
        stream_handlers: Mapping[int, StreamHandler] | None = None,
    ) -> None:
        self.settings = settings
        network = settings.network
        self._clock, self._offload = clock, offload
        self.external = settings.external
        """Where others reach us, as far as is known."""
        entropy = SystemEntropy()
        path = settings.admission.asn_database
        self._asn_of = open_asn_database(path) if path else None
        self.admission = Admission(
            settings.admission, network=network, private_network=bool(settings.secret),
            asn_of=self._asn_of,
        )  # fmt: skip
        self.transport = Transport(
            molia_profile(network, settings.secret),
            identity=settings.identity,
            entropy=entropy,
            handlers={Number.PING: self._on_ping, Number.HELLO: self._on_hello, **(handlers or {})},
            admission=self.admission,
            secret=CookieSecret(settings.identity.derive("cookie-root")),
            config=EndpointConfig(worker=settings.worker, features=FEATURES),
        )
        self.proof = OwnProof(
            peer_key=settings.identity.peer_key.key, network=network,
            private_network=bool(settings.secret), entropy=entropy,
        )  # fmt: skip
        self._driven = Driven(self.transport)
        self.driver = UdpDriver(self._driven, clock, after=self._on_events)
        self._hello = messages.encode(
            messages.Hello(
                version_min=VERSIONS[0], version_max=VERSIONS[1], features=FEATURES,
                software=f"molia/{__version__}", workers=settings.worker_count,
                network=bytes.fromhex(network_label(network)),
            )
        )  # fmt: skip
        self._entropy = entropy
        self._stream_handlers = dict(stream_handlers or {})
        self._waiting: dict[int, asyncio.Future[Ended[Peer]]] = {}
        self._streams: dict[tuple[Peer, int], PeerStream] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._served: Counter[Peer] = Counter()
        """Streams of each peer that are served now."""
        self._proving: ProofSolver | None = None

    def add(self, part: Part) -> None:
        """Let a part talk over the transport, from now on and beside what the network says."""
        assert self._driven.part is None, "one part is enough"
        self._driven.part = part
        self.transport.serve(part.handlers, once=part.once)

    def serve(
        self, handlers: Mapping[int, Handler], streams: Mapping[int, StreamHandler], *,
        once: Collection[int] = (),
    ) -> None:  # fmt: skip
        """Answer these numbers too, by datagram and by stream; both as at birth."""
        self.transport.serve(handlers, once=once)
        self._stream_handlers.update(streams)

    # ------------------------------------------------------------------ asking

    async def ask(
        self, key: PeerKey, address: Address, message: Message, *, timeout_s: float
    ) -> Message:
        """Return a peer's answer to a small message, after a handshake if there was none.

        A peer that has restarted is asked again: do not use it for what may not be done twice.
        Raises TimedOut, ConnectionLost, Busy when the peer says so, BadAnswer.
        """
        ended = await self._ask_once(key, address, message, timeout_s)
        if ended.outcome is Outcome.PEER_LOST and self.is_connected(key):
            ended = await self._ask_once(key, address, message, timeout_s)
        return _answer_of(ended, key)

    async def _ask_once(
        self, key: PeerKey, address: Address, message: Message, timeout_s: float
    ) -> Ended[Peer]:
        request_id = self.transport.ask_at(
            key, socket_address(address), message.number, messages.encode(message),
            self._clock.now(), timeout_s=timeout_s,
        )  # fmt: skip
        if request_id is None:
            raise _nobodys(key)
        done: asyncio.Future[Ended[Peer]] = asyncio.get_running_loop().create_future()
        self._waiting[request_id] = done
        self.driver.flush()
        try:
            return await done
        finally:
            self._waiting.pop(request_id, None)
            self.transport.requests.cancel(request_id)

    def is_connected(self, key: PeerKey) -> bool:
        """Return whether there is a session with a peer; one that restarted has a new one."""
        return self.transport.has_session(key, self._clock.now())

    def connect(self, key: PeerKey, address: Address) -> Peer:
        """Return the peer of a key. Raises ConnectionLost when the key cannot be anybody's."""
        peer = self.transport.connect(key, socket_address(address), self._clock.now())
        if peer is None:
            raise _nobodys(key)
        return peer

    @asynccontextmanager
    async def open_stream(
        self, key: PeerKey, address: Address, number: int
    ) -> AsyncIterator[PeerStream]:
        """Give a stream for a request of any size; the reply comes back on it.

        What is unfinished when the block ends is given up. Raises ConnectionLost, TimedOut, and
        Busy when the peer allows no more streams.
        """
        peer = self.connect(key, address)
        channel = self.transport.channel(peer, self._clock.now())
        stream_id = channel.open_stream()
        if stream_id is None:
            raise Busy(f"peer {key.short} takes no more streams now")
        stream = self._stream(peer, channel, stream_id)
        try:
            stream.request_id = int.from_bytes(self._entropy.token(8), "little")
            await stream.send(STREAM_HEAD.pack(REQUEST, stream.request_id, number))
            yield stream
        finally:
            self._release(stream)

    def on_external_address(self, address: NumericAddress) -> None:
        """Take note of where others reach us, once that is confirmed; the proof follows."""
        self.external = address
        packed = pack_host(address[0])
        if packed is not None:
            self.proof.on_address(packed)
            self._spawn(self._prove())

    def asn_of(self, host: str) -> int:
        """Return the ASN of a numeric host; 0 where none is known."""
        return (self._asn_of(host) or 0) if self._asn_of is not None else 0

    def current_proof(self) -> Proof | None:
        """Return the identity proof that is shown now."""
        return self.proof.current(self._clock.now().unix_s)

    def take_proof(self, encoded: bytes) -> None:
        """Show the proof that another worker found; one computes it for all."""
        proof = Proof.parse(encoded)
        if proof is not None and proof != self.current_proof() and self.proof.restore(proof):
            self._show_proof(encoded)

    def addresses(self) -> tuple[str, ...]:
        """Return where other nodes reach this one, the confirmed address first."""
        key = self.settings.identity.peer_key
        places = [self.external] if self.external is not None else []
        places += [pump.address for pump in self.driver.pumps]
        return tuple(str(PeerAddress(key, host, port)) for host, port in dict.fromkeys(places))

    @property
    def session_count(self) -> int:
        """How many peers have a session with this worker."""
        return self.transport.peer_count

    def sessions(self) -> Iterator[tuple[PeerKey, NumericAddress, float]]:
        """Yield who has a session with this worker, where, and for how long in seconds."""
        now_s = self._clock.now().mono_s
        for peer in self.transport.up_peers():
            session = peer.usable(now_s)
            if peer.identity is not None and peer.address is not None and session is not None:
                address = peer.address[0], peer.address[1]
                yield peer.identity, address, now_s - session.created_s

    # ------------------------------------------------------------------ life

    async def run(self, sockets: Sequence[socket]) -> None:
        """Serve until cancelled."""
        for sock in sockets:
            self.driver.add(sock)
        if self.external is not None:
            self.on_external_address(self.external)
        try:
            while True:
                await asyncio.sleep(PROOF_LOOK_S)
                self._spawn(self._prove())
        finally:
            self.transport.close_all(self._clock.now())
            self.driver.flush()
            self.driver.close()
            for task in list(self._tasks):
                task.cancel()
            for done in self._waiting.values():
                if not done.done():
                    done.set_exception(ConnectionLost("the node is stopping"))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    # ------------------------------------------------------------------ what peers ask

    def _on_ping(self, peer: Peer, _request_id: int, _body: bytes, now: Now) -> Answer | None:
        if peer.address is None:
            return None
        seen = (peer.address[0], peer.address[1])
        return Number.PONG, messages.encode(messages.Pong(seen=seen, unix_ms=now.unix_ms))

    def _on_hello(self, _peer: Peer, _request_id: int, body: bytes, _now: Now) -> Answer | None:
        if messages.decode(Number.HELLO, body) is None:
            return Number.ERROR, messages.encode(messages.Error(code=ErrorCode.REFUSED))
        return Number.HELLO, self._hello

    # ------------------------------------------------------------------ what happened

    def _on_events(self) -> bool:
        """Take what the transport has to tell; return whether there was anything."""
        events, part = self.transport.take_events(), self._driven.part
        for event in events:
            if isinstance(event, Ended):
                self._on_ended(event)
            elif isinstance(event, StreamEvent):
                self._on_stream_event(event)
            elif isinstance(event, SolvePuzzle):
                self._spawn(self._solve(event))
            elif isinstance(event, PeerLeft):
                if part is not None:
                    part.on_left(event.peer, self._clock.now())
            else:
                _log_peer(event)
        acted = part is not None and part.on_turn(self._clock.now())
        return bool(events) or acted

    def _on_ended(self, ended: Ended[Peer]) -> None:
        part = self._driven.part
        if part is not None and part.on_ended(ended, self._clock.now()):
            return
        done = self._waiting.pop(ended.request_id, None)
        if done is not None and not done.done():
            done.set_result(ended)

    def _on_stream_event(self, happened: StreamEvent) -> None:
        peer, event = happened.peer, happened.event
        if isinstance(event, StreamOpened):
            self._serve(peer, happened.channel, event.stream_id)
        elif isinstance(event, Broken):
            for key in [key for key in self._streams if key[0] is peer]:
                self._streams.pop(key).on_event(event)
        else:
            stream = self._streams.get((peer, event.stream_id))
            if stream is not None:
                stream.on_event(event)

    def _stream(self, peer: Peer, channel: Channel, stream_id: int) -> PeerStream:
        stream = PeerStream(peer, stream_id, channel, self._touched)
        self._streams[peer, stream_id] = stream
        return stream

    def _touched(self, peer: Peer) -> None:
        self.transport.touch(peer)
        self.driver.flush_soon()

    def _release(self, stream: PeerStream) -> None:
        """Forget a stream that its owner is done with; what is unfinished is given up."""
        if self._streams.pop((stream.peer, stream.stream_id), None) is not None:
            stream.give_up()

    def _serve(self, peer: Peer, channel: Channel, stream_id: int) -> None:
        """Serve a stream, if its peer is not ignored, and has not more of them than could still be
        begun: whoever takes as many as possible leaves as many to the next one, who then has half
        of what is left.

        Source: A. Choudhury, E. Hahne, Dynamic queue length thresholds for shared-memory packet
        switches (1998), with a factor of one.
        """
        stream = self._stream(peer, channel, stream_id)
        is_full = self._served[peer] >= limits.STREAM_TASKS_MAX - len(self._tasks)
        if is_full or self.transport.is_ignored(peer, self._clock.now().mono_s):
            self._release(stream)
            return
        self._served[peer] += 1

        def ended(_: "asyncio.Task[None]") -> None:
            self._served[peer] -= 1
            if not self._served[peer]:
                del self._served[peer]

        self._spawn(self._serve_stream(stream)).add_done_callback(ended)

    async def _serve_stream(self, stream: PeerStream) -> None:
        try:
            head = b""
            while len(head) < STREAM_HEAD.size:
                data = await stream.receive(STREAM_HEAD.size - len(head))
                if not data:
                    return
                head += data
            kind, stream.request_id, number = STREAM_HEAD.unpack(head)
            handler = self._stream_handlers.get(number) if kind == REQUEST else None
            if handler is not None:
                await handler(stream)
                await stream.finish()
        except MoliaError as error:
            log.debug("stream_ended", reason=str(error))
        finally:
            self._release(stream)

    # ------------------------------------------------------------------ work for threads

    async def _solve(self, wanted: SolvePuzzle) -> None:
        """Solve the puzzle that a peer asks, then knock again."""
        solver = PuzzleSolver(
            responder_key=wanted.peer.static, ephemeral=wanted.ephemeral.public,
            effort=wanted.effort, entropy=self._entropy,
        )  # fmt: skip
        trailer: PuzzleTrailer | None = None
        while trailer is None and wanted.peer.solving is wanted.ephemeral:
            trailer = await self._offload.run(solver.solve, PUZZLE_SLICE)
        if trailer is not None:
            endpoint = self.transport.endpoint
            endpoint.on_solved(wanted.peer, wanted.ephemeral, trailer, self._clock.now())
            self.driver.flush()

    async def _prove(self) -> None:
        """Compute our identity proof, where one is wanted and none is being computed.

        The first worker does, and tells the others.
        """
        solver = self.proof.work(self._clock.now().unix_s)
        if solver is None or solver is self._proving or self.settings.worker:
            return
        self._proving = solver
        proof: Proof | None = None
        while proof is None and self.proof.work(self._clock.now().unix_s) is solver:
            proof = await self._offload.run(solver.solve, PROOF_SLICE)
        if proof is not None:
            self.proof.on_solved(solver, proof)
            self._show_proof(proof.encode())
            log.info("identity_proof_found", epoch=proof.epoch)

    def _show_proof(self, encoded: bytes) -> None:
        self.transport.endpoint.set_proof(encoded)
        if self._driven.part is not None:
            self._driven.part.on_proof(self._clock.now())
            self.driver.flush_soon()


def socket_address(address: Address) -> Address:
    """Return an address in the form that a socket of its family gives: of IPv6 in four parts."""
    if len(address) == 2 and ":" in address[0]:
        return address[0], address[1], 0, 0
    return address


def _name_of(peer: Peer) -> str:
    return peer.identity.short if peer.identity is not None else ""


def _nobodys(key: PeerKey) -> ConnectionLost:
    return ConnectionLost(f"peer {key.short} is this node, or its key is nobody's")


def _answer_of(ended: Ended[Peer], key: PeerKey) -> Message:
    """Return the message that a request ended in. Raises what it ended in else."""
    if ended.outcome is Outcome.TIMED_OUT:
        raise TimedOut(f"peer {key.short} did not answer in time")
    if ended.outcome is Outcome.PEER_LOST:
        raise ConnectionLost(f"the session with peer {key.short} ended")
    message = messages.decode(ended.number, ended.body)
    if message is None:
        raise BadAnswer(f"peer {key.short} gave an answer that is none")
    if isinstance(message, messages.Busy):
        raise Busy(f"peer {key.short} is busy", retry_after_s=-(-message.retry_after_ms // 1000))
    if isinstance(message, messages.Error):
        raise PeerRefused(f"peer {key.short} refused: error {message.code}")
    return message


def _log_peer(event: PeerUp | PeerDown | Roamed) -> None:
    peer = _name_of(event.peer)
    if isinstance(event, PeerUp):
        log.debug("peer_up", peer=peer)
    elif isinstance(event, PeerDown):
        log.debug("peer_down", peer=peer, reason=event.reason)
    else:
        log.debug("peer_moved", peer=peer)
