"""What every verb has in common: its options, its session, and a tree that loads lazily."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple

import click

from molia.base.errors import Interrupted, MoliaError
from molia.cli.output import Output, exit_code_of, from_os_error
from molia.cli.quantities import BadValue, parse_duration_s

TIMEOUT_S: Final = 120
"""Longest silence of the node that a verb bears by default."""
_NAMES: Final = ("as_json", "quiet", "no_progress", "timeout_s", "node", "home")


class Common(NamedTuple):
    """The options of every verb, before or after it."""

    as_json: bool = False
    quiet: bool = False
    no_progress: bool = False
    timeout_s: float | None = None
    node: str | None = None
    home: Path | None = None

    def under(self, outer: "Common") -> "Common":
        """Return these options over those given further left."""
        return Common(
            self.as_json or outer.as_json,
            self.quiet or outer.quiet,
            self.no_progress or outer.no_progress,
            self.timeout_s or outer.timeout_s,
            self.node or outer.node,
            self.home or outer.home,
        )


class Session(NamedTuple):
    """What a verb is given: its output, and how to reach the node."""

    output: Output
    options: Common

    @property
    def timeout_s(self) -> float:
        """Longest silence of the node."""
        return self.options.timeout_s or float(TIMEOUT_S)


def duration(value: str | float) -> float:
    """Return the seconds that `30s`, `2h`, `30d` or a number mean, at least one."""
    try:
        seconds = float(value) if isinstance(value, int | float) else parse_duration_s(value)
    except BadValue as error:
        raise click.BadParameter(str(error)) from None
    if not 1 <= seconds <= 10 * 365 * 86_400:
        raise click.BadParameter("must be between a second and ten years")
    return float(seconds)


class Verb(click.Command):
    """A command with the common options; its callback gets a Session first.

    lines: with `--json` it writes several objects and a `summary` last. gives_bytes: stdout carries
    a blob, so JSON belongs on stderr. A callback returns its exit code, or None for 0.
    """

    def __init__(
        self,
        name: str | None,
        *,
        lines: bool = False,
        gives_bytes: bool = False,
        **attributes: Any,  # noqa: ANN401 - click's own
    ) -> None:
        super().__init__(name, **attributes)
        self.lines, self.gives_bytes = lines, gives_bytes
        self.params.extend(common_params())

    def invoke(self, ctx: click.Context) -> int:
        """Run the verb in its session, report what went wrong, and return the exit code."""
        common = take_common(ctx)
        output = Output(as_json=common.as_json, quiet=common.quiet, progress=not common.no_progress)
        ctx.obj = Session(output, common)
        try:
            code = super().invoke(ctx)
            return code if isinstance(code, int) else 0
        except KeyboardInterrupt:
            return self.fail(output, Interrupted("interrupted"))
        except MoliaError as error:
            return self.fail(output, error)
        except OSError as error:
            return self.fail(output, from_os_error(error))
        except ExceptionGroup as group:  # what a node's task group makes of an error
            return self.fail(output, _one_of_ours(group))

    def fail(self, output: Output, error: MoliaError) -> int:
        """Report that the verb ended with `error`, and return its exit code."""
        code = exit_code_of(error)
        if self.gives_bytes:
            output.divert_json()
        output.error(error)
        if output.as_json and self.lines:
            output.json("summary", ok=False, exit_code=code)
        return code


def _one_of_ours(group: ExceptionGroup[Exception]) -> MoliaError:
    """Return the first error of a group when all are ours; else raise the group: it is a bug."""
    if group.split((MoliaError, OSError))[1] is not None:
        raise group
    first: Exception = group
    while isinstance(first, ExceptionGroup):
        first = first.exceptions[0]
    if isinstance(first, MoliaError):
        return first
    assert isinstance(first, OSError), "the group was split by these two"
    return from_os_error(first)


class LazyVerb(NamedTuple):
    """A verb that is not imported yet: `module:name`, and its line in the list of verbs."""

    where: str
    help: str


class Tree(click.Group):
    """A group whose verbs are imported when they are used."""

    def __init__(
        self,
        name: str | None = None,
        *,
        lazy: Mapping[str, LazyVerb] | None = None,
        **attributes: Any,  # noqa: ANN401 - click's own
    ) -> None:
        super().__init__(name, **attributes)
        self.lazy = dict(lazy or {})
        self.params.extend(common_params())

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the verbs in the order of the table, then the others."""
        return [*self.lazy, *super().list_commands(ctx)]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Return a verb, importing its module."""
        if cmd_name not in self.lazy:
            return super().get_command(ctx, cmd_name)
        module, _, name = self.lazy[cmd_name].where.partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command), f"{cmd_name} is a command"
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of verbs without importing those that are lazy."""
        if not self.lazy:
            super().format_commands(ctx, formatter)
            return
        with formatter.section("Commands"):
            formatter.write_dl([(name, verb.help) for name, verb in self.lazy.items()])

    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - click's own signature
        """Keep the common options for the verb, and run it."""
        ctx.obj = take_common(ctx)
        return super().invoke(ctx)


def take_common(ctx: click.Context) -> Common:
    """Return the common options of this level over those of the levels above."""
    own = Common(**{name: ctx.params.pop(name) for name in _NAMES})
    return own.under(ctx.obj) if isinstance(ctx.obj, Common) else own


def common_params() -> list[click.Parameter]:
    """Return fresh options that every verb takes."""
    return [
        click.Option(["--json", "as_json"], is_flag=True, help="Write JSON: see the manual."),
        click.Option(["-q", "--quiet"], is_flag=True, help="Write ids only."),
        click.Option(["--no-progress"], is_flag=True, help="Draw no progress bar."),
        click.Option(
            ["--timeout", "timeout_s"],
            type=duration,
            metavar="TIME",
            help="Longest silence of the node. [2m]",
        ),
        click.Option(
            ["--node"], metavar="URL|unix:PATH", help="The node to ask. [the home's, MOLIA_NODE]"
        ),
        click.Option(
            ["--home"],
            type=click.Path(path_type=Path),
            help="The node's home. [MOLIA_HOME, or the user's data directory]",
        ),
    ]
