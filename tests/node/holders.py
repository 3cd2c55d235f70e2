"""Nodes that hold shares and speak our wire, some of them badly; and a node that reads from them.

All in one process, each on a socket of its own: what is tested is the whole way of a block, without
the price of a process for each holder.
"""

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from molia.base.cid import Cid
from molia.base.config import AdmissionConfig, Config, StoreConfig
from molia.base.crypto import Identity
from molia.base.errors import MoliaError
from molia.base.limits import WHOLE_SHARE
from molia.base.now import Now
from molia.blobs.merkle import inclusion_path
from molia.dht.providers import Kind, Provided, ProviderRecord, share_bitmap
from molia.node.app import open_node
from molia.node.fetching import Fetcher
from molia.node.home import init_home
from molia.node.local import LocalNode
from molia.node.network import Network, NetworkSettings
from molia.node.offload import Offload
from molia.node.peer_streams import PeerStream
from molia.node.stream_messages import read_request, send_reply
from molia.node.system import SystemClock
from molia.node.whereabouts import Heard, Provider
from molia.wire import blob_messages as said
from molia.wire import messages
from molia.wire.messages import ErrorCode, Number
from molia.wire.peer import Peer
from molia.wire.transport import Answer
from tests.blobs.remote import Coded, coded

NETWORK = "test"
CONFIG = Config(
    network=NETWORK, store=StoreConfig(shards=2, quota_bytes=2 * 2**30, reserve_bytes=0)
)
SLOW_PIECE, SLOW_S = 2_048, 0.5
NOT_HERE = messages.Error(code=ErrorCode.NOT_HERE)
BUSY = messages.Busy(retry_after_ms=100, effort_bits=0)
NEVER_S = 3_600.0


@dataclass
class Holder:
    """A node with some shares of a blob, or with a small one, and its manners.

    Manners: good, wrong, truncated, endless, stale, stalled, slow, mute, gone, forger (of
    manifests), refusing, busy (at first).
    """

    number: int
    blob: Coded
    shares: tuple[int, ...]
    manners: str = "good"
    whole: bytes | None = None
    asked: list[tuple[int, int]] = field(default_factory=list)
    """Shares and stripes that were asked for."""
    requests: int = 0
    manifests: int = 0
    network: Network | None = None
    address: tuple[str, int] = ("", 0)
    sock: socket.socket | None = None
    task: "asyncio.Task[None] | None" = None

    @property
    def identity(self) -> Identity:
        return Identity(bytes((self.number + 1,)) * 32)

    @property
    def provider(self) -> Provider:
        """What it tells the network that it has."""
        kind = Kind.WHOLE if self.whole is not None else Kind.SHARE
        record = ProviderRecord(
            kind=kind, loc=bytes(32), signer=self.identity.peer_key, issued=1, expires=2,
            prefix=b"", sealed=b"", signature=b"", encoded=b"",
        )  # fmt: skip
        shares = b"" if self.whole is not None else share_bitmap(list(self.shares))
        return record, Provided(shares=shares, hints=(self.address,))

    def start(self, offload: Offload) -> None:
        """Begin to answer."""
        assert self.sock is not None
        self.network = network_of(self.identity, offload)
        self.network.serve(
            {Number.GET_MANIFEST: partial(Holder.on_get_manifest, self)},
            {Number.GET_BLOCKS: self.serve_blocks},
        )
        self.task = asyncio.ensure_future(self.network.run([self.sock]))

    async def end(self) -> None:
        """End, if it runs."""
        if self.task is not None:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    async def restart(self, offload: Offload) -> None:
        """End without a word to anybody, as a killed process does, and begin anew."""
        assert self.network is not None
        self.network.driver.close()
        await self.end()
        self.start(offload)

    # ------------------------------------------------------------------ what it answers

    def on_get_manifest(self, _peer: Peer, _id: int, _body: bytes, _now: Now) -> Answer | None:
        """Give the manifest."""
        self.manifests += 1
        if self.manners == "mute":
            return None
        if self.manners == "stale":
            return NOT_HERE.number, messages.encode(NOT_HERE)
        if self.manners == "busy" and self.manifests < 3:
            return BUSY.number, messages.encode(BUSY)
        blob = coded(self.blob.manifest.size, seed=9) if self.manners == "forger" else self.blob
        answer = said.Manifest(blob.manifest.encode())
        return answer.number, messages.encode(answer)

    async def serve_blocks(self, stream: PeerStream) -> None:
        """Give blocks, in its own way."""
        asked = await read_request(stream, Number.GET_BLOCKS)
        assert isinstance(asked, said.GetBlocks)
        stripes = range(asked.first_stripe, asked.first_stripe + asked.stripe_count)
        self.asked += [(asked.share, stripe) for stripe in stripes]
        self.requests += 1
        held = self.whole is not None if asked.share == WHOLE_SHARE else asked.share in self.shares
        if self.manners == "mute":
            await asyncio.sleep(NEVER_S)
        if self.manners == "refusing":
            await send_reply(stream, messages.Error(code=ErrorCode.REFUSED))
        elif self.manners == "busy" and self.requests < 3:
            await send_reply(stream, BUSY)
        elif self.manners == "stale" or not held:
            await send_reply(stream, NOT_HERE)
        else:
            await send_reply(stream, said.Blocks(
                share=asked.share, first_stripe=stripes.start, stripe_count=len(stripes)
            ))  # fmt: skip
            for stripe in stripes:
                await self._send(stream, asked.share, stripe)

    async def _send(self, stream: PeerStream, share: int, stripe: int) -> None:
        if share == WHOLE_SHARE:
            path, block = b"", self.whole or b""
        else:
            path = b"".join(inclusion_path(self.blob.leaves[share], stripe))
            block = self.blob.blocks[share, stripe]
        match self.manners:
            case "wrong" | "forger":
                await stream.send(path + bytes(len(block)))
            case "truncated":
                await stream.send(path + block[:-1])
            case "stalled":
                await stream.send(path + block[: len(block) // 2])
                await asyncio.sleep(NEVER_S)
            case "endless":
                await stream.send(path + block)
                while True:
                    await stream.send(bytes(65_536))
            case "slow":
                data = path + block
                for at in range(0, len(data), SLOW_PIECE):
                    await stream.send(data[at : at + SLOW_PIECE])
                    await asyncio.sleep(SLOW_S)
            case _:
                await stream.send(path + block)


@dataclass
class World:
    """A node that reads, and those that it can read from."""

    node: LocalNode
    fetcher: Fetcher
    holders: dict[int, Holder]
    found: dict[Cid, list[Provider]]
    """What a look-up gives, by CID."""
    heard_first: dict[Cid, list[Provider]] = field(default_factory=dict)
    """What it tells before."""
    look_ups: int = 0
    look_up_error: MoliaError | None = None
    look_up_s: float = 0.0
    is_joined: bool = True
    may_join: bool = True

    @property
    def metrics(self) -> dict[str, float]:
        """What the reader counted of its reads."""
        (family,) = self.node.context.metrics.fetches.collect()
        return {sample.labels["event"]: sample.value for sample in family.samples
                if sample.name.endswith("_total")}  # fmt: skip

    async def look_up(self, cid: Cid, heard: Heard) -> list[Provider]:
        """See `whereabouts.LookUp`."""
        self.look_ups += 1
        for provider in self.heard_first.get(cid, []):
            heard(*provider)
        await asyncio.sleep(self.look_up_s)
        if self.look_up_error is not None:
            raise self.look_up_error
        return self.found.get(cid, [])

    async def read(self, cid: Cid, start: int = 0, stop: int | None = None) -> bytes:
        """Read a blob or a part of it through the network."""
        reader = await self.fetcher.open(cid)
        stop = reader.info.size if stop is None else stop
        return b"".join([chunk async for chunk in reader.read(start, stop)])


def network_of(identity: Identity, offload: Offload) -> Network:
    """Return a network that is not running yet."""
    settings = NetworkSettings(
        identity=identity, name=NETWORK, bind_ids=False, admission=AdmissionConfig()
    )
    return Network(settings, offload, clock=SystemClock())


@asynccontextmanager
async def world(
    home: Path, holders: Iterable[Holder], config: Config = CONFIG
) -> AsyncIterator[World]:
    """Give a node in `home`, and holders that it finds."""
    async with open_world(home, holders, config) as made:
        for holder in made.holders.values():
            cid = holder.blob.manifest.cid
            made.found.setdefault(cid, []).append(holder.provider)
        yield made


@asynccontextmanager
async def open_world(
    home: Path, holders: Iterable[Holder], config: Config = CONFIG
) -> AsyncIterator[World]:
    """Give the same, with nobody told of yet."""
    init_home(home, config, "")
    async with contextlib.AsyncExitStack() as held:
        node = await held.enter_async_context(open_node(home, config))
        offload = node.context.offload
        tasks: list[asyncio.Task[None]] = []
        made = {holder.number: holder for holder in holders}
        for holder in made.values():
            holder.sock = held.enter_context(_socket())
            holder.address = holder.sock.getsockname()
            if holder.manners != "gone":
                holder.start(offload)
            held.push_async_callback(holder.end)
        ours = network_of(Identity(b"r" * 32), offload)
        tasks.append(asyncio.ensure_future(ours.run([held.enter_context(_socket())])))
        held.push_async_callback(_end, tasks)
        await asyncio.sleep(0)
        it = World(node, None, made, {})  # type: ignore[arg-type]
        it.fetcher = Fetcher(node.context, ours, it.look_up, it)
        held.callback(it.fetcher.close)
        yield it


def fourteen(blob: Coded, bad: dict[int, str] | None = None) -> list[Holder]:
    """Return a holder for each share; some have manners."""
    return [Holder(n, blob, (n,), (bad or {}).get(n, "good")) for n in range(14)]


def _socket() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("127.0.0.1", 0))
    return sock


async def _end(tasks: list["asyncio.Task[None]"]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
