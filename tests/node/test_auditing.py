"""Audits, and other things that have their time, by the clock of a real event loop."""

import asyncio
import socket
import time
from pathlib import Path
from typing import cast

import pytest

from molia.base.cid import Cid
from molia.base.config import Config, StoreConfig
from molia.blobs.audit import Answer, AskBlock, AuditTask
from molia.blobs.merkle import inclusion_path
from molia.blobs.placement import Place
from molia.node import alarm
from molia.node.alarm import Alarm
from molia.node.app import open_node
from molia.node.asking_blobs import Holder
from molia.node.auditing import Auditing
from molia.node.home import init_home
from molia.node.network import Network
from tests.blobs.remote import coded
from tests.node.inside import until

BLOB = coded(1_000_001)
SHARE = 3
CONFIG = Config(store=StoreConfig(shards=1, quota_bytes=1 << 30), workers=1)


async def test_a_holder_whose_answer_came_while_this_process_stood_still_is_not_silent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alarm, "STOOD_STILL_S", 0.1)
    ours, theirs = socket.socketpair()
    asked, judged = asyncio.Event(), list[Answer]()

    async def shown(_: Auditing, __: Holder, ___: Cid, ____: Place, wanted: AskBlock) -> object:
        asked.set()
        await asyncio.get_running_loop().sock_recv(ours, 1)
        path = inclusion_path(BLOB.leaves[SHARE], wanted.stripe_index)
        return BLOB.blocks[SHARE, wanted.stripe_index], tuple(path)

    async def note(_: AuditTask, answer: Answer) -> None:
        judged.append(answer)

    monkeypatch.setattr(Auditing, "_shown", shown)
    init_home(tmp_path / "home", CONFIG, "")
    with ours, theirs:
        ours.setblocking(False)
        async with open_node(tmp_path / "home", CONFIG) as node:
            auditing = Auditing(node.context, cast("Network", None), note)
            task = AuditTask(BLOB.manifest.cid, Place(SHARE, bytes(32)), BLOB.manifest, rtt_s=0.0)
            auditing.add(task, ("127.0.0.1", 1))
            await asked.wait()
            await asyncio.sleep(0)  # it reads by now
            due_s = auditing.core.next_deadline_s()
            assert due_s is not None
            theirs.send(b"x")
            time.sleep(max(0.0, due_s - node.context.now().mono_s) + 0.3)
            await until(lambda: judged, "nothing is judged")
            auditing.close()
    assert judged == [Answer.SOUND]


async def test_of_many_answers_that_came_while_this_process_stood_still_all_are_read(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(alarm, "STOOD_STILL_S", 0.1)
    rung: list[float] = []
    one = Alarm(time.monotonic, lambda: rung.append(time.monotonic()), catch_up_s=0.5)
    due_s = time.monotonic()
    one.set(due_s)
    time.sleep(0.3)
    for _ in range(9):
        one.set(due_s)  # one of them was read, the next is overdue as well
        await asyncio.sleep(0)
        assert not rung
    await until(lambda: rung, "who does not answer is never late")
    assert rung[0] >= due_s + 0.3 + 0.5
    one.set(None)
