"""Verification without a running node: the same job, once, and its end is remembered."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
import pytest

from molia.base import limits
from molia.base.cid import Cid
from molia.base.config import Config, StoreConfig
from molia.base.now import Now
from molia.base.views import JobEvent, JobState, JobView, PutOptions
from molia.node.app import open_node
from molia.node.home import init_home
from molia.node.offline import rebuild_index, verify_home
from molia.store.keys import Kind, Space
from tests.node.scan import shards_of

CONFIG = Config(store=StoreConfig(shards=2, reserve_bytes=0))


def home_with_blobs(home: Path, *sizes: int) -> list[Cid]:
    """Make a home that keeps random blobs of these sizes."""
    init_home(home, CONFIG, "")

    async def put_all() -> list[Cid]:
        async with open_node(home, CONFIG) as node:
            return [(await node.put_blob(one(size), PutOptions())).cid for size in sizes]

    async def one(size: int) -> AsyncIterator[bytes]:
        yield os.urandom(size)

    return anyio.run(put_all)


def jobs_of(home: Path) -> tuple[JobView, ...]:
    async def ask() -> tuple[JobView, ...]:
        async with open_node(home, CONFIG) as node:
            return await node.jobs()

    return anyio.run(ask)


def test_verify_without_a_node_checks_every_blob(tmp_path: Path) -> None:
    home_with_blobs(tmp_path / "home", 3_000_000, 500, 0)
    events: list[JobEvent] = []
    view = verify_home(tmp_path / "home", CONFIG, (), on_event=events.append)
    assert (view.state, view.progress["blobs"], view.progress["damaged"]) == (JobState.DONE, 3, 0)
    assert view.progress["bytes"] == 3_000_500
    assert events[-1].kind == "done"


def test_a_job_that_ended_is_not_run_again_by_the_next_start(tmp_path: Path) -> None:
    """The watcher of the last event may close the node at once: the row has to be there first."""
    home = tmp_path / "home"
    home_with_blobs(home, 100)
    for count in (1, 2, 3):
        verify_home(home, CONFIG, (), on_event=lambda _: None)
        assert [job.state for job in jobs_of(home)] == [JobState.DONE] * count


def test_jobs_that_ended_long_ago_leave_no_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "JOB_KEEP_S", 0)
    home, early = tmp_path / "home", Now(0.0, 1.0)  # at which nothing has expired
    home_with_blobs(home, 100)
    for _ in range(3):
        verify_home(home, CONFIG, (), on_event=lambda _: None)
    with shards_of(home) as shards:
        prefix = bytes((Space.JOB,))
        rows = [shard.scan(Kind.META, prefix, now=early, limit=9) for shard in shards]
    assert sum(map(len, rows)) <= 1, "not more than the last one"


def test_the_index_is_made_anew_when_its_files_are_gone(tmp_path: Path) -> None:
    home = tmp_path / "home"
    cids = home_with_blobs(home, 2_000_000, 1000)
    for path in (home / "data").glob("shard-*/index-*/data.mdb"):
        path.write_bytes(b"rot" * 5000)
    view = rebuild_index(home, CONFIG, on_event=lambda _: None)
    assert (view.progress["blobs"], view.progress["unhealed"]) == (len(cids), 0)


def test_only_the_named_blobs_are_checked(tmp_path: Path) -> None:
    home = tmp_path / "home"
    cids = home_with_blobs(home, 1_500_000, 1000, 2000)
    view = verify_home(home, CONFIG, cids[:2], on_event=lambda _: None)
    assert view.progress["blobs"] == 2
