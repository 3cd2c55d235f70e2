"""Asks other holders to show blocks: carries out what `blobs.audit.Auditor` says.

Source: docs/reference/audit-and-repair.md, "Audit".
"""

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Final

import structlog

from molia.base.cid import Cid
from molia.base.errors import MoliaError, PeerLacks
from molia.base.ids import PeerKey
from molia.blobs import audit as core
from molia.blobs.audit import Answer, Auditor, AuditTask
from molia.blobs.placement import Place
from molia.node.alarm import Alarm
from molia.node.asking_blobs import Holder
from molia.node.context import Context
from molia.node.network import Network
from molia.node.stream_messages import read_reply, read_some, send_request
from molia.wire.addresses import Address
from molia.wire.blob_messages import Audit, AuditCode, Audited
from molia.wire.messages import Number

log = structlog.get_logger(__name__)

CATCH_UP_S: Final = 1.0
"""What the rest of a block may take once this process runs again: silence is asked again after six
hours only."""
OnJudged = Callable[[AuditTask, Answer], Awaitable[None]]


class Auditing:
    """The audits of one worker."""

    def __init__(self, context: Context, network: Network, on_judged: OnJudged) -> None:
        self._context, self._network, self._on_judged = context, network, on_judged
        self.core = Auditor(context.entropy)
        self._places: dict[tuple[Cid, Place], Address] = {}
        self._asking: dict[tuple[Cid, Place], asyncio.Task[None]] = {}
        self._noting: set[asyncio.Task[None]] = set()
        self._alarm = Alarm(lambda: self._now_s, self._on_deadline, catch_up_s=CATCH_UP_S)

    def add(self, task: AuditTask, address: Address) -> None:
        """Take an audit that is due; address: of the holder. Those beyond the bound stay due."""
        if self.core.wants_more:
            self._places[task.cid, task.place] = address
            self.core.add(task, now_s=self._now_s)
            self._turn()

    def close(self) -> None:
        """End what is under way."""
        self._alarm.cancel()
        for task in (*self._asking.values(), *self._noting):
            task.cancel()

    @property
    def _now_s(self) -> float:
        return self._context.now().mono_s

    def _on_deadline(self) -> None:
        self.core.on_deadline(now_s=self._now_s)
        self._turn()

    def _turn(self) -> None:
        while effects := self.core.take_effects():
            for effect in effects:
                match effect:
                    case core.AskBlock(task=task):
                        self._ask(task, effect)
                    case core.Judged(task=task, answer=answer):
                        self._judged(task, answer)
        self._alarm.set(self.core.next_deadline_s())

    def _ask(self, task: AuditTask, wanted: core.AskBlock) -> None:
        address = self._places[task.cid, task.place]
        asking = asyncio.ensure_future(self._ask_block(task, wanted, address))
        self._asking[task.cid, task.place] = asking

    async def _ask_block(self, task: AuditTask, wanted: core.AskBlock, address: Address) -> None:
        cid, place = task.cid, task.place
        try:
            found = await self._shown(Holder(PeerKey(place.key), address), cid, place, wanted)
        except MoliaError as error:  # silence: the core's deadline ends it
            log.debug("audit_unanswered", blob=cid.short, reason=str(error))
            return
        if found is None:
            self.core.on_absent(cid, place, now_s=self._now_s)
        else:
            block, path = found
            self.core.on_block(cid, place, block, path, now_s=self._now_s)
        self._turn()

    async def _shown(
        self, holder: Holder, cid: Cid, place: Place, wanted: core.AskBlock
    ) -> tuple[bytes, tuple[bytes, ...]] | None:
        """Return the block and its path; None when the holder says that it has it no more."""
        asked = Audit(cid=cid, share=place.share, stripe=wanted.stripe_index)
        try:
            async with self._network.open_stream(
                holder.key, holder.address, Number.AUDIT
            ) as stream:
                await send_request(stream, asked)
                stream.end()
                reply = await read_reply(stream)
                if not isinstance(reply, Audited) or reply.code != AuditCode.HERE:
                    return None
                return await read_some(stream, wanted.size + 1), reply.path
        except PeerLacks:
            return None

    def _judged(self, task: AuditTask, answer: Answer) -> None:
        name = task.cid, task.place
        self._places.pop(name, None)
        asking = self._asking.pop(name, None)
        if asking is not None and asking is not asyncio.current_task():
            asking.cancel()
        self._context.metrics.audits.labels(answer.value).inc()
        if answer in (Answer.ABSENT, Answer.WRONG):
            peer = PeerKey(task.place.key)
            log.warning(
                "audit_failed", blob=task.cid.short, share_index=task.place.share,
                peer=peer.short, answer=answer.value,
            )  # fmt: skip
        self._spawn(self._note(task, answer))

    async def _note(self, task: AuditTask, answer: Answer) -> None:
        try:
            await self._on_judged(task, answer)
        except MoliaError as error:
            log.warning("audit_not_noted", blob=task.cid.short, reason=str(error))

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._noting.add(task)
        task.add_done_callback(self._noting.discard)
