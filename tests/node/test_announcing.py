"""Blobs are announced soon after a put, once a day after that, and never when they are gone."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import cast

import pytest

from molia.base.cid import Cid, Codec, ContentHash
from molia.base.config import Config, StoreConfig
from molia.base.errors import Damaged, MoliaError, ShardUnavailable
from molia.base.ids import PeerKey
from molia.base.now import Now
from molia.base.views import PutOptions
from molia.dht import providers
from molia.dht.blinding import content_loc
from molia.dht.contact import Contact, Space
from molia.dht.outcome import End, LookupResult
from molia.dht.providers import Kind, ProviderRecord
from molia.node.announcing import Announcer, Place
from molia.node.app import open_node
from molia.node.dht import Dht
from molia.node.home import init_home
from molia.node.identity import read_identity
from molia.node.local import LocalNode
from molia.wire.dht_messages import AddCode, Added, AddProvider
from molia.wire.messages import Message
from tests.node import inside
from tests.node.bad_shard import unlisted
from tests.node.process import body_of


class World:
    """An engine that finds two nodes everywhere, which take all and note it."""

    def __init__(self, network: bytes) -> None:
        self.engine = self.network = self
        self.id, self.is_joined, self.size_estimate, self.radius = network, True, 2.0, 2**256
        space = Space(network)
        made = [space.contact(bytes((n,)) * 32, ("127.0.0.1", n)) for n in (1, 2, 3)]
        self.own: Contact | None
        self.own, *self.others = [contact for contact in made if contact is not None]
        self.walks = 0
        self.in_walk: Callable[[], Awaitable[object]] | None = None
        """What happens while the next walk goes on."""
        self.taken: list[ProviderRecord] = []

    def walk(self, center: bytes, now: Now, *, radius: int | None = None) -> int:
        self.walks += 1
        return self.walks

    async def run_operation(
        self, kind: str, begin: Callable[[Now], int], *, timeout_s: float
    ) -> object:
        begin(Now(1.0, 1.0))
        if self.in_walk is not None:
            in_walk, self.in_walk = self.in_walk, None
            await in_walk()
        some: tuple[Contact, ...] = tuple(self.others)
        return LookupResult(
            end=End.COVERED, closest=some, heard=some, responders=some, values=(), probes=2,
            answers=2, failures=0, late=0, is_attacked=False, took_s=0.1,
        )  # fmt: skip

    async def ask(
        self, key: PeerKey, address: tuple[str, int], message: Message, *, timeout_s: float
    ) -> Message:
        assert isinstance(message, AddProvider)
        for encoded in message.records:
            record = providers.parse(encoded)
            assert isinstance(record, ProviderRecord)
            self.taken.append(record)
        return Added(tuple(AddCode.OK for _ in message.records))

    def locs(self) -> set[bytes]:
        """Return the locations at which something was announced."""
        return {record.loc for record in self.taken}


async def put(node: LocalNode, body: bytes, *, pin: bool = True) -> Cid:
    """Put a blob."""

    async def chunks() -> AsyncIterator[bytes]:
        yield body

    return (await node.put_blob(chunks(), PutOptions(size=len(body), pin=pin))).cid


@asynccontextmanager
async def announcing(node: LocalNode, home: Path) -> AsyncIterator[tuple[Announcer, World]]:
    """Give a running announcer of a node."""
    world = World(node.context.network)
    made = Announcer(node.context, cast("Dht", world), read_identity(home))
    node.context.on_blob.append(made.note)
    running = asyncio.ensure_future(made.run())
    try:
        yield made, world
    finally:
        node.context.on_blob.remove(made.note)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


until = partial(inside.until, otherwise="it did not come about", within_s=30.0)


def with_node(home: Path, act: Callable[[LocalNode], Awaitable[None]]) -> None:
    """Act on a new node."""

    async def go() -> None:
        config = Config(store=StoreConfig(shards=2, quota_bytes=1 << 30), workers=1)
        init_home(home, config, "")
        async with open_node(home, config) as node:
            await act(node)

    asyncio.run(go())


def test_a_blob_is_announced_with_its_binding_and_not_again_after_a_restart(
    tmp_path: Path,
) -> None:
    home = tmp_path / "home"

    async def act(node: LocalNode) -> None:
        network = node.context.network
        async with announcing(node, home) as (made, world):
            cid = await put(node, body_of(1, 1_000_001))
            content = (await node.blob_info(cid)).content
            named = Cid(Codec.RAW, content)
            wanted = {content_loc(network, cid), content_loc(network, named)}
            await until(lambda: world.locs() == wanted)
            kinds = {record.loc: record.kind for record in world.taken}
            assert kinds[content_loc(network, named)] is Kind.BINDING
            binding = next(r for r in world.taken if r.kind is Kind.BINDING)
            opened = providers.read(binding, network, named)
            assert isinstance(opened, providers.Provided)
            assert opened.manifest == cid
            assert ContentHash(content).digest == named.digest
            assert made.blob_count == 1
            await until(lambda: made.sweep.next_deadline_s() > node.context.now().mono_s + 60)
            await made._save()  # what was taken a moment ago may not be noted yet
        async with announcing(node, home) as (made, world):
            await until(lambda: made.blob_count == 1)
            new = await put(node, b"new")
            await until(lambda: content_loc(network, new) in world.locs())
            assert world.locs() == {content_loc(network, new)}  # the others are not yet due

    with_node(home, act)


def test_what_is_not_pinned_or_was_removed_is_not_announced(tmp_path: Path) -> None:
    home = tmp_path / "home"

    async def act(node: LocalNode) -> None:
        async with announcing(node, home) as (made, world):
            kept, gone = await put(node, b"kept"), await put(node, b"gone")
            loose = await put(node, b"loose", pin=False)
            await until(lambda: made.blob_count == 2)
            await node.delete_blob(gone)
            await node.pin_blob(loose, pinned=True)
            await node.pin_blob(kept, pinned=False)
            await until(lambda: made.blob_count == 1)
            await until(lambda: content_loc(node.context.network, loose) in world.locs())

    with_node(home, act)


def test_who_is_reached_no_more_in_the_middle_of_a_walk_forgets_nothing(tmp_path: Path) -> None:
    home = tmp_path / "home"

    async def act(node: LocalNode) -> None:
        async with announcing(node, home) as (made, world):

            async def unreached() -> None:
                world.own = None

            world.in_walk = unreached
            await put(node, b"kept")
            await until(lambda: world.own is None and made.sweep._out is None)
            assert made.blob_count == 1
            assert made.sweep.failures == 1  # so it comes again

    with_node(home, act)


def test_what_is_pinned_again_while_a_walk_looks_at_it_stays_announced(tmp_path: Path) -> None:
    home, has_looked, may_go_on = tmp_path / "home", threading.Event(), threading.Event()

    async def act(node: LocalNode) -> None:
        async with announcing(node, home) as (made, world):
            sign = made._sign_wanted

            def slowly(
                places: dict[bytes, Place], own: Contact
            ) -> tuple[dict[bytes, bytes], set[Cid]]:
                found = sign(places, own)
                has_looked.set()
                may_go_on.wait(30)
                return found

            made._sign_wanted = slowly  # type: ignore[method-assign]
            cid = await put(node, b"again")
            world.in_walk = partial(node.pin_blob, cid, pinned=False)
            await until(has_looked.is_set)
            await node.pin_blob(cid, pinned=True)
            await until(lambda: not made._changed)
            await asyncio.sleep(0.2)  # it is looked at, and known
            assert made.blob_count == 1
            may_go_on.set()
            await until(lambda: made.sweep._out is None and not made._changed)
            await asyncio.sleep(0.2)
            assert made.blob_count == 1
            await until(lambda: content_loc(node.context.network, cid) in world.locs())

    with_node(home, act)


def test_a_blob_whose_rows_cannot_be_read_for_a_moment_stays_announced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"

    async def act(node: LocalNode) -> None:
        async with announcing(node, home) as (made, world):
            first, second = await put(node, b"first"), await put(node, b"second")
            await until(lambda: len(world.locs()) == 2)
            await until(lambda: made.sweep._out is None)
            asked: list[Cid] = []

            def unreadable(cid: Cid, now: Now) -> None:
                asked.append(cid)
                raise ShardUnavailable("the disk does not answer")

            with monkeypatch.context() as patch:
                patch.setattr(node.context.catalog, "bound", unreadable)
                made.note(first)
                made.announce_soon(second)  # one is looked at, the other is met by a walk
                await until(lambda: {first, second} <= set(asked))
                await until(lambda: made.sweep._out is None and not made._changed)
                await asyncio.sleep(0.2)
            assert made.blob_count == 2

    with_node(home, act)


@pytest.mark.parametrize("error", [ShardUnavailable("the disk does not answer"), Damaged("a page")])
def test_what_cannot_be_read_at_the_start_is_announced_once_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: MoliaError
) -> None:
    home = tmp_path / "home"
    monkeypatch.setattr("molia.node.loading.AGAIN_FIRST_S", 0.05)

    async def act(node: LocalNode) -> None:
        cids = [await put(node, bytes((number,))) for number in range(8)]
        homes = {cid: node.context.catalog.home(cid) for cid in cids}
        assert set(homes.values()) == set(node.context.shards.shards), "both have some"
        bad, good = node.context.shards.shards
        spoilt = ExitStack()
        with spoilt:
            spoilt.enter_context(unlisted(bad, error))
            async with announcing(node, home) as (made, world):
                readable = {cid for cid in cids if homes[cid] is good}
                network = node.context.network
                await until(lambda: {content_loc(network, cid) for cid in readable} == world.locs())
                await until(lambda: made.unread > 1)
                spoilt.close()
                await until(lambda: {content_loc(network, cid) for cid in cids} == world.locs())

    with_node(home, act)
