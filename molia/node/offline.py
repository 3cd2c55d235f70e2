"""Work on a home whose node does not run: the same verify job, and the index rebuild."""

from collections.abc import Callable, Sequence
from pathlib import Path

import anyio

from molia.base.cid import Cid
from molia.base.config import Config
from molia.base.views import JobEvent, JobView
from molia.node.app import open_node

OnEvent = Callable[[JobEvent], None]


def verify_home(
    home: Path,
    config: Config,
    cids: Sequence[Cid],
    *,
    on_event: OnEvent,
    rebuild_index: bool = False,
) -> JobView:
    """Read and check the named blobs, or everything, and heal what can be healed.

    rebuild_index: first make the index anew from the segments, whatever state it is in.
    on_event is called with each event of the job. Returns how the job ended. Raises HomeLocked
    while a node holds the home, NotInitialised, HomeUnsafe, StoreVersion.
    """

    async def run() -> JobView:
        async with open_node(home, config, rebuild_index=rebuild_index) as node:
            job = await node.start_verify(cids)
            async for event in node.job_events(job.id, after=0):
                on_event(event)
            return await node.job(job.id)

    return anyio.run(run)


def rebuild_index(home: Path, config: Config, *, on_event: OnEvent) -> JobView:
    """Make the index anew from the segments, then verify everything; see `verify_home`."""
    return verify_home(home, config, (), on_event=on_event, rebuild_index=True)
