"""A node that is killed while it repairs: another one takes over."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from tests.network.crowd import QUICK_REPAIR, Crowd, Member, crowd_of, got, put_well
from tests.node.process import MIB, body_of, until

NODES = 18
SIZE = 10 * MIB
TRIES = 3
REPAIR_S = 180.0
QUICK_S = 10.0
"""By then the others know that a holder is gone."""
MADE_MAX = 15
"""Shares that may be made in all where at most five are gone: each of them by three at most."""
Record = Callable[[str, object], None]


def repairs(node: Member) -> dict[str, Any]:
    """Return what a node says of its repairs."""
    shown: dict[str, Any] = node.client()("GET", "/repair").json()
    return shown


def running(nodes: list[Member]) -> list[Member]:
    """Return the nodes that repair something now."""
    return [
        node for node in nodes
        if any(repair["state"] == "running" for repair in repairs(node)["repairs"])
    ]  # fmt: skip


def test_a_repairer_killed_at_its_work_is_replaced_and_nothing_is_made_many_times(
    tmp_path: Path, record_property: Record
) -> None:
    with crowd_of(tmp_path, NODES, QUICK_REPAIR) as crowd:
        body, publisher = body_of(3, SIZE), crowd.nodes[0]
        cid = put_well(publisher, body)
        holders = [node for node in crowd.holders(cid, publisher) if node is not publisher]
        spare = [node for node in crowd.nodes if node not in (publisher, *holders)]
        publisher.kill()
        _kill_a_repairer(crowd, holders, spare[0], cid)
        until(partial(_is_whole, spare[0], cid), "nobody took over", within_s=REPAIR_S)
        made = sum(int(repairs(node)["shares_made"]) for node in crowd.up())
        assert got(cid, spare[0]) == body
        assert made <= MADE_MAX, f"{made} shares were made in place of a few"
        record_property(
            "summary",
            f"repairer killed: {made} shares of {SIZE // MIB} MiB made by who took over",
        )


def _kill_a_repairer(crowd: Crowd, holders: list[Member], asker: Member, cid: str) -> None:
    """Kill a holder, and then who repairs what that cost; another where repair was too quick."""
    for gone in holders[:TRIES]:
        gone.kill()
        at_it: list[Member] = []
        began_s = time.monotonic()
        while not at_it and time.monotonic() < began_s + REPAIR_S:
            at_it = running(crowd.up(asker))
            if not at_it and time.monotonic() > began_s + QUICK_S and _is_whole(asker, cid):
                break
        if at_it:
            at_it[0].kill()
            return
    raise AssertionError("nobody was seen at a repair")


def _is_whole(node: Member, cid: str) -> bool:
    shares = node.health(cid)["shares"]
    return all(share["holders"] for share in shares)
