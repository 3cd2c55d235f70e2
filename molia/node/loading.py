"""What a worker reads of its shards once, at the start: what cannot be read then is read later.

A shard whose disk does not answer, or with a damaged page, gives what can be read of it; the worker
goes on with that, and the shard is read again until it gives all.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from typing import Final, Generic, TypeVar

import structlog

from molia.base.errors import Damaged, ShardUnavailable
from molia.node.context import Context
from molia.node.shards import ReadShard

log = structlog.get_logger(__name__)

AGAIN_FIRST_S: Final = 1.0
AGAIN_LAST_S: Final = 600.0
"""Waits between two readings of a shard; they double."""
Row = TypeVar("Row")


class Loading(Generic[Row]):
    """One reading of all shards that this worker writes."""

    def __init__(
        self, context: Context, what: str, read: Callable[[ReadShard], Iterable[Row]],
        take: Callable[[Sequence[Row]], None],
    ) -> None:  # fmt: skip
        """what: names it in the log. read: in a thread. take: may be given a row twice."""
        self._context, self._what = context, what
        self._read, self._take = read, take
        self._left: list[ReadShard] = [writer.shard for writer in context.shards.own]
        self.failed = 0
        """Readings that gave less than all."""

    async def once(self) -> None:
        """Read what is left to be read."""
        left, self._left = self._left, []
        for shard in left:
            rows, error = await self._context.offload.run(self._readable, shard)
            self._take(rows)
            if error is not None:
                self._left.append(shard)
                self.failed += 1
                log.warning(
                    "rows_unread", what=self._what, shard_index=shard.index, reason=str(error)
                )

    async def rest(self) -> None:
        """Read until nothing is left."""
        wait_s = AGAIN_FIRST_S
        while self._left:
            await asyncio.sleep(wait_s)
            wait_s = min(2 * wait_s, AGAIN_LAST_S)
            await self.once()

    def _readable(self, shard: ReadShard) -> tuple[list[Row], Exception | None]:
        rows: list[Row] = []
        try:
            for row in self._read(shard):
                rows.append(row)  # noqa: PERF402 - what was read before an error counts
        except (Damaged, ShardUnavailable) as error:
            return rows, error
        return rows, None
