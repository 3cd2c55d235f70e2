"""A worker's part in a network: all that talks to other nodes, begun and ended as one."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import anyio

from molia.base.cid import Cid
from molia.base.errors import MoliaError
from molia.base.views import DhtView
from molia.node.announcing import Announcer
from molia.node.claiming import Claims
from molia.node.context import Context
from molia.node.courier import Courier
from molia.node.dht import Dht
from molia.node.fetching import Fetcher
from molia.node.finding import Finder
from molia.node.holding import Holder
from molia.node.home import store_path
from molia.node.keeping import Keeper
from molia.node.mending import Mender
from molia.node.metrics import DhtCounts
from molia.node.network import Network
from molia.node.own_records import OwnRecords
from molia.node.repairs import Repairs
from molia.node.serving_blobs import BlobServer
from molia.node.space import Space
from molia.node.spreading import Spreader
from molia.store.keys import Kind
from molia.wire.addresses import PeerAddress

ADDRESS_SALT: Final = b"molia/addr"
"""The name under which every node says where it is."""
ADDRESS_LOOK_S: Final = 2.0
ADDRESS_RETRY_S: Final = 30.0
REPAIR_VERBS: Final = ("claim", "repair", "repairs")
VERBS: Final = ("dht_contacts", "dht_blobs", "dht_peers", "held", "record_put", *REPAIR_VERBS)


@dataclass(frozen=True, slots=True)
class Member:
    """The parts of one worker that take part in the network."""

    context: Context
    network: Network
    dht: Dht
    records: OwnRecords
    announcer: Announcer
    fetcher: Fetcher
    holder: Holder
    courier: Courier
    keeper: Keeper
    repairs: Repairs
    spreader: Spreader

    @classmethod
    def create(
        cls, context: Context, network: Network, home: Path, *, bound: Sequence[tuple[str, int]]
    ) -> "Member":
        """Return the parts, joined to each other. Raises BadConfig, HomeUnsafe."""
        identity = network.settings.identity
        dht = Dht(context, network, home, bound=bound)
        network.add(dht)
        announcer, space = (
            Announcer(context, dht, identity),
            Space(store_path(home, context.config)),
        )
        look_up = Finder(context, dht).provided
        fetcher = Fetcher(context, network, look_up, dht)
        keeper = Keeper(context, network, look_up, is_joined=lambda: dht.engine.is_joined)
        holder = Holder(context, network, space=space, sign=announcer.sign_shares)
        mender = Mender(context, fetcher, dht, identity, announcer, holder)
        claims = Claims(context, network, keeper, identity)
        repairs = Repairs(context, keeper, mender, claims)
        made = cls(
            context, network, dht, OwnRecords(context, dht, identity), announcer, fetcher,
            holder, Courier(context, network, dht, identity, sign_whole=announcer.sign_whole),
            keeper, repairs, Spreader(context, keeper, mender, claims, holder, repairs.queue),
        )  # fmt: skip
        made.courier.lost = lambda cid: keeper.rows.get(cid, context.now()).lost
        made.courier.watched = keeper.addresses
        made.courier.copies = keeper.copies
        keeper.node_count = lambda: len(dht.engine.contacts()) + 1
        made.courier.on_placed.append(keeper.take_placed)
        mender.on_placed.append(keeper.take_placed)
        made.spreader.announce_soon = announcer.announce_soon
        fetcher.on_lie.append(made.repairs.on_lie)
        keeper.on_untold.append(announcer.announce_soon)
        server = BlobServer(context, network)
        network.serve(server.handlers, server.streams)
        network.serve(made.holder.handlers, made.holder.streams)
        network.serve(claims.handlers, {})
        context.on_blob.append(made.announcer.note)
        return made

    async def run(self) -> None:
        """Take part until cancelled."""
        try:
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(self.dht.run)
                tasks.start_soon(self.records.run)
                tasks.start_soon(self.announcer.run)
                tasks.start_soon(self.holder.run)
                tasks.start_soon(self.keeper.run)
                tasks.start_soon(self.repairs.run)
                tasks.start_soon(self.spreader.run)
                if self.context.team.seat.index == 0:
                    tasks.start_soon(self._say_where)
        finally:
            self.fetcher.close()

    async def answer(self, verb: str, arguments: Any) -> object:  # noqa: ANN401 - by the verb
        """Return as CBOR values what another worker of this node asks."""
        match verb:
            case "dht_contacts":
                self.dht.take_contacts(arguments)
            case "dht_blobs":
                for text in arguments:
                    self.announcer.note(Cid.parse(text))
            case "dht_peers":
                return self.dht.peers()
            case "held":
                cid, changes, shares = arguments
                self.holder.life.take_changes(Cid.parse(cid), changes, shares)
            case _ if verb in REPAIR_VERBS:
                return await self.repairs.answer(verb, arguments)
            case _:
                assert verb == "record_put", "workers of one node know the same words"
                return await self.records.put_for(arguments)
        return None

    def view(self) -> DhtView:
        """Return how this worker stands among the others."""
        engine, held = self.dht.engine, self.dht.rows.held
        nodes = engine.size_estimate
        return DhtView(
            is_joined=engine.is_joined, reachable=self.dht.reachable,
            contacts=len(engine.contacts()),
            network_nodes=round(nodes) if engine.is_joined else None,
            records=held[Kind.RECORD], provider_records=held[Kind.PROVIDER],
            own_records=len(self.records), provided=self.announcer.blob_count,
        )  # fmt: skip

    def counts(self) -> DhtCounts:
        """Return what this worker counted."""
        engine, rows, sweep = self.dht.engine, self.dht.rows, self.announcer.sweep
        return DhtCounts(
            worker=self.context.team.seat.index, contacts=len(engine.contacts()),
            network_nodes=round(engine.size_estimate) if engine.is_joined else 0,
            held={"record": rows.held[Kind.RECORD], "provider": rows.held[Kind.PROVIDER]},
            own_records=len(self.records), announced=self.announcer.blob_count,
            events={
                **asdict(engine.counters),
                **{f"table_{name}": value for name, value in engine.table_counts.items()},
                **{f"row_{name}": value for name, value in asdict(rows.counters).items()},
                "announce_walks": sweep.walks, "announce_keys": sweep.keys,
                "announce_failed": sweep.failures, "announce_acks": self.announcer.acks,
                "announce_unread": self.announcer.unread,
                "own_records_unread": self.records.unread,
            },
        )  # fmt: skip

    async def _say_where(self) -> None:
        """Keep a record of this node's addresses, a new one when they change."""
        said = ""
        while True:
            await anyio.sleep(ADDRESS_LOOK_S)
            key, places = self.context.peer, self.dht.engine.places
            where = ",".join(str(PeerAddress(key, *place)) for place in places)
            if not where or where == said or not self.dht.engine.is_joined:
                continue
            try:
                await self.records.put(ADDRESS_SALT, where.encode())
            except MoliaError:
                await anyio.sleep(ADDRESS_RETRY_S)
            else:
                said = where
