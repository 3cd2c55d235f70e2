"""The node's own records: no seq is used twice, and what was acknowledged outlives a crash."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from molia.base.config import Config, StoreConfig
from molia.base.crypto import Identity
from molia.base.errors import (
    Damaged,
    LookupTimedOut,
    MoliaError,
    NotJoined,
    PreconditionFailed,
    RecordNotFound,
    RecordStale,
    ShardUnavailable,
)
from molia.base.now import Now
from molia.base.record_ref import RecordRef
from molia.dht.records import SignedRecord, parse
from molia.dht.results import Got, Stored
from molia.node.app import open_node
from molia.node.context import Context
from molia.node.dht import Dht
from molia.node.dht_service import NetworkFace
from molia.node.home import init_home
from molia.node.identity import read_identity
from molia.node.member import Member
from molia.node.own_records import OwnRecords
from tests.node.bad_shard import unlisted
from tests.node.inside import until

TOOK: Stored = Stored(
    acks=20, asked=20, stale=0, mismatches=0, conflicts=0, full=0, bad=0, timeouts=0,
    is_mismatch=False, held_seq=0, stale_seq=0,
)  # fmt: skip
LATER = replace(TOOK, acks=0, stale=20, held_seq=41, stale_seq=41)
NOBODY = replace(TOOK, acks=0, timeouts=20)
OTHERS = replace(TOOK, acks=0, mismatches=20, is_mismatch=True, held_seq=7)


class Network:
    """An engine and its shell that answer as they are told, and note what was put."""

    def __init__(self) -> None:
        self.engine = self
        self.is_joined = True
        self.answers: list[Stored | MoliaError] = []
        self.puts: list[tuple[int, int | None]] = []
        """Seq and expected seq of what was put."""

    def put_record(self, encoded: Sequence[bytes], now: Now, *, cas: int | None = None) -> int:
        record = parse(encoded[0])
        assert isinstance(record, SignedRecord)
        self.puts.append((record.seq, cas))
        return 1

    def get_record(self, address: object, now: Now, *, consistent: bool) -> int:
        return 2

    async def run_operation(
        self, kind: str, begin: Callable[[Now], int], *, timeout_s: float
    ) -> object:
        begin(Now(1.0, 1_800_000_000.0))
        if kind == "get":
            return Got(opened=None, holders=0, stale=0, is_complete=True, lookups=())
        answer = self.answers.pop(0) if self.answers else TOOK
        if isinstance(answer, MoliaError):
            raise answer
        return answer


Act = Callable[[OwnRecords, Network, Callable[[], OwnRecords]], Awaitable[None]]


def with_records(home: Path, act: Act) -> None:
    """Act on the records of a new node; the last argument gives them as after a restart."""

    async def go() -> None:
        config = Config(store=StoreConfig(shards=2, quota_bytes=1 << 30), workers=1)
        init_home(home, config, "")
        async with open_node(home, config) as node:
            network, identity = Network(), read_identity(home)
            made = records(node.context, network, identity)
            await act(made, network, lambda: records(node.context, network, identity))

    asyncio.run(go())


def records(context: Context, network: Network, identity: Identity) -> OwnRecords:
    """Return a node's own records, put through a network of the test's."""
    return OwnRecords(context, cast("Dht", network), identity)


def test_seqs_go_up_and_the_last_acknowledged_value_is_kept(tmp_path: Path) -> None:
    async def act(own: OwnRecords, network: Network, again: Callable[[], OwnRecords]) -> None:
        assert (await own.put(b"name", b"first")).created
        put = await own.put(b"name", b"second", if_seq=1)
        assert (put.seq, put.acks, put.created) == (2, 20, False)
        assert network.puts == [(1, None), (2, 1)]
        (view,) = await again().views()
        assert (view.value, view.seq) == (b"second", 2)
        assert view.address.endswith("/name")

    with_records(tmp_path / "home", act)


def test_a_seq_that_was_sent_is_not_used_again_whatever_became_of_it(tmp_path: Path) -> None:
    async def act(own: OwnRecords, network: Network, again: Callable[[], OwnRecords]) -> None:
        await own.put(b"name", b"kept")
        network.answers = [NOBODY, LookupTimedOut("nobody")]
        for _ in range(2):
            with pytest.raises(LookupTimedOut):
                await own.put(b"name", b"lost")
        (view,) = await again().views()
        assert (view.value, view.seq) == (b"kept", 1)
        assert (await again().put(b"name", b"next")).seq == 4
        assert [seq for seq, _ in network.puts] == [1, 2, 3, 4]

    with_records(tmp_path / "home", act)


def test_a_later_record_of_the_same_key_is_overtaken_unless_a_seq_was_expected(
    tmp_path: Path,
) -> None:
    async def act(own: OwnRecords, network: Network, again: Callable[[], OwnRecords]) -> None:
        network.answers = [LATER, TOOK]
        assert (await own.put(b"name", b"value")).seq == 42
        network.answers = [replace(LATER, held_seq=90, stale_seq=90)]
        with pytest.raises(RecordStale):
            await own.put(b"name", b"value", if_seq=42)
        network.answers = [OTHERS]
        with pytest.raises(PreconditionFailed, match="another seq"):
            await own.put(b"name", b"value", if_seq=42)

    with_records(tmp_path / "home", act)


def test_an_expected_seq_that_is_not_the_newest_is_refused_without_a_put(tmp_path: Path) -> None:
    async def act(own: OwnRecords, network: Network, again: Callable[[], OwnRecords]) -> None:
        await own.put(b"name", b"value")
        for wrong in (0, 9):
            with pytest.raises(PreconditionFailed):
                await own.put(b"name", b"other", if_seq=wrong)
        assert network.puts == [(1, None)]

    with_records(tmp_path / "home", act)


def test_a_node_that_knows_nobody_puts_nothing(tmp_path: Path) -> None:
    async def act(own: OwnRecords, network: Network, again: Callable[[], OwnRecords]) -> None:
        network.is_joined = False
        with pytest.raises(NotJoined):
            await own.put(b"name", b"value")
        assert network.puts == []
        assert await own.views() == ()

    with_records(tmp_path / "home", act)


def test_after_a_restart_what_is_kept_is_put_again_with_its_seq(tmp_path: Path) -> None:
    async def act(own: OwnRecords, network: Network, again: Callable[[], OwnRecords]) -> None:
        for name in (b"one", b"two"):
            await own.put(name, b"value of " + name)
        network.puts.clear()
        running = asyncio.ensure_future(again().run())
        async with asyncio.timeout(30.0):
            while len(network.puts) < 2:
                await asyncio.sleep(0.01)
        running.cancel()
        assert network.puts == [(1, None), (1, None)]

    with_records(tmp_path / "home", act)


@pytest.mark.parametrize("error", [ShardUnavailable("the disk does not answer"), Damaged("a page")])
def test_records_that_cannot_be_read_at_the_start_are_put_again_once_they_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: MoliaError
) -> None:
    monkeypatch.setattr("molia.node.loading.AGAIN_FIRST_S", 0.05)

    async def act(own: OwnRecords, network: Network, again: Callable[[], OwnRecords]) -> None:
        shards = own._context.shards
        count, there = 0, [0, 0]
        while not all(there):  # both shards are to have some; the node's key is drawn
            await own.put(count.to_bytes(2), b"value")
            count += 1
            there = [len(list(own._rows(shard))) for shard in shards.shards]
        network.puts.clear()
        with unlisted(shards.shards[0], error):
            after = again()
            running = asyncio.ensure_future(after.run())
            await until(lambda: running.done() or after.unread > 1, "it is not read again")
            await until(lambda: len(network.puts) == there[1], "what can be read waits")
        await until(lambda: len(network.puts) == count, "the rest is never put")
        running.cancel()

    with_records(tmp_path / "home", act)


def test_a_record_that_is_kept_alive_is_read_while_nobody_can_be_asked(tmp_path: Path) -> None:
    async def act(own: OwnRecords, network: Network, again: Callable[[], OwnRecords]) -> None:
        await own.put(b"name", b"value")
        member = SimpleNamespace(dht=network, records=again())
        face = NetworkFace()
        face.context, face.member = own._context, cast("Member", member)
        mine = RecordRef.parse("name")
        network.engine.is_joined = False
        view = await face.get_record(mine, consistent=False)
        assert (view.value, view.seq) == (b"value", 1)
        with pytest.raises(NotJoined):
            await face.get_record(mine, consistent=True)
        with pytest.raises(NotJoined):
            await face.get_record(RecordRef.parse("another"), consistent=False)
        network.engine.is_joined = True
        with pytest.raises(RecordNotFound):
            await face.get_record(mine, consistent=False)

    with_records(tmp_path / "home", act)
