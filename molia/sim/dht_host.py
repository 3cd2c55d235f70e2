"""A node of the simulated network: the DHT's engine on a wire, with a shelf, and its accounts.

Does what `node/dht.py` does around the same engine. Beside that it keeps the books: each request
is charged to the user's operation that it is for, or to what the node does of itself.
Source: docs/reference/simulator.md, "What is measured".
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Final

from molia.base.crypto import Identity
from molia.base.ids import PeerKey
from molia.base.limits import REQUEST_TRIES_MAX
from molia.base.now import Now
from molia.dht.config import DhtConfig
from molia.dht.contact import Contact, Space
from molia.dht.effects import Finished, Reachable, Snapshot, Store
from molia.dht.engine import Engine
from molia.dht.ports import Asker
from molia.sim.entropy import SeededEntropy
from molia.sim.net import HEADERS_BYTES, Net, Seat
from molia.sim.shelf import MemoryShelf
from molia.sim.tally import Tally
from molia.sim.wire_host import WireHost
from molia.wire.addresses import Address
from molia.wire.handshake import EndpointConfig
from molia.wire.messages import Number
from molia.wire.noise import Profile
from molia.wire.packet import DATA_SIZE_MIN
from molia.wire.peer import Peer
from molia.wire.requests import HEAD, Ended
from molia.wire.transport import Answer, Handler, Transport

SYNC_S: Final = (0.003, 0.012)
"""How long a write takes to be on disk."""
FRAME_BYTES: Final = HEAD.size + DATA_SIZE_MIN + HEADERS_BYTES
"""What a request or reply in a session weighs beside its body."""
SESSION_BYTES: Final = 1_500
"""About what a new session costs both sides: early data is padded, then comes a keepalive."""
_CHECKS: Final = frozenset({Number.PING})
_WALKS: Final = frozenset({Number.FIND_NODE, Number.FIND_REGION, Number.GET, Number.GET_PROVIDERS})
_REPAIRS: Final = frozenset({Number.PUT, Number.ADD_PROVIDER, Number.DIGEST, Number.PULL})
_QUIET: Final = (Number.FIND_NODE, Number.FIND_REGION, Number.GET, Number.GET_PROVIDERS)
"""Requests that are answered at once and change nothing."""


def part_of(number: int) -> str:
    """Return which part of the upkeep a request of this number belongs to."""
    if number in _CHECKS:
        return "check"
    if number in _WALKS:
        return "walk"
    return "repair" if number in _REPAIRS else "reach"


@dataclass(slots=True)
class Books:
    """The accounts of one network, shared by its nodes."""

    upkeep: dict[str, int] = field(
        default_factory=lambda: dict.fromkeys(("check", "walk", "repair", "reach"), 0)
    )
    """Bytes of requests and replies beside operations, by part."""
    seat_at: Callable[[Address], Seat | None] = lambda _: None
    """Who is at an address: the answer to an operation is not the upkeep of who gives it."""


@dataclass(slots=True)
class Operation:
    """What a user asked of a node, and who wants to know what came of it."""

    tally: Tally
    done: Callable[[object, float], None]
    """Told the result, None if the node went away, and how long it took."""
    begun_s: float


class DhtHost:
    """One life of a node."""

    def __init__(
        self, net: Net, seat: Seat, *, books: Books, wire: type[Transport], profile: Profile,
        identity: Identity, space: Space, own: Contact | None, shelf: MemoryShelf,
        config: DhtConfig, entropies: Callable[[str], SeededEntropy],
        tail: bytes = b"", features: int = 0,
    ) -> None:  # fmt: skip
        """tail: bytes that a later version would add to its requests. features: what it has."""
        self.net, self.world, self.seat, self.shelf = net, net.world, seat, shelf
        self._books, self._tail = books, tail
        self._rng = entropies("disk").random
        self._charged: dict[int, Operation | str] = {}
        """Requests on their way: the operation that they belong to, or the part of the upkeep."""
        self._running: dict[int, Operation] = {}
        self._current: Operation | None = None
        self._born_bytes = seat.bytes_out
        self._is_called = False
        """Whether a handler may have left effects."""
        self.is_reachable: bool | None = None
        """What the node last said of itself."""
        self.on_snapshot: Callable[[bytes], None] = lambda _: None
        self.engine = Engine(
            config, identity=identity.peer_key, space=space, own=own, wire=self, shelf=shelf,
            entropy=entropies("engine"),
        )  # fmt: skip
        handlers = self._watched(self.engine.handlers)
        self._link = WireHost(
            net, seat, wire=wire, profile=profile, identity=identity, entropy=entropies("wire"),
            handlers=handlers, once=Engine.once, config=EndpointConfig(features=features),
        )  # fmt: skip
        self._link.on_ended = self._on_ended
        self._link.due_s, self._link.on_due = self.engine.next_deadline_s, self._on_due
        self._link.after = self._after_datagram
        self._transport = self._link.transport

    def _watched(self, handlers: Mapping[int, Handler]) -> dict[int, Handler]:
        """Return handlers that tell when one of them was called that may move a deadline."""

        def watched(handler: Handler) -> Handler:
            def called(peer: Peer, request_id: int, body: bytes, now: Now) -> Answer | None:
                self._is_called = self._link.is_touched = True
                return handler(peer, request_id, body, now)

            return called

        quiet: dict[int, Handler] = {
            number: handlers[number] for number in _QUIET if number in handlers
        }
        return {**{number: watched(handler) for number, handler in handlers.items()}, **quiet}

    # ------------------------------------------------------------------ life

    def start(self, seeds: list[tuple[PeerKey, Address]], snapshot: bytes) -> None:
        """Begin to join."""
        self.engine.on_rows(len(self.shelf))
        self.engine.start(seeds, self.world.now, snapshot=snapshot)
        self.flush()

    def resume(self, contacts: list[Contact], sizes: list[list[int]]) -> None:
        """Go on as one who has long been there. sizes: see `Engine.resume`."""
        self.engine.start([], self.world.now)
        self.engine.resume(contacts, sizes, self.world.now)
        self.flush()

    def stop(self, *, goodbye: bool) -> None:
        """End; operations that ran are told that the node went away."""
        running, self._running = self._running, {}
        self._link.stop(goodbye=goodbye)
        for operation in running.values():
            operation.done(None, self.world.now.mono_s - operation.begun_s)
        for part in list(vars(self.engine).values()):
            if hasattr(part, "__dict__"):
                vars(part).clear()  # they know each other: nothing else would free them
        vars(self.engine).clear()
        self._link.forget()
        self._charged.clear()

    @property
    def is_up(self) -> bool:
        """Whether the node runs."""
        return self.seat.host is self._link

    # ------------------------------------------------------------------ operations

    def begin(self, operation: Operation, start: Callable[[Engine, Now], int]) -> None:
        """Begin an operation; all that it sends is charged to it."""
        self._current = operation
        operation_id = start(self.engine, self.world.now)
        self._running[operation_id] = operation
        self.flush()

    def flush(self) -> None:
        """Do what the engine and the wire want done."""
        self._take_effects()
        self._current = None
        self._link.is_touched = True
        self._link.settle()

    def _after_datagram(self) -> None:
        if self._is_called:
            self._is_called = False
            self._take_effects()

    def _take_effects(self) -> None:
        for effect in self.engine.take_effects():
            if isinstance(effect, Store):
                self.world.after(self._rng.uniform(*SYNC_S), self._on_synced, effect)
            elif isinstance(effect, Finished):
                self._finish(effect)
            elif isinstance(effect, Reachable):
                self.is_reachable = effect.is_reachable
            elif isinstance(effect, Snapshot):
                self.on_snapshot(effect.data)

    def _finish(self, effect: Finished) -> None:
        operation = self._running.pop(effect.operation_id, None)
        if operation is None and self._current is not None:
            operation = self._current  # it ended while it was begun
        if operation is not None:
            operation.done(effect.result, self.world.now.mono_s - operation.begun_s)

    def _on_synced(self, store: Store) -> None:
        if not self.is_up:
            return
        now = self.world.now
        applied = self.shelf.swap(
            store.kind, store.loc, store.row, expected=store.expected,
            expires_unix_s=store.expires_unix_s, now=now,
        )  # fmt: skip
        self.engine.on_stored(store.token, applied, now)
        self.flush()

    # ------------------------------------------------------------------ what the wire tells

    def _on_ended(self, ended: Ended[Peer], now: Now) -> None:
        charged = self._charged.pop(ended.request_id)
        size = len(ended.body) + FRAME_BYTES if ended.number else 0
        if isinstance(charged, str):
            self._current = None
            self._books.upkeep[charged] += size
        else:
            self._current = charged
            charged.tally.size_bytes += size
            at = ended.peer.address
            seat = None if at is None else self._books.seat_at((at[0], at[1]))
            if seat is not None:
                seat.charged_bytes += size
        self._link.is_touched = True
        self.engine.on_ended(ended, now)
        self._take_effects()
        self._current = None

    def _on_due(self, now: Now) -> None:
        # a lookup that waits too long asks the next one here: nobody says whose lookup it was
        self._current = next(iter(self._running.values()), None)
        self.engine.on_egress(self.seat.bytes_out - self._born_bytes, now)
        self.engine.on_deadline(now)
        self._take_effects()
        self._current = None

    # ------------------------------------------------------------------ the engine's wire

    def ask_at(
        self, key: PeerKey, address: Address, number: int, body: bytes, now: Now, *,
        timeout_s: float | None = None, tries: int = REQUEST_TRIES_MAX,
    ) -> int | None:  # fmt: skip
        """Ask whoever has this key, and put it on somebody's account."""
        operation = self._current if number not in _CHECKS else None
        if operation is not None and not self.has_session(key, now):
            operation.tally.size_bytes += SESSION_BYTES
            self.seat.charged_bytes += SESSION_BYTES
        request_id = self._transport.ask_at(
            key, address, number, body + self._tail, now, timeout_s=timeout_s, tries=tries
        )
        size = len(body) + len(self._tail) + FRAME_BYTES
        self._link.is_touched = True
        if request_id is None:
            return None
        if operation is None:
            part = part_of(number)
            self._charged[request_id] = part
            self._books.upkeep[part] += size
        else:
            self._charged[request_id] = operation
            operation.tally.requests += 1
            operation.tally.size_bytes += size
            self.seat.charged_bytes += size
        return request_id

    def reply(self, peer: Asker, request_id: int, answer: Answer, now: Now) -> None:
        """Answer a request later."""
        assert isinstance(peer, Peer), "who asked is the transport's"
        self._transport.reply(peer, request_id, answer, now)

    def has_session(self, key: PeerKey, now: Now) -> bool:
        """Tell whether asking this peer costs no handshake."""
        return self._transport.has_session(key, now)
