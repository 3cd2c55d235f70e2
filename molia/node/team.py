"""The workers of a node as one of them sees them: its own seat, and the way to the others."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from molia.base import limits
from molia.base.errors import MoliaError, ShardUnavailable
from molia.node.bus import Caller, Cut, Link
from molia.store.disk import Buffer

_START_BITS: Final = 12
_INDEX_BITS: Final = 6
UNAVAILABLE: Final = "unavailable"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seat:
    """Which worker this process is."""

    index: int = 0
    count: int = 1
    node_unix_ms: int = 0
    """When the node started."""
    start: int = 0
    """How often this worker was started anew since then."""
    bus_paths: tuple[str, ...] = ()
    """Where each worker answers the others."""

    def __post_init__(self) -> None:
        assert 0 <= self.index < self.count <= limits.WORKERS_MAX

    @property
    def epoch(self) -> int:
        """A number that no other start of any worker has; it tells who began an upload."""
        start = self.start % (1 << _START_BITS)
        return (self.node_unix_ms << _INDEX_BITS | self.index) << _START_BITS | start

    def owns(self, shard_index: int) -> bool:
        """Tell whether this worker writes a shard."""
        return shard_index % self.count == self.index

    def left_behind(self, epoch: int, *, on_own_shard: bool) -> bool:
        """Tell whether this worker is to sweep what was begun in an epoch.

        After a start of the node, what lies on its own shards; after its own death, what it left.
        """
        node_unix_ms, index = divmod(epoch >> _START_BITS, 1 << _INDEX_BITS)
        if node_unix_ms != self.node_unix_ms:
            return on_own_shard
        return index == self.index and epoch != self.epoch


class Team:
    """The other workers; none of them when the node has one process."""

    def __init__(self, seat: Seat) -> None:
        self.seat = seat
        me = Caller(seat.index, seat.start)
        self._links = {
            index: Link(path, me)
            for index, path in enumerate(seat.bus_paths)
            if index != seat.index
        }
        self.statuses: dict[int, dict[str, Any]] = {}
        """What each of the others said of itself last."""

    @property
    def links(self) -> Mapping[int, Link]:
        """The way to each other worker."""
        return self._links

    def owner(self, shard_index: int) -> int:
        """Return the number of the worker that writes a shard."""
        return shard_index % self.seat.count

    async def run(self) -> None:
        """Keep the connections up, for as long as the node lives."""
        if self._links:
            await asyncio.gather(*(link.run() for link in self._links.values()))

    def answers(self, index: int) -> bool:
        """Tell whether another worker answers at present."""
        return self._links[index].ready

    async def ask(
        self,
        index: int,
        verb: str,
        arguments: object = None,
        *,
        wait_s: float = limits.WRITE_WAIT_S,
        blobs: tuple[Buffer, ...] = (),
    ) -> Any:  # noqa: ANN401 - what the verb answers
        """Return one worker's answer. Raises what it raised, ShardUnavailable, Busy."""
        try:
            return await self._links[index].ask(verb, arguments, blobs, wait_s=wait_s)
        except Cut:
            raise ShardUnavailable(
                "the worker that was asked ended", hint="try again in a moment"
            ) from None

    def tell(
        self, index: int, verb: str, arguments: object, blobs: tuple[Buffer, ...] = ()
    ) -> bool:
        """Say something to another worker without an answer; see `Link.tell`."""
        return self._links[index].tell(verb, arguments, blobs)

    async def ask_all(self, verb: str, arguments: object = None) -> dict[int, Any]:
        """Return the answers of those of the others that answer soon."""
        ready = [index for index, link in self._links.items() if link.ready]
        answers = await asyncio.gather(
            *(self.ask(index, verb, arguments, wait_s=limits.BUS_ASK_S) for index in ready),
            return_exceptions=True,
        )
        found = {}
        for index, answer in zip(ready, answers, strict=True):
            if not isinstance(answer, BaseException):
                found[index] = answer
            elif not isinstance(answer, MoliaError):
                raise answer
        return found
