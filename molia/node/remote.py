"""Writing to the shard of another worker: the same words as `ShardWriter`, carried by the bus."""

import contextlib
from collections.abc import Sequence
from typing import Any, Final

from molia.base.errors import ShardUnavailable, WriteUnsettled
from molia.base.views import ShardView
from molia.node.bus import Cut, Link
from molia.store.disk import Buffer
from molia.store.keys import Kind
from molia.store.ops import Delete, Guard, Put, Reply, Transaction
from molia.store.shared import SharedShard

_TRIES: Final = 5


def pack_transaction(transaction: Transaction) -> tuple[list[Any], list[Buffer]]:
    """Return a transaction as CBOR values and the bytes of its values."""
    ops: list[tuple[object, ...]] = []
    blobs: list[Buffer] = []
    for op in transaction.ops:
        if isinstance(op, Put):
            ops.append((int(op.kind), op.key, len(op.value), op.expiry, op.overwrite))
            blobs.append(op.value)
        else:
            ops.append((int(op.kind), op.key))
    guard = transaction.guard
    packed = None if guard is None else (int(guard.kind), guard.key, guard.value)
    return [ops, packed], blobs


def unpack_transaction(fields: Sequence[Any], blob: memoryview) -> Transaction:
    """Return the transaction of `pack_transaction`; its values are parts of `blob`."""
    packed_ops, packed_guard = fields
    ops: list[Put | Delete] = []
    at = 0
    for kind, key, *put in packed_ops:
        if put:
            size, expiry, overwrite = put
            ops.append(Put(Kind(kind), key, blob[at : at + size], expiry, overwrite))
            at += size
        else:
            ops.append(Delete(Kind(kind), key))
    guard = None if packed_guard is None else Guard(Kind(packed_guard[0]), *packed_guard[1:])
    return Transaction(tuple(ops), guard)


class RemoteWriter:
    """The writer of a shard in another process."""

    def __init__(self, shard: SharedShard, index: int, link: Link) -> None:
        self.shard, self.index = shard, index
        self._link = link
        self.view: ShardView | None = None
        """What its worker said of it last."""

    @property
    def failure(self) -> str:
        """Why the shard takes no writes, as far as is known; empty while it does."""
        return self.view.reason if self.view is not None else ""

    @property
    def log_bytes(self) -> int:
        """Disk bytes of its log, as its worker said last."""
        return self.view.log_bytes if self.view is not None else 0

    @property
    def disk_bytes(self) -> int:
        """All that it takes on the disk, as its worker said last."""
        return self.view.disk_bytes if self.view is not None else 0

    @property
    def settled_bytes(self) -> int:
        """See `ShardWriter.settled_bytes`; as its worker said last."""
        view = self.view
        return 0 if view is None else max(0, view.disk_bytes - view.punchable_bytes)

    @property
    def answers(self) -> bool:
        """Whether its worker answers at present."""
        return self._link.ready

    async def write(self, transaction: Transaction) -> Reply:
        """See `ShardWriter.write`. What is not guarded is sent again when the worker starts anew.

        Raises WriteUnsettled when a guarded one may or may not have been done.
        """
        fields, blobs = pack_transaction(transaction)
        for _ in range(_TRIES):
            try:
                return Reply(await self._link.ask("write", [self.index, *fields], blobs))
            except Cut:
                if transaction.guard is not None:
                    raise WriteUnsettled(self.index) from None
        raise ShardUnavailable(f"the worker of shard {self.index} keeps ending")

    async def settle(self) -> None:
        """See `ShardWriter.settle`. Raises ShardUnavailable while nobody can tell."""
        await self._link.settle()
        with contextlib.suppress(Cut):  # what its worker had not done by then is never done
            await self._link.ask("settle", self.index)

    async def stop(self) -> None:
        """Let go of the shard's files."""
        self.shard.close()
