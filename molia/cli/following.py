"""Following a job of the node through its events until it ends."""

import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from molia.base.errors import ConnectionLost, MoliaError
from molia.cli.client import Node
from molia.cli.event_stream import read_events

RECONNECTS_MAX: Final = 5
RECONNECT_AFTER_S: Final = 0.5
_ENDED: Final = ("done", "failed", "cancelled")
_LAST_EVENTS: Final = ("done", "error")
Progress = dict[str, object]
OnEvent = Callable[[str, Progress], None]


def follow_job(node: Node, job: str, on_event: OnEvent) -> Progress:
    """Tell a job's events until it ends, and return its progress.

    Raises MoliaError when it failed or was cancelled, ConnectionLost.
    """
    last_id, idle_count = 0, 0
    while True:
        before, finished = last_id, False
        headers = {"Last-Event-ID": str(last_id)} if last_id else {}
        with suppress(ConnectionLost), node.stream("GET", _events_path(job), headers) as response:
            for event_id, kind, data in read_events(response):
                last_id = max(last_id, event_id)
                finished = finished or kind in _LAST_EVENTS
                on_event(kind, data)
        view = node.call("GET", f"/jobs/{job}").object()
        # a cut stream looks like one that ended: a last event tells, or that nothing new came
        if view.get("state") in _ENDED and (finished or last_id == before):
            return ended_progress(view)
        idle_count = 0 if last_id > before else idle_count + 1
        if idle_count > RECONNECTS_MAX:
            raise ConnectionLost("the node keeps ending the job's events", hint="try again")
        if idle_count:
            time.sleep(RECONNECT_AFTER_S)


def _events_path(job: str) -> str:
    return f"/jobs/{job}/events"


def ended_progress(view: Progress) -> Progress:
    """Return the progress of a job that has ended. Raises MoliaError unless it ended well."""
    progress = view.get("progress")
    if view.get("state") == "failed":
        raise MoliaError(f"the node gave up: {view.get('error')}", hint="its log says more")
    if view.get("state") == "cancelled":
        raise MoliaError("the job was cancelled by someone else")
    return dict(progress) if isinstance(progress, dict) else {}
