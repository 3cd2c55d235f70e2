"""One worker's side of the DHT: the shell around `dht.engine.Engine`.

    dht = Dht(context, network, home)
    network.add(dht)
    tasks.start_soon(dht.run)
    result = await dht.run_operation(lambda now: dht.engine.find(target, now), timeout_s=10.0)

It gives the engine the transport and the store, carries out its effects, and keeps what the next
start needs. Source: docs/reference/dht-node.md.
"""

import asyncio
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, cast

import structlog

from molia.base import limits
from molia.base.errors import LookupTimedOut
from molia.base.ids import PeerKey
from molia.base.now import Now
from molia.base.views import PeerState, PeerView
from molia.dht.bucket import State
from molia.dht.contact import Contact, Space
from molia.dht.effects import (
    Alone,
    Effect,
    Finished,
    Heard,
    Joined,
    Penalise,
    Reachable,
    Snapshot,
    Store,
    Traced,
    Verified,
)
from molia.dht.engine import Engine
from molia.dht.outcome import LookupResult, Step
from molia.dht.ports import Asker
from molia.dht.providers import ProviderRecord
from molia.dht.results import Got, ProvidersFound, Stored
from molia.node.bootstrap import ContactsFile, read_bootstrap, resolve
from molia.node.context import Context
from molia.node.dht_ports import Elsewhere, ProofGate, TransportWire, core_config
from molia.node.dht_rows import Rows
from molia.node.lan import Lan
from molia.node.network import Network
from molia.wire.addresses import Address, PeerAddress, is_unicast, pack_host
from molia.wire.peer import Peer
from molia.wire.requests import Ended
from molia.wire.transport import Handler

log = structlog.get_logger(__name__)

LOOK_S: Final = 1.0
"""How often contacts are shared with the other workers and small things are looked after."""
ALONE_S: Final = 2.0
"""A node that knows nobody for so long says so, and resolves names again."""
AGAIN_MAX_S: Final = 60.0
"""Longest wait from one resolving to the next."""
FIRST_SNAPSHOT_S: Final = 5.0
"""After joining: who is killed soon finds back all the same."""
COUNT_S: Final = 600.0
CLOCK_OFFSET_MAX_S: Final = 60.0
OnStep = Callable[[Step], None]
OnHeard = Callable[[ProviderRecord], None]


class Dht:
    """The DHT as a part of the network."""

    def __init__(
        self, context: Context, network: Network, home: Path, *, bound: Sequence[Address]
    ) -> None:
        """bound: the addresses of the node's UDP sockets.

        Raises BadConfig, HomeUnsafe for an address to begin with that is none.
        """
        config, seat = context.config, context.team.seat
        self._context, self.network = context, network
        self._given = read_bootstrap(home, config.dht.bootstrap)
        self._file = ContactsFile(home, seat.index)
        self.rows = Rows(context)
        self.space = Space(context.network, bind_ids=context.config.bind_ids)
        self.engine = Engine(
            core_config(config, workers=seat.count), identity=context.peer, space=self.space,
            own=self._own_contact(bound), wire=TransportWire(network.transport), shelf=self.rows,
            entropy=context.entropy, share=(seat.index, seat.count), gate=ProofGate(network),
        )  # fmt: skip
        self.handlers: Mapping[int, Handler] = self.engine.handlers
        self.once: Collection[int] = self.engine.once
        self.reachable: bool | None = None
        """Whether others reach this node; None while that is not known."""
        self._operations: dict[int, asyncio.Future[object]] = {}
        self._steps: dict[int, OnStep] = {}
        self._listeners: dict[int, OnHeard] = {}
        self._shared: dict[Contact, None] = {}
        """Contacts to tell the other workers of."""
        self._tasks: set[asyncio.Task[None]] = set()
        self._said_alone = self._warned_clock = self._knew_somebody = False
        self._alone_since_s = self._snapshot_due_s = float("inf")
        self._again_s = ALONE_S

    @property
    def is_joined(self) -> bool:
        """Whether it knows a node that answers."""
        return self.engine.is_joined

    @property
    def may_join(self) -> bool:
        """Whether it was told of a node, or knew one at its last end."""
        return bool(self._given) or self._knew_somebody

    # ------------------------------------------------------------------ operations

    async def run_operation(
        self, kind: str, begin: Callable[[Now], int], *, timeout_s: float,
        on_step: OnStep | None = None, on_heard: OnHeard | None = None,
    ) -> object:  # fmt: skip
        """Return the result of an operation of the engine; begin: starts it and gives its id.

        kind: what metrics call it. on_step, on_heard: told of what comes before. Raises
        LookupTimedOut.
        """
        started = self._context.now()
        operation_id = begin(started)
        done: asyncio.Future[object] = asyncio.get_running_loop().create_future()
        self._operations[operation_id] = done
        if on_step is not None:
            self._steps[operation_id] = on_step
        if on_heard is not None:
            self._listeners[operation_id] = on_heard
        self.network.driver.flush_soon()
        try:
            async with asyncio.timeout(timeout_s):
                result = await done
        except TimeoutError:
            self._note_end(kind, "timed_out", started)
            raise LookupTimedOut("the nodes that were asked did not answer in time") from None
        finally:
            self._operations.pop(operation_id, None)
            self._steps.pop(operation_id, None)
            self._listeners.pop(operation_id, None)
        self._note_end(kind, _outcome_of(result), started)
        return result

    def _note_end(self, kind: str, outcome: str, started: Now) -> None:
        metrics = self._context.metrics
        metrics.dht_operations.labels(kind, outcome).inc()
        metrics.dht_seconds.labels(kind).observe(self._context.now().mono_s - started.mono_s)

    def hint(self, key: PeerKey, address: Address) -> None:
        """Take it that a node may be at an address: it is asked, and kept when it answers."""
        contact = self.space.contact(key.key, address)
        if contact is not None:
            self.engine.hint(contact, self._context.now())
            self.network.driver.flush_soon()

    async def resolve(self, addresses: Sequence[PeerAddress]) -> list[tuple[PeerKey, Address]]:
        """Return where addresses lead, names resolved."""
        return await resolve(addresses)

    def address_of_session(self, key: PeerKey) -> Address | None:
        """Return where a peer is that has a session with this worker."""
        peer, now_s = self.network.transport.endpoint.find(key), self._context.now().mono_s
        if peer is None or peer.address is None or peer.usable(now_s) is None:
            return None
        return peer.address[0], peer.address[1]

    def peers(self) -> list[dict[str, Any]]:
        """Return what this worker knows of other nodes, as the fields of `PeerView`."""
        now = self._context.now()
        views, placed = [], set()
        for entry in self.engine.entries():
            key, address = entry.contact.key, entry.contact.address
            placed.add(key)
            verified = entry.state is State.VERIFIED
            views.append(PeerView(
                peer=str(key), address=str(PeerAddress(key, *address)),
                state=PeerState.VERIFIED if verified else PeerState.DOUBTED,
                rtt_ms=None if entry.rtt_s is None else round(1000 * entry.rtt_s, 3),
                age_s=round(max(0.0, now.mono_s - entry.since_s), 3),
                has_session=self.network.transport.has_session(key, now),
                bucket=entry.bucket,
            ))  # fmt: skip
        for key, address, age_s in self.network.sessions():
            if key not in placed:
                views.append(PeerView(
                    peer=str(key), address=str(PeerAddress(key, *address)),
                    state=PeerState.SESSION, rtt_ms=None, age_s=round(age_s, 3),
                    has_session=True, bucket=None,
                ))  # fmt: skip
        return [asdict(view) for view in views]

    # ------------------------------------------------------------------ a part of the network

    def on_ended(self, ended: Ended[Peer], now: Now) -> bool:
        """See `Part.on_ended`. Where a peer only claims to be, it is not."""
        told = cast("Ended[Asker]", ended)
        if not ended.peer.proved:
            told = told._replace(peer=Elsewhere(ended.peer.identity))
        return self.engine.on_ended(told, now)

    def on_left(self, peer: Peer, now: Now) -> None:
        """See `Part.on_left`."""
        if peer.identity is not None and peer.address is not None:
            contact = self.space.contact(peer.identity.key, (peer.address[0], peer.address[1]))
            if contact is not None:
                self.engine.on_goodbye(contact, now)

    def on_proof(self, now: Now) -> None:
        """See `Part.on_proof`."""
        self.engine.on_proof(now)

    def on_turn(self, now: Now) -> bool:
        """See `Part.on_turn`."""
        effects = self.engine.take_effects()
        for effect in effects:
            self._carry_out(effect, now)
        return bool(effects)

    def next_deadline_s(self) -> float | None:
        """See `Part.next_deadline_s`."""
        return self.engine.next_deadline_s()

    def on_deadline(self, now: Now) -> None:
        """See `Part.on_deadline`."""
        self.engine.on_deadline(now)

    # ------------------------------------------------------------------ life

    async def run(self) -> None:
        """Take part until cancelled; then say goodbye and keep what is known."""
        offload = self._context.offload
        snapshot = await offload.run(self._file.read)
        self._knew_somebody = bool(snapshot)
        seeds = await resolve(self._given)
        if not self._given and not snapshot and not self._context.config.dht.lan:
            self._say_alone("no other node is known: dht.bootstrap names one to begin with")
        self.engine.start(seeds, self._context.now(), snapshot=snapshot)
        self.network.driver.flush_soon()
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._count())
                tasks.create_task(self._look())
                lan = self._lan()
                if lan is not None:
                    tasks.create_task(lan.run())
        finally:
            self._stop()

    def _stop(self) -> None:
        now = self._context.now()
        self.engine.stop(now)
        for task in list(self._tasks):
            task.cancel()
        for effect in self.engine.take_effects():
            if isinstance(effect, Snapshot) and self.engine.contacts():
                self._file.write(effect.data)

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            self._share()
            sent_bytes = sum(pump.counters.bytes_out for pump in self.network.driver.pumps)
            self.engine.on_egress(sent_bytes, self._context.now())
            if self._context.now().mono_s - self._alone_since_s > self._again_s:
                await self._begin_again()
            if self._context.now().mono_s >= self._snapshot_due_s:
                self._snapshot_due_s = float("inf")
                self.engine.stop(self._context.now())  # leaves a snapshot among the effects
                self.network.driver.flush_soon()
            offset_s = self.engine.clock_offset_s
            if offset_s is not None and abs(offset_s) > CLOCK_OFFSET_MAX_S:
                self._warn_clock(offset_s)

    async def _begin_again(self) -> None:
        """Say that nobody answers, and ask again where the names of those given lead."""
        self._say_alone("none of the nodes that are known answers")
        self._alone_since_s = self._context.now().mono_s
        self._again_s = min(2 * self._again_s, AGAIN_MAX_S)
        if not self.engine.is_joined and self._has_names:
            for key, address in await resolve(self._given):
                self.hint(key, address)

    @property
    def _has_names(self) -> bool:
        return any(pack_host(address.host) is None for address in self._given)

    async def _count(self) -> None:
        while True:
            await self._context.offload.run(self.rows.count)
            self.engine.on_rows(sum(self.rows.held.values()))
            await asyncio.sleep(COUNT_S)

    def _warn_clock(self, offset_s: float) -> None:
        if not self._warned_clock:
            self._warned_clock = True
            log.warning("clock_differs", offset_s=round(offset_s))

    def _say_alone(self, reason: str) -> None:
        if not self._said_alone and self._context.team.seat.index == 0:
            log.warning("node_alone", reason=reason)
        self._said_alone = True

    def _lan(self) -> Lan | None:
        """Return the search of the local network, where it is wanted, for one worker of all."""
        if not self._context.config.dht.lan or self._context.team.seat.index:
            return None
        _, port = self.network.driver.pumps[0].address
        return Lan(
            network=self._context.network, key=self._context.peer, port=port, hint=self.hint
        )  # fmt: skip

    def _own_contact(self, bound: Sequence[Address]) -> Contact | None:
        """Return where the operator says that others reach this node."""
        settings = self._context.config
        external = settings.udp.external_address
        if settings.dht.reachable == "no" or (external is None and settings.dht.reachable != "yes"):
            return None
        for place in (external, *bound):
            packed = None if place is None else pack_host(place[0])
            if place is not None and packed is not None and is_unicast(packed):
                return self.space.contact(self._context.peer.key, place)
        return None

    # ------------------------------------------------------------------ siblings

    def take_contacts(self, told: list[list[Any]]) -> None:
        """Take over contacts that another worker of this node verified."""
        now = self._context.now()
        for key, host, port in told[: limits.SHARED_CONTACTS_MAX]:
            contact = self.space.contact(bytes(key), (str(host), int(port)))
            if contact is not None:
                self.engine.on_sibling_verified(contact, now)

    def _share(self) -> None:
        """Tell the other workers of what this one verified; a loss of it is none."""
        if self._shared:
            team = self._context.team
            told = [[contact.key.key, *contact.address] for contact in self._shared]
            self._shared.clear()
            for index in team.links:
                team.tell(index, "dht_contacts", told)

    # ------------------------------------------------------------------ effects

    def _carry_out(self, effect: Effect, now: Now) -> None:
        match effect:
            case Store():
                self._spawn(self._store(effect))
            case Finished(operation_id=operation_id, result=result):
                done = self._operations.get(operation_id)
                if done is not None and not done.done():
                    done.set_result(result)
            case Traced(operation_id=operation_id, step=step):
                on_step = self._steps.get(operation_id)
                if on_step is not None:
                    on_step(step)
            case Heard(operation_id=operation_id, record=record):
                on_heard = self._listeners.get(operation_id)
                if on_heard is not None:
                    on_heard(record)
            case Verified(contact=contact):
                if len(self._shared) < limits.SHARED_CONTACTS_MAX:
                    self._shared[contact] = None
            case Penalise(key=key, address=address, offence=offence):
                self.network.admission.penalise(key, address, offence, now.mono_s)
            case Snapshot(data=data):
                if self.engine.contacts():  # who knows nobody leaves what there was
                    self._context.offload.submit(self._file.write, data)
            case _:
                self._on_standing(effect)

    def _on_standing(self, effect: Effect) -> None:
        """Take note of how the node stands among the others."""
        match effect:
            case Reachable(is_reachable=is_reachable, address=address):
                self._on_reachable(address, is_reachable=is_reachable)
            case Joined(contacts=contacts):
                self._said_alone, self._alone_since_s = False, float("inf")
                self._again_s = ALONE_S
                self._snapshot_due_s = self._context.now().mono_s + FIRST_SNAPSHOT_S
                log.info("network_joined", contacts=contacts)
            case Alone():
                self._alone_since_s = self._context.now().mono_s

    def _on_reachable(self, address: Address | None, *, is_reachable: bool) -> None:
        self.reachable = is_reachable
        if address is not None:
            self.network.on_external_address(address)
        elif not self.engine.places:
            self.network.external = self.network.settings.external
        if is_reachable:
            log.info("node_reachable")
        else:
            log.info("node_not_reachable")

    async def _store(self, wanted: Store) -> None:
        applied = await self.rows.write(wanted)
        self.engine.on_stored(wanted.token, applied, self._context.now())
        self.network.driver.flush_soon()

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _outcome_of(result: object) -> str:
    """Return what metrics call the end of an operation."""
    match result:
        case LookupResult(end=end):
            return end.value
        case Got(opened=opened, is_complete=is_complete):
            return "found" if opened is not None else "absent" if is_complete else "unknown"
        case Stored(acks=acks, is_mismatch=is_mismatch):
            return "mismatch" if is_mismatch else "stored" if acks else "not_stored"
        case ProvidersFound(records=records):
            return "found" if records else "absent"
    return "done"
