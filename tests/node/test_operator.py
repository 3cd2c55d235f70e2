"""What an operator sees of the store, and what they may say of its clock."""

from functools import partial
from pathlib import Path

import anyio
import pytest

from molia.base.cid import Cid
from molia.base.config import Config, LeaseConfig, StoreConfig
from molia.base.now import Now
from molia.cli.doctor import disk_bytes
from molia.node.app import open_node
from molia.node.home import init_home
from molia.store.shard import Shard
from tests.node.test_leases import DAY_S, MovableClock, cids, put

CONFIG = Config(
    store=StoreConfig(shards=2, quota_bytes=1 << 30, reserve_bytes=0),
    leases=LeaseConfig(default_s=86_400, sweep_s=86_400, min_age_s=60),
)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    init_home(tmp_path / "home", CONFIG, "")
    return tmp_path / "home"


def checkpointed(shard: Shard, now: Now) -> int:
    """Bring everything into the index."""
    shard.checkpoint(now)
    return 0


def scrubbed(shard: Shard, now: Now) -> int:
    """Let a scrub go to its end."""
    for _ in range(5_000):
        now = now.after(1.0)
        shard.work(now, idle=True)
    return 0


async def test_what_the_node_says_it_takes_is_what_the_disk_says(home: Path) -> None:
    async with open_node(home, CONFIG) as node:
        gone = [Cid.parse(await put(node, seed, 3_000_000)) for seed in range(4)]
        for seed in range(40):
            await put(node, 100 + seed, 30_000)
        for cid in gone[:2]:
            await node.delete_blob(cid)
        for writer in node.context.shards.own:
            await writer.call(partial(checkpointed, now=node.context.now()))
        view = await node.node()
        for _ in range(500):  # until what was deleted is punched
            if not sum(shard.punchable_bytes for shard in view.shards):
                break
            await anyio.sleep(0.02)
            view = await node.node()
        taken = disk_bytes(home / "data")
        assert abs(view.stored_bytes - taken) <= 0.01 * taken
        assert sum(shard.live_bytes for shard in view.shards) > 2 * 3_000_000
        assert all(shard.segments and shard.disk_bytes > shard.log_bytes for shard in view.shards)


async def test_a_clock_that_jumped_stops_expiry_until_an_operator_has_looked(home: Path) -> None:
    clock = MovableClock()
    async with open_node(home, CONFIG, clock=clock) as node:
        await put(node, 1)
        clock.unix_s += 40 * DAY_S  # wall time alone
        assert await node._sweeper.sweep() == 0
        view = await node.node()
        assert all("the clock jumped" in shard.clock for shard in view.shards)
        (note,) = (await node.readiness()).reasons
        assert "the clock jumped" in note
        text = (await node.metrics()).decode()
        assert 'molia_shard_clock_doubted{shard="0"} 1.0' in text
        await node.trust_clock()
        assert (await node.readiness()).reasons == ()
        assert not any(shard.clock for shard in (await node.node()).shards)
        assert await node._sweeper.sweep() == 1
        assert await cids(node) == set()


async def test_after_a_day_the_clock_is_believed_by_itself(home: Path) -> None:
    clock = MovableClock()
    async with open_node(home, CONFIG, clock=clock) as node:
        await put(node, 1)
        clock.unix_s += 40 * DAY_S
        assert await node._sweeper.sweep() == 0
        clock.forward(DAY_S + 60)
        assert await node._sweeper.sweep() == 1


async def test_a_scrub_is_seen_while_it_runs_and_when_it_ended(home: Path) -> None:
    async with open_node(home, CONFIG) as node:
        await put(node, 1, 3_000_000)
        shard = node.context.shards.own[0]

        await shard.call(partial(scrubbed, now=node.context.now()))
        view = (await node.node()).shards[0]
        assert view.scrub is not None
        assert view.scrub.phase == "idle"
        assert view.scrub.part == 1.0
        assert view.scrub.ended_unix_s >= view.scrub.started_unix_s > 0
        assert 'molia_shard_scrub_part{shard="0"} 1.0' in (await node.metrics()).decode()
