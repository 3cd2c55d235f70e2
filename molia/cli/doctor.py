"""`molia doctor`: how the node and its disk are doing, and what to do about what is not well."""

import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

import click

from molia.cli.client import find_node
from molia.cli.output import age_text, printable, size_text
from molia.cli.verb import Session, Verb

OK, WARN, BAD = "ok", "warn", "bad"
BAD_EXIT: Final = 1
DISK_TRUTH: Final = 0.01
"""What the node says it takes on the disk is this close to what the file system says."""
SCRUB_LATE_S: Final = 62 * 86_400
LAG_BYTES: Final = 1 << 30
READER_LAG: Final = 10_000
NEARLY: Final = 0.9
Row = dict[str, object]


class Finding(NamedTuple):
    """One thing that was looked at."""

    level: str
    """`ok`, `warn` or `bad`."""
    what: str
    detail: str
    remedy: str = ""


@click.command(cls=Verb, lines=True, help="Say how the node and its disk are doing.")
@click.option("--trust-clock", is_flag=True, help="Believe the clock: what has expired may go.")
@click.pass_obj
def doctor(session: Session, *, trust_clock: bool) -> int:
    """Look at everything, print a line for each; the exit code is 1 when something is bad."""
    node, output = find_node(session), session.output
    if trust_clock:
        node.call("POST", "/clock/trust")
    found = list(diagnose(node.call("GET", "/node").object()))
    levels = [finding.level for finding in found]
    code = BAD_EXIT if BAD in levels else 0
    for finding in found:
        if output.as_json:
            output.json("item", **finding._asdict())
        elif not (output.quiet and finding.level == OK):
            remedy = f". {finding.remedy}" if finding.remedy else ""
            line = f"{finding.level + ':':<6}{finding.what}: {finding.detail}{remedy}"
            output.line(printable(line))
    if output.as_json:
        output.json(
            "summary", ok=code == 0, exit_code=code, fine=levels.count(OK),
            warnings=levels.count(WARN), bad=levels.count(BAD),
        )  # fmt: skip
    return code


def diagnose(node: Row) -> Iterator[Finding]:
    """Yield what there is to say of a node, given its answer."""
    shards = [row for row in _list(node, "shards") if isinstance(row, dict)]
    yield _takes_work(shards)
    yield from (_shard(shard) for shard in shards if shard.get("state") != "ok")
    yield _quota(node)
    yield _disk(node)
    yield from _truth(node)
    yield _garbage(shards)
    yield _lag(shards)
    yield _scrub(shards)
    yield _damage(shards)
    yield _clock(shards)
    yield _workers(node)
    yield _network(node)


def _takes_work(shards: list[Row]) -> Finding:
    bad = [shard for shard in shards if shard.get("state") != "ok"]
    if bad:
        return Finding(BAD, "node", f"{len(bad)} of {len(shards)} shards do not take all work")
    return Finding(OK, "node", "it takes work")


def _shard(shard: Row) -> Finding:
    state, reason = shard.get("state"), shard.get("reason")
    detail = f"{state}: {reason}" if reason else str(state)
    remedy = {
        "read-only": "Look at the disk, then restart the node",
        "full": "Remove blobs, or free space on the disk",
    }.get(str(state), "Look at the node's log")
    return Finding(BAD, f"shard {_number(shard, 'index')}", detail, remedy)


def _quota(node: Row) -> Finding:
    used, quota = _number(node, "stored_bytes"), _number(node, "quota_bytes")
    detail = f"{size_text(used)} of {size_text(quota)} used"
    if quota and used >= NEARLY * quota:
        remedy = "Remove blobs, or raise store.quota_bytes"
        return Finding(BAD, "quota", f"{detail}: puts are refused", remedy)
    return Finding(OK, "quota", detail)


def _disk(node: Row) -> Finding:
    free, used = _number(node, "disk_free_bytes"), _number(node, "stored_bytes")
    left = _number(node, "quota_bytes") - used
    detail = f"{size_text(free)} free"
    if left > free:
        detail += f", but {size_text(left)} of the quota are not used yet"
        return Finding(WARN, "disk", detail, "Lower store.quota_bytes, or use a larger disk")
    return Finding(OK, "disk", detail)


def _truth(node: Row) -> Iterator[Finding]:
    """Compare what the node says it takes with what the file system says, where that can be."""
    stored, home = _number(node, "stored_bytes"), Path(str(node.get("home") or "")) / "data"
    taken = disk_bytes(home)
    if not taken or not stored:
        return
    detail = f"the store takes {size_text(taken)} on the disk, the node says {size_text(stored)}"
    off = abs(taken - stored) / taken
    if off > DISK_TRUTH and abs(taken - stored) > 8 << 20:
        yield Finding(WARN, "disk truth", detail, "Run molia verify")
    else:
        yield Finding(OK, "disk truth", detail)


def disk_bytes(folder: Path) -> int:
    """Return the blocks that all files below a folder take; 0 when it cannot be entered."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.lstat(Path(parent) / name).st_blocks * 512
            except OSError:
                continue  # it has gone
    return total


def _garbage(shards: list[Row]) -> Finding:
    garbage = _sum(shards, "garbage_bytes") + _sum(shards, "punchable_bytes")
    log = _sum(shards, "log_bytes")
    detail = f"{size_text(garbage)} of {size_text(log)} in the logs wait to be given back"
    busy = sorted({str(shard["compaction"]) for shard in shards if shard.get("compaction")})
    return Finding(
        OK, "garbage", f"{detail}, compaction is at {', '.join(busy)}" if busy else detail
    )


def _lag(shards: list[Row]) -> Finding:
    lag, reader = _sum(shards, "unapplied_bytes"), _most(shards, "reader_lag")
    detail = f"a restart would read {size_text(lag)} of log"
    if reader > READER_LAG:
        detail += f"; a reader is {reader} commits behind and keeps the index from reusing space"
        return Finding(WARN, "index", detail, "Restart the node")
    if lag > LAG_BYTES:
        return Finding(WARN, "index", detail, "Look whether the disk is full")
    return Finding(OK, "index", detail)


def _scrub(shards: list[Row]) -> Finding:
    """Tell of the shard that is furthest behind."""
    scrubs = [scrub for shard in shards if isinstance(scrub := shard.get("scrub"), dict)]
    if not scrubs:
        return Finding(OK, "scrub", "not begun yet")
    late = min(scrubs, key=lambda scrub: _number(scrub, "ended_unix_s"))
    ended, started = _number(late, "ended_unix_s"), _number(late, "started_unix_s")
    last = (
        f"last one ended {age_text(max(0, time.time() - ended))} ago" if ended else "none ended yet"
    )
    running = [scrub for scrub in scrubs if scrub.get("phase") != "idle"]
    if running:
        part = min(_share(scrub, "part") for scrub in running)
        last += f", {part:.0%} of this one done"
    is_late = time.time() - (ended or started) > SCRUB_LATE_S
    remedy = "Keep the node running longer, or run molia verify" if is_late else ""
    return Finding(WARN if is_late else OK, "scrub", last, remedy)


def _damage(shards: list[Row]) -> Finding:
    count = _sum(shards, "damaged")
    if count:
        remedy = "Run molia verify, and look at the disk"
        return Finding(WARN, "damage", f"{count} places met since the start", remedy)
    return Finding(OK, "damage", "none met since the start")


def _clock(shards: list[Row]) -> Finding:
    doubts = sorted({str(shard["clock"]) for shard in shards if shard.get("clock")})
    if doubts:
        remedy = "When the clock is right, run molia doctor --trust-clock"
        return Finding(WARN, "clock", doubts[0], remedy)
    return Finding(OK, "clock", "trusted: what has expired is removed")


def _workers(node: Row) -> Finding:
    workers = [row for row in _list(node, "processes") if isinstance(row, dict)]
    starting = [row for row in workers if row.get("state") != "running"]
    restarts = _sum(workers, "restarts")
    detail = f"{len(workers) - len(starting)} of {len(workers)} running, {restarts} restarts"
    return Finding(WARN if starting or restarts else OK, "workers", detail)


def _network(node: Row) -> Finding:
    dht = node.get("dht")
    if not isinstance(dht, dict) or not dht.get("is_joined"):
        return Finding(OK, "network", "alone: what is kept here is nowhere else")
    detail = f"{_number(dht, 'contacts')} contacts"
    if dht.get("reachable") is False:
        remedy = "Open the UDP port, or name it by udp.external"
        return Finding(WARN, "network", f"{detail}, others do not reach this node", remedy)
    return Finding(OK, "network", detail)


def _list(row: Row, key: str) -> list[object]:
    value = row.get(key)
    return value if isinstance(value, list) else []


def _number(row: Row, key: str) -> int:
    value = row.get(key)
    return value if isinstance(value, int) and value >= 0 else 0


def _share(row: Row, key: str) -> float:
    value = row.get(key)
    return float(value) if isinstance(value, int | float) and 0 <= value <= 1 else 0.0


def _sum(rows: list[Row], key: str) -> int:
    return sum(_number(row, key) for row in rows)


def _most(rows: list[Row], key: str) -> int:
    return max((_number(row, key) for row in rows), default=0)
