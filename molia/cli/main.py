"""The command `molia`: finds the verb, runs it, and turns every failure into a line and a code."""

import sys
from typing import Final

import click

from molia.base.errors import Interrupted, MoliaError
from molia.cli import output
from molia.cli.output import Output, StdoutClosed
from molia.cli.verb import LazyVerb, Tree, Verb

VERBS: Final = {
    "init": LazyVerb("molia.cli.init:init", "Make a node's home: settings, key, token and store."),
    "run": LazyVerb("molia.cli.run:run", "Run the node; what is missing of its home is made."),
    "put": LazyVerb("molia.cli.put:put", "Store files and print their CIDs."),
    "get": LazyVerb("molia.cli.get:get", "Write a blob to a file; one that was cut off goes on."),
    "cat": LazyVerb("molia.cli.get:cat", "Write a blob, or a part of it, to stdout."),
    "ls": LazyVerb("molia.cli.blob:ls", "List what the node keeps, newest first."),
    "stat": LazyVerb("molia.cli.blob:stat", "Show what is known of a blob."),
    "rm": LazyVerb("molia.cli.blob:rm", "Remove blobs from the node and free their space."),
    "undelete": LazyVerb(
        "molia.cli.blob:undelete", "Bring removed blobs back, or list those that can be."
    ),
    "pin": LazyVerb("molia.cli.blob:pin", "Keep blobs until they are removed."),
    "verify": LazyVerb("molia.cli.verify:verify", "Read and check everything stored; heal it."),
    "repair": LazyVerb(
        "molia.cli.repair:repair", "Show what lacks shares on other nodes, or repair it now."
    ),
    "gc": LazyVerb(
        "molia.cli.gc:gc", "Remove what nobody wants any more now, not within the hour."
    ),
    "doctor": LazyVerb("molia.cli.doctor:doctor", "Say how the node and its disk are doing."),
    "record": LazyVerb("molia.cli.record:record", "Small signed values that can change."),
    "peers": LazyVerb("molia.cli.peers:peers", "List the nodes that the node knows."),
    "ping": LazyVerb("molia.cli.peers:ping", "Ask a peer for a sign of life."),
    "lookup": LazyVerb("molia.cli.peers:lookup", "Find the nodes closest to a key."),
    "testnet": LazyVerb(
        "molia.cli.testnet:testnet", "Run a network of many nodes on this machine, until Ctrl-C."
    ),
    "migrate": LazyVerb(
        "molia.cli.migrate:migrate", "Bring the store up to date, or change its shards; no node."
    ),
    "backup": LazyVerb(
        "molia.cli.backup:backup", "Save identity, settings, records and pins; no node."
    ),
    "restore": LazyVerb("molia.cli.backup:restore", "Make a home from a backup; no node."),
    "id": LazyVerb("molia.cli.admin:identity", "Show who the node is."),
    "config": LazyVerb("molia.cli.admin:config", "Settings of the node."),
    "version": LazyVerb("molia.cli.admin:version", "Show the version of this command."),
    "completion": LazyVerb("molia.cli.admin:completion", "Print the completion script of a shell."),
}

cli = Tree(
    name="molia",
    lazy=VERBS,
    help="Keep files so that they outlive any one machine.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)


def main(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit code. Never raises, never shows a traceback."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        code = _run(words)
        output.flush_stdout()
    except StdoutClosed:
        return _leave_quietly()
    except MoliaError as error:  # stdout itself cannot be written
        output.say(f"error: {output.sentence_of(error)}")
        return output.exit_code_of(error)
    return code


def _run(words: list[str]) -> int:
    try:
        result = cli.main(words, prog_name="molia", standalone_mode=False)
    except click.ClickException as error:
        return _refuse(words, error)
    except (click.Abort, KeyboardInterrupt):
        output.say("error: interrupted")
        return output.exit_code_of(Interrupted("interrupted"))
    return result if isinstance(result, int) else 0


def _refuse(words: list[str], error: click.ClickException) -> int:
    """Report a command line that cannot be understood."""
    if type(error).__name__ == "NoArgsIsHelpError":  # click 8.1 has no such class
        output.say(error.format_message())
        return error.exit_code
    context = getattr(error, "ctx", None)
    verb = context.command if isinstance(context, click.Context) else None
    problem = output.usage_error(error.format_message(), _help_of(error))
    before_dashes = words[: words.index("--")] if "--" in words else words
    mouth = Output(as_json="--json" in before_dashes, quiet=False, progress=False)
    if isinstance(verb, Verb):
        return verb.fail(mouth, problem)
    mouth.error(problem)
    return output.exit_code_of(problem)


def _help_of(error: click.ClickException) -> str:
    context = getattr(error, "ctx", None)
    path = context.command_path if isinstance(context, click.Context) else "molia"
    return f"{path} --help shows what it takes"


def _leave_quietly() -> int:
    """Stop Python from complaining at exit about a stdout that nobody reads."""
    import os

    devnull = os.open(os.devnull, os.O_WRONLY)
    os.dup2(devnull, 1)
    os.close(devnull)
    return 0
