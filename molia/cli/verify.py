"""`molia verify`: everything stored is read and checked, by the node or, when none runs, here.

A running node does it as a job, whose events this verb follows; without one, this process opens the
store and does the same job. Either way it tells what was damaged, healed, and not healed.
Of a job's progress it reads `blobs`, `blob_count`, `bytes`, `log_bytes` and `unhealed`; of an item
`cid` ("" for the store itself), `detail` and `healed`. Whatever else is there goes into the JSON.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from molia.base.cid import Cid, Ref, parse_ref
from molia.base.errors import (
    BadAnswer,
    BadInput,
    IntegrityFailure,
    MoliaError,
    NodeNotRunning,
)
from molia.cli.client import Node, find_node
from molia.cli.environment import environment, home_path
from molia.cli.following import OnEvent, Progress, ended_progress, follow_job
from molia.cli.output import Bar, Output, printable
from molia.cli.verb import Session, Verb

if TYPE_CHECKING:
    from molia.base.views import JobEvent


@click.command(cls=Verb, lines=True, help="Read and check everything stored; heal it.")
@click.argument("cids", metavar="[CID…]", nargs=-1)
@click.option("--rebuild-index", is_flag=True, help="Make the index anew from the logs; no node.")
@click.pass_obj
def verify(session: Session, *, cids: tuple[str, ...], rebuild_index: bool) -> int:
    """Check blobs, all of them when none is named."""
    refs = [parse_ref(text) for text in cids]
    if rebuild_index and refs:
        raise BadInput("--rebuild-index is about the whole store", hint="leave the CIDs out")
    with session.output.bar("verify", None) as bar:
        watcher = Watcher(session.output, bar)
        if rebuild_index:
            result = _offline(session, [], watcher.on_event, rebuild_index=True)
        else:
            result = _verify(session, refs, watcher.on_event)
    return watcher.finish(result)


class Watcher:
    """Shows a verification while it runs, and its end."""

    def __init__(self, output: Output, bar: Bar) -> None:
        self._output, self._bar = output, bar
        self._unhealed = 0

    def on_event(self, kind: str, data: Progress) -> None:
        """Take one event of a job: `progress` moves the bar, `item` is a finding."""
        if kind == "progress":
            total = _count(data, "blob_count")
            label = f"verify {_count(data, 'blobs')}/{total or '?'} blobs"
            self._bar.move(_count(data, "log_bytes") + _count(data, "bytes"), label=label)
        elif kind == "item":
            healed = bool(data.get("healed"))
            self._unhealed += not healed
            if self._output.as_json:
                self._output.json("item", **data)
            elif self._output.quiet:
                if data.get("cid"):  # damage of the store itself has none
                    self._output.line(str(data.get("cid")))
            else:
                what = "healed" if healed else "NOT HEALED"
                detail = printable(str(data.get("detail") or "damaged"))
                self._output.line(f"{what}  {printable(str(data.get('cid') or '-'))}  {detail}")

    def finish(self, result: Progress) -> int:
        """Write the summary and return the exit code."""
        failed = self._unhealed or _count(result, "unhealed")
        code = 6 if failed else 0
        if self._output.as_json:
            self._output.json("summary", **{**result, "ok": code == 0, "exit_code": code})
        elif not self._output.quiet:
            text = ", ".join(f"{key} {_shown(value)}" for key, value in result.items())
            self._output.line(f"verified: {text or 'nothing to do'}")
        if failed and not self._output.as_json:
            self._output.error(IntegrityFailure("some damage could not be healed"))
        return code


def verify_offline(
    home: Path, cids: Sequence[Cid], on_event: OnEvent, *, rebuild_index: bool = False
) -> Progress:
    """Check the store of a home that no node serves, after making its index anew if asked.

    Raises NotInitialised, HomeLocked, HomeUnsafe and whatever a store raises that cannot be opened.
    """
    from molia.cli.logs import set_up_logging
    from molia.cli.settings import load
    from molia.node import offline  # the node's own code, for a home without one

    config = load(home).config
    set_up_logging(replace(config.log, level="warning"))  # the findings say the rest

    def tell(event: "JobEvent") -> None:
        on_event(event.kind, event.data)

    if rebuild_index:
        view = offline.rebuild_index(home, config, on_event=tell)
    else:
        view = offline.verify_home(home, config, cids, on_event=tell)
    return ended_progress(
        {"state": view.state.value, "error": view.error, "progress": view.progress}
    )


def _verify(session: Session, refs: list[Ref], on_event: OnEvent) -> Progress:
    try:
        node = find_node(session)
        job = _start(node, refs)
    except NodeNotRunning:
        if session.options.node or environment().get("MOLIA_NODE"):
            raise
        session.output.note("no node runs: the store is read by this command")
        return _offline(session, refs, on_event)
    try:
        return follow_job(node, job, on_event)
    except KeyboardInterrupt:
        _cancel(node, job)
        raise


def _offline(
    session: Session, refs: list[Ref], on_event: OnEvent, *, rebuild_index: bool = False
) -> Progress:
    home = home_path(str(session.options.home) if session.options.home else None, environment())
    cids = [ref for ref in refs if isinstance(ref, Cid)]
    if len(cids) != len(refs):
        raise BadInput("a content hash needs a node to look it up", hint="name the CID")
    return verify_offline(home, cids, on_event, rebuild_index=rebuild_index)


def _start(node: Node, refs: list[Ref]) -> str:
    cids = [str(node.call("GET", f"/pin/{ref}").object().get("cid")) for ref in refs]
    job = node.call("POST", "/jobs", body={"kind": "verify", "cids": cids}).object().get("id")
    if not isinstance(job, str) or not job.isalnum():
        raise BadAnswer("the node's answer names no job", hint="check --node")
    return job


def _cancel(node: Node, job: str) -> None:
    try:
        node.call("DELETE", f"/jobs/{job}")
    except MoliaError:
        return  # it runs on, and does no harm


def _count(data: Progress, key: str) -> int:
    value = data.get(key)
    return value if isinstance(value, int) else 0


def _shown(value: object) -> str:
    return printable(str(value))
