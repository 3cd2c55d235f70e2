"""How the node is doing: its shards, its workers, its metrics, whichever of them is asked."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import anyio

from molia.base.ids import network_label
from molia.base.views import DhtView, NodeView, ScrubView, ShardView, WorkerView
from molia.node.context import Context
from molia.node.member import Member
from molia.node.network import Network
from molia.node.remote import RemoteWriter
from molia.node.shards import ShardWriter
from molia.node.team import UNAVAILABLE
from molia.store.ops import ShardStats
from molia.store.recovery import RecoveryReport
from molia.store.scrub import HEAD_BYTES, IDLE, ScrubStatus
from molia.wire.proof import Proof

STATUS_INTERVAL_S: Final = 0.5
"""How often the workers tell each other how they are."""


class Overview:
    """What this worker knows of itself and of the others."""

    def __init__(self, context: Context, *, home: Path, reports: dict[int, RecoveryReport]) -> None:
        """reports: what opening this worker's own shards found."""
        self._context, self._home, self._reports = context, home, reports
        self._started = context.now()
        self.member: Member | None = None
        metrics, seat = context.metrics, context.team.seat
        metrics.watch(self.own_shards)
        metrics.note_worker(seat.index, restarts=seat.start)
        budget = context.budget
        metrics.gauge("molia_buffer_bytes", "Bytes of stripes in memory", lambda: budget.used_bytes)
        metrics.gauge(
            "molia_buffer_waiting", "Requests waiting for memory", lambda: budget.waiting_count
        )

    # ------------------------------------------------------------------ told and asked

    async def run(self) -> None:
        """Tell the other workers how this one is, for as long as the node lives."""
        while self._context.team.links:
            await self._context.team.ask_all("status", self.status())
            await anyio.sleep(STATUS_INTERVAL_S)

    def take_status(self, index: int, status: dict[str, Any]) -> None:
        """Take note of what another worker said of itself."""
        self._context.team.statuses[index] = status
        if self.network is not None and status["proof"]:
            self.network.take_proof(status["proof"])
        for fields in status["shards"]:
            view = _shard_view(fields)
            writer = self._context.shards.writers[view.index]
            if isinstance(writer, RemoteWriter):
                writer.view = view

    async def refresh(self) -> None:
        """Ask the other workers how they are."""
        for index, status in (await self._context.team.ask_all("get_status")).items():
            self.take_status(index, status)

    def status(self) -> dict[str, Any]:
        """Return what other workers are told of this one."""
        return {
            "shards": [asdict(view) for view in self.own_shards()],
            "blobs": self._context.metrics.blob_count,
            "worker": asdict(self._own_worker()),
            "sessions": 0 if self.network is None else self.network.session_count,
            "dht": None if self.member is None else asdict(self.member.view()),
            "proof": b"" if self._proof is None else self._proof.encode(),
        }

    @property
    def network(self) -> Network | None:
        """This worker's side of the network."""
        return None if self.member is None else self.member.network

    def _dht(self) -> DhtView | None:
        """Return how the node stands among the others, over all workers that answer."""
        if self.member is None:
            return None
        told = [status.get("dht") for status in self._context.team.statuses.values()]
        views = [self.member.view(), *(DhtView(**fields) for fields in told if fields)]
        reachable = [view.reachable for view in views if view.reachable is not None]
        return DhtView(
            is_joined=any(view.is_joined for view in views),
            reachable=any(reachable) if reachable else None,
            contacts=max(view.contacts for view in views),
            network_nodes=max(view.network_nodes or 0 for view in views) or None,
            records=sum(view.records for view in views),
            provider_records=sum(view.provider_records for view in views),
            own_records=sum(view.own_records for view in views),
            provided=sum(view.provided for view in views),
        )

    @property
    def _proof(self) -> Proof | None:
        return None if self.network is None else self.network.current_proof()

    # ------------------------------------------------------------------ shown

    async def node(self, api_urls: Sequence[str]) -> NodeView:
        """Return who this node is and how it is doing."""
        context = self._context
        await self.refresh()
        shards = await context.offload.run(self.shards)
        now = context.now()
        disk = await context.offload.run(shutil.disk_usage, self._home)
        started_s = context.team.seat.node_unix_ms / 1000
        others = context.team.statuses.values()
        return NodeView(
            peer=str(context.peer),
            version=version("molia"),
            network=context.config.network,
            network_id=network_label(context.network),
            started_unix_s=int(started_s),
            uptime_s=round(max(0.0, now.unix_s - started_s), 3),
            workers=context.team.seat.count,
            api=tuple(api_urls),
            home=str(self._home),
            blobs=context.blob_count,
            stored_bytes=sum(shard.disk_bytes for shard in shards),
            quota_bytes=context.quota_bytes,
            disk_free_bytes=disk.free,
            shards=tuple(shards),
            processes=self._workers(),
            addresses=() if self.network is None else self.network.addresses(),
            sessions=sum(status["sessions"] for status in (self.status(), *others)),
            dht=self._dht(),
            holding=None if self.member is None else self.member.holder.view(),
            proof_epoch=None if self._proof is None else self._proof.epoch,
        )

    def reasons(self) -> list[str]:
        """Return why the node does not take all work, if so."""
        views = self.shards()
        reasons = [
            f"shard {view.index} takes no writes: {view.reason}"
            for view in views
            if view.state == "read-only"
        ]
        reasons += [f"shard {view.index} is full" for view in views if view.state == "full"]
        reasons += [
            f"shard {view.index}: its worker is starting"
            for view in views
            if view.state == UNAVAILABLE
        ]
        return reasons

    async def metrics(self) -> bytes:
        """Return the metrics of all workers that answer."""
        others = await self._context.team.ask_all("metrics")
        return self._context.metrics.render(others.values())

    def own_shards(self) -> list[ShardView]:
        """Return how the shards are that this worker writes."""
        return [self._own_shard(writer) for writer in self._context.shards.own]

    def shards(self) -> list[ShardView]:
        """Return how all shards are; of another worker's, what it said last."""
        return [
            self._own_shard(writer) if isinstance(writer, ShardWriter) else _told(writer)
            for writer in self._context.shards.writers
        ]

    def _own_shard(self, writer: ShardWriter) -> ShardView:
        stats = writer.shard.stats()
        return ShardView(
            index=writer.index,
            state="read-only" if stats.failure else "full" if stats.full else "ok",
            reason=stats.failure,
            keys=stats.keys,
            log_bytes=stats.log_bytes,
            disk_bytes=stats.disk_bytes,
            punchable_bytes=stats.punchable_bytes,
            last_recovery=self._reports[writer.index].summary(),
            live_bytes=stats.live_bytes,
            garbage_bytes=stats.garbage_bytes,
            segments=stats.segments,
            compaction=stats.compaction,
            unapplied_bytes=stats.unapplied_bytes,
            reader_lag=stats.reader_lag,
            damaged=stats.counters.damaged_reads + stats.counters.scrub_findings,
            scrub=_scrub_view(writer.shard.scrub_status(), stats),
            clock=writer.shard.clock_doubt(self._context.now()),
        )

    def _own_worker(self) -> WorkerView:
        now, seat = self._context.now(), self._context.team.seat
        uptime_s = round(now.mono_s - self._started.mono_s, 3)
        return WorkerView(
            index=seat.index, state="running", pid=os.getpid(), uptime_s=uptime_s,
            restarts=seat.start,
        )  # fmt: skip

    def _workers(self) -> tuple[WorkerView, ...]:
        team = self._context.team
        views = [self._own_worker()]
        for index in team.links:
            last = team.statuses.get(index)
            if last is not None and team.answers(index):
                views.append(WorkerView(**last["worker"]))
            else:
                restarts = last["worker"]["restarts"] if last is not None else 0
                views.append(
                    WorkerView(
                        index=index, state="starting", pid=0, uptime_s=0.0, restarts=restarts
                    )
                )
        return tuple(sorted(views, key=lambda view: view.index))


def _shard_view(fields: dict[str, Any]) -> ShardView:
    """Return the view that another worker took apart."""
    scrub = fields.get("scrub")
    return ShardView(**fields | {"scrub": ScrubView(**scrub) if scrub else None})


def _scrub_view(status: ScrubStatus, stats: ShardStats) -> ScrubView | None:
    if not status.started_unix_s:
        return None
    whole = stats.log_bytes + stats.keys * HEAD_BYTES
    return ScrubView(
        phase=("idle", "segments", "index")[status.phase],
        started_unix_s=status.started_unix_s,
        ended_unix_s=status.ended_unix_s,
        read_bytes=status.size_bytes,
        part=1.0 if status.phase == IDLE else round(min(1.0, status.size_bytes / max(1, whole)), 3),
        damaged=status.damaged,
    )


def _told(writer: RemoteWriter) -> ShardView:
    view = writer.view
    if view is not None and writer.answers:
        return view
    return ShardView(
        index=writer.index,
        state=UNAVAILABLE,
        reason="its worker is starting",
        keys=view.keys if view is not None else 0,
        log_bytes=writer.log_bytes,
        disk_bytes=writer.disk_bytes,
        punchable_bytes=0,
        last_recovery=view.last_recovery if view is not None else "",
    )
