"""Records of others in the node's own store: read at once, written under guard, in order."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molia.base.config import Config, DhtConfig, StoreConfig
from molia.base.errors import ShardUnavailable
from molia.base.now import Now
from molia.dht import held
from molia.dht.effects import Store
from molia.dht.providers import Provided, share_bitmap
from molia.node.app import open_node
from molia.node.dht import Dht
from molia.node.dht_rows import Rows, _before
from molia.node.home import init_home
from molia.node.network import Network
from molia.node.team import Seat, Team
from molia.store.keys import Kind
from molia.store.ops import Row
from tests.dht.record_samples import NOW, provider

RECORD, PROVIDER = held.RECORD, held.PROVIDERS
FAR = 4_000_000_000


def with_rows(home: Path, act: Callable[[Rows], Awaitable[None]], *, shards: int = 4) -> None:
    """Act on the rows of a new node's store."""

    async def go() -> None:
        config = Config(store=StoreConfig(shards=shards, quota_bytes=1 << 30), workers=1)
        init_home(home, config, "")
        async with open_node(home, config) as node:
            await act(Rows(node.context))

    asyncio.run(go())


def store(
    loc: bytes, row: bytes | None, expected: bytes | None = None, *, kind: int = RECORD,
    expires: int = FAR,
) -> Store:  # fmt: skip
    """Return the effect that writes a row."""
    return Store(
        token=1, kind=kind, loc=loc, row=row, expected=expected, expires_unix_s=expires
    )  # fmt: skip


def loc(number: int) -> bytes:
    """Return a location, far from the next one."""
    return bytes((number,)) * 32


def test_a_row_is_written_only_over_the_one_that_was_expected(tmp_path: Path) -> None:
    async def act(rows: Rows) -> None:
        assert await rows.write(store(loc(1), b"first"))
        assert not await rows.write(store(loc(1), b"other"))  # somebody was first
        assert not await rows.write(store(loc(1), b"other", b"unknown"))
        assert rows.read(RECORD, loc(1)) == b"first"
        assert await rows.write(store(loc(1), b"second", b"first"))
        assert rows.read(RECORD, loc(1)) == b"second"
        assert rows.read(PROVIDER, loc(1)) is None
        assert await rows.write(store(loc(1), None, b"second"))
        assert rows.read(RECORD, loc(1)) is None
        assert (rows.counters.written, rows.counters.raced) == (3, 2)

    with_rows(tmp_path / "home", act)


def test_of_writers_that_race_for_a_row_one_wins(tmp_path: Path) -> None:
    async def act(rows: Rows) -> None:
        assert await rows.write(store(loc(7), b"base"))
        wanted = [store(loc(7), b"by %d" % n, b"base") for n in range(16)]
        won = await asyncio.gather(*(rows.write(each) for each in wanted))
        assert won.count(True) == 1
        assert rows.read(RECORD, loc(7)) == wanted[won.index(True)].row

    with_rows(tmp_path / "home", act)


def test_locations_come_in_order_over_all_shards_from_any_start(tmp_path: Path) -> None:
    async def act(rows: Rows) -> None:
        numbers = list(range(0, 256, 5))
        for number in numbers:
            assert await rows.write(store(loc(number), b"row", kind=PROVIDER))
        every = [loc(number) for number in numbers]
        assert list(rows.locations(PROVIDER, bytes(32), 1000)) == every
        assert list(rows.locations(RECORD, bytes(32), 1000)) == []
        for start in (0, 1, 5, 128, 250, 255):
            expected = [each for each in every if each >= loc(start)]
            assert list(rows.locations(PROVIDER, loc(start), 1000)) == expected
            assert list(rows.locations(PROVIDER, loc(start), 3)) == expected[:3]
        rows.count()
        assert rows.held == {Kind.RECORD: 0, Kind.PROVIDER: len(numbers)}

    with_rows(tmp_path / "home", act)


def test_provider_records_are_counted_one_by_one_and_not_by_their_locations(
    tmp_path: Path,
) -> None:
    async def act(rows: Rows) -> None:
        row: bytes | None = None
        provided = Provided(shares=share_bitmap([3]), hints=(("192.0.2.1", 7071),))
        for number in range(1, 15):
            offered = provider(number, provided=provided)
            before, row = row, held.add(row, offered, unix_s=NOW).row
            assert await rows.write(store(loc(1), row, before, kind=PROVIDER))
        assert rows.held[Kind.PROVIDER] == pytest.approx(14, abs=1)
        rows.count()
        assert rows.held == {Kind.RECORD: 0, Kind.PROVIDER: pytest.approx(14, abs=1)}
        assert await rows.write(store(loc(1), None, row, kind=PROVIDER))
        assert rows.held[Kind.PROVIDER] == 0

    with_rows(tmp_path / "home", act)


def test_rows_that_cannot_be_counted_now_are_as_many_as_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def act(rows: Rows) -> None:
        assert await rows.write(store(loc(1), b"row"))
        shard = rows._context.shards.own[0].shard
        scan = shard.scan

        def failing(kind: Kind, prefix: bytes, *, now: Now, after: bytes, limit: int) -> list[Row]:
            if kind is Kind.RECORD:
                raise ShardUnavailable("the index cannot be read")
            return scan(kind, prefix, now=now, after=after, limit=limit)

        monkeypatch.setattr(shard, "scan", failing)
        rows.held[Kind.PROVIDER] = 7
        rows.count()
        assert rows.held == {Kind.RECORD: 1, Kind.PROVIDER: 0}
        assert rows.counters.unreadable == 1

    with_rows(tmp_path / "home", act, shards=1)


def test_an_expired_row_is_none_and_gives_way(tmp_path: Path) -> None:
    async def act(rows: Rows) -> None:
        assert await rows.write(store(loc(1), b"old", expires=1))
        assert rows.read(RECORD, loc(1)) is None
        assert list(rows.locations(RECORD, bytes(32), 10)) == []
        assert await rows.write(store(loc(1), b"new"))
        assert rows.read(RECORD, loc(1)) == b"new"

    with_rows(tmp_path / "home", act, shards=1)


@given(st.integers(1, 2**256 - 1))
def test_a_scan_begins_right_before_its_start(number: int) -> None:
    before = _before(number.to_bytes(32, "big"))
    assert len(before) == 32
    assert int.from_bytes(before, "big") == number - 1


def test_workers_share_what_their_node_holds_for_others(tmp_path: Path) -> None:
    async def go() -> None:
        home, count = tmp_path / "home", 4
        store_config = StoreConfig(shards=4, quota_bytes=1 << 30)
        config = Config(store=store_config, workers=1, dht=DhtConfig(records_max=1_000))
        init_home(home, config, "")
        async with open_node(home, config) as node:
            wire = SimpleNamespace(transport=SimpleNamespace(has_session=None))
            held_max = 0
            for index in range(count):
                team = Team(Seat(index=index, count=count))
                context = replace(node.context, team=team)
                dht = Dht(context, cast("Network", wire), home, bound=())
                held_max += dht.engine._storing.writes.quotas.rows_max
            assert held_max == 1_000  # each counts what lies on its own shards

    asyncio.run(go())
