"""Real nodes on one event loop: each with its own home, store and UDP socket on loopback."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from molia.base.config import (
    Config,
    DhtConfig,
    DurabilityConfig,
    RepairConfig,
    StoreConfig,
    UdpConfig,
)
from molia.base.limits import MIB
from molia.base.now import Now
from molia.base.views import JobView, PutOptions, PutResult
from molia.node.app import on_network, open_node
from molia.node.held import Held
from molia.node.home import OpenDisk, init_home
from molia.node.local import LocalNode
from molia.node.member import Member
from molia.node.steering import open_udp
from molia.node.system import SystemClock
from molia.store.os_disk import OsDisk

WAIT_S: Final = 60.0
CONTACTS: Final = 8
"""Contacts with which a node finds the rest by itself."""
OFFER: Final = 256 * MIB


class Shifted(SystemClock):
    """The machine's clock; its wall time can be put forward."""

    ahead_s = 0

    def now(self) -> Now:
        """Return this instant, later by what was asked for."""
        now = super().now()
        return Now(now.mono_s, now.unix_s + self.ahead_s)


@dataclass(frozen=True)
class Inside:
    """A node of this process."""

    node: LocalNode
    home: Path

    @property
    def member(self) -> Member:
        """Its part in the network."""
        assert self.node.member is not None
        return self.node.member

    @property
    def key(self) -> bytes:
        """Its peer key."""
        return self.node.context.peer.key

    async def put(self, body: bytes, *, placed: bool = True, pin: bool = True) -> PutResult:
        """Put a blob."""

        async def chunks() -> AsyncIterator[bytes]:
            yield body

        options = PutOptions(size=len(body), wait_placed=placed, pin=pin)
        return await self.node.put_blob(chunks(), options)

    def held(self) -> list[Held]:
        """Return what it keeps for others."""
        context = self.node.context
        return list(self.member.holder.held.all(context.now()))

    def count(self, event: str) -> int:
        """Return how often something was asked of it."""
        return self.member.holder.counts[event]


def config_of(
    *,
    offer: int = OFFER,
    owner_percent: int = 100,
    floor: int = 0,
    repair: RepairConfig | None = None,
) -> Config:
    """Return the settings of a small node."""
    store = StoreConfig(
        shards=1,
        quota_bytes=1 << 30,
        offer_bytes=offer,
        offer_owner_percent=owner_percent,
        cache_percent=0,
    )
    return Config(
        workers=1, threads=2, store=store, udp=UdpConfig(listen=("127.0.0.1:0",)),
        durability=DurabilityConfig(floor=floor), repair=repair or RepairConfig(),
    )  # fmt: skip


@asynccontextmanager
async def running(
    home: Path, config: Config, open_disk: OpenDisk = OsDisk, clock: SystemClock | None = None
) -> AsyncIterator[Inside]:
    """Give a node that runs."""
    if not (home / "identity.key").exists():
        init_home(home, config, "")
    async with open_node(home, config, open_disk=open_disk, clock=clock) as node:
        with closing(open_udp(config.udp.listen, 1)) as udp:
            async with on_network(node, home, udp.by_worker[0]):
                made = Inside(node, home)
                await until(made.member.network.addresses, "a node has no socket")
                yield made


async def until(holds: Callable[[], object], otherwise: str, *, within_s: float = WAIT_S) -> None:
    """Return when something holds."""
    try:
        async with asyncio.timeout(within_s):
            while not holds():
                await asyncio.sleep(0.02)
    except TimeoutError:
        raise AssertionError(otherwise) from None


async def until_told(
    holds: Callable[[], Awaitable[bool]], otherwise: str, *, within_s: float = WAIT_S
) -> None:
    """Return when something holds that others are asked for; an answer may be late now and then."""
    try:
        async with asyncio.timeout(within_s):
            while not await holds():
                await asyncio.sleep(0.2)
    except TimeoutError:
        raise AssertionError(otherwise) from None


async def ended(node: LocalNode, job: str) -> JobView:
    """Return a job once it has ended."""
    view = [await node.job(job)]  # type: ignore[arg-type]

    async def look() -> JobView:
        while view[0].state.value not in ("done", "failed", "cancelled"):
            await asyncio.sleep(0.02)
            view[0] = await node.job(job)  # type: ignore[arg-type]
        return view[0]

    return await asyncio.wait_for(look(), WAIT_S)


def _is_ready(each: Inside, count: int) -> bool:
    engine, holder = each.member.dht.engine, each.member.holder
    is_joined = engine.is_joined and len(engine.contacts()) >= min(count - 1, CONTACTS)
    return is_joined and (not holder.is_offering or holder.room_bytes > 0)


@asynccontextmanager
async def network_of(
    directory: Path,
    configs: list[Config],
    *,
    disks: dict[int, OpenDisk] | None = None,
    clocks: dict[int, SystemClock] | None = None,
) -> AsyncIterator[list[Inside]]:
    """Give nodes that know each other; the first is who the others begin with."""
    async with AsyncExitStack() as stack:
        nodes: list[Inside] = []
        await join(stack, directory, nodes, configs, disks=disks, clocks=clocks)
        yield nodes


async def join(
    stack: AsyncExitStack, directory: Path, nodes: list[Inside], configs: list[Config], *,
    disks: dict[int, OpenDisk] | None = None, clocks: dict[int, SystemClock] | None = None,
    gone: int = 0,
) -> None:  # fmt: skip
    """Begin more nodes and return when all know each other; the stack ends them.

    gone: nodes that have a home and are not among these any more.
    """
    for config in configs:
        index = len(nodes) + gone
        firsts = tuple(node.member.network.addresses()[0] for node in nodes[:3])
        dht = DhtConfig(bootstrap=firsts, reachable="yes")
        told = Config(
            workers=1, threads=2, store=config.store, udp=config.udp, dht=dht,
            durability=config.durability, leases=config.leases, repair=config.repair,
        )  # fmt: skip
        disk = (disks or {}).get(index, OsDisk)
        home = directory / f"home{index}"
        nodes.append(
            await stack.enter_async_context(running(home, told, disk, (clocks or {}).get(index)))
        )
    for each in nodes:
        await until(partial(_is_ready, each, len(nodes)), "a node does not join")


def with_network(
    directory: Path, act: Callable[[list[Inside]], Awaitable[None]], configs: list[Config], *,
    disks: dict[int, OpenDisk] | None = None,
    clocks: dict[int, SystemClock] | None = None,
) -> None:  # fmt: skip
    """Act on a new network."""

    async def go() -> None:
        async with network_of(directory, configs, disks=disks, clocks=clocks) as nodes:
            await act(nodes)

    asyncio.run(go())
