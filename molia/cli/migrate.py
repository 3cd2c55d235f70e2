"""`molia migrate`: a store brought up to what this version needs; no node may run.

What is due is told by `--dry-run`, which changes nothing. A run that was cut off, even by kill -9,
is gone on with by the next one. A store that a newer version wrote is left alone: exit code 14.
"""

from dataclasses import replace

import click

from molia.base.errors import BadInput
from molia.cli.environment import environment, home_path
from molia.cli.output import Bar, size_text
from molia.cli.settings import load
from molia.cli.verb import Session, Verb


@click.command(
    cls=Verb, lines=True, help="Bring the store up to date, or change its shards; no node."
)
@click.option("--dry-run", is_flag=True, help="Tell what would be done; change nothing.")
@click.option("--shards", type=click.IntRange(1, 64), help="Have so many shards from now on.")
@click.option("--undo", is_flag=True, help="Take back a migration that did not succeed.")
@click.pass_obj
def migrate(session: Session, *, dry_run: bool, shards: int | None, undo: bool) -> int:
    """Run what is due."""
    if undo and (shards or dry_run):
        raise BadInput("--undo goes with no other option")
    from molia.cli.logs import set_up_logging
    from molia.node.migration import migrate_home  # the node's own work, for a home without one

    flag = str(session.options.home) if session.options.home else None
    home = home_path(flag, environment())
    config = load(home).config
    set_up_logging(replace(config.log, level="warning"))
    output = session.output
    with output.bar("migrate", None) as bar:
        result = migrate_home(
            home, config, shards=shards or 0, dry_run=dry_run, take_back=undo,
            on_progress=lambda what, done, total: _show(bar, what, done, total),
        )  # fmt: skip
    code = 6 if result.damaged else 0
    facts: dict[str, object] = {
        "migrations": list(result.migrations), "shards": result.shard_count,
        "shards_before": result.old_shard_count, "needed_bytes": result.needed_bytes,
        "free_bytes": result.free_bytes, "rows": result.rows, "damaged": result.damaged,
        "finished_earlier_run": result.finished, "undone": result.undone, "dry_run": dry_run,
    }  # fmt: skip
    if output.as_json:
        output.json("summary", **facts, ok=code == 0, exit_code=code)
        return code
    if not output.quiet:
        for line in _lines(result.migrations, facts, changes=result.changes):
            output.line(line)
    return code


def _show(bar: Bar, what: str, done: int, total: int) -> None:
    bar.move(done, total=total, label=f"migrate: {what}")


def _lines(names: tuple[str, ...], facts: dict[str, object], *, changes: bool) -> list[str]:
    if not changes:
        return ["the store is up to date"]
    dry = facts["dry_run"]
    lines = [f"{'due' if dry else 'applied'}  {name}" for name in names]
    if facts["finished_earlier_run"]:
        lines.append(f"{'to finish' if dry else 'finished'}  an earlier run that was cut off")
    if facts["undone"]:
        lines.append("taken back  the store is as it was before the migration")
    if facts["shards"] != facts["shards_before"]:
        lines.append(f"shards  {facts['shards_before']} -> {facts['shards']}")
    if facts["damaged"]:
        lines.append(f"left out  {facts['damaged']} damaged rows; molia verify heals what it can")
    if dry:
        needed, free = int(str(facts["needed_bytes"])), int(str(facts["free_bytes"]))
        fits = "fits" if needed <= free else "DOES NOT FIT"
        lines.append(f"space  {size_text(needed)} needed, {size_text(free)} free: {fits}")
    return lines
