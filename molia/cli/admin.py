"""`molia id`, `version`, `config show` and `completion`."""

import click

from molia import __version__
from molia.cli.environment import environment, home_path
from molia.cli.output import printable, size_text
from molia.cli.verb import Session, Tree, Verb


@click.command("id", cls=Verb, help="Show who the node is.")
@click.pass_obj
def identity(session: Session) -> None:
    """Print the node's peer key; on a terminal, more of it."""
    from molia.cli.client import find_node  # `version` needs no client

    node = find_node(session).call("GET", "/node").object()
    output = session.output
    if output.as_json:
        output.json("node", **node)
    elif output.quiet or not output.is_terminal:
        output.line(printable(str(node.get("peer"))))
    else:
        for key in ("peer", "version", "network", "addresses", "api", "home", "blobs", "sessions"):
            value = node.get(key)
            text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
            output.line(f"{key + ':':<11}{printable(text)}")
        epoch = node.get("proof_epoch")
        none = "none: one is computed once an external address is confirmed"
        output.line(f"{'proof:':<11}{none if epoch is None else f'epoch {epoch}'}")
        dht = node.get("dht")
        output.line(f"{'others:':<11}{_standing(dht) if isinstance(dht, dict) else 'alone'}")
        holding = node.get("holding")
        output.line(f"{'holding:':<11}{_holding(holding) if isinstance(holding, dict) else '-'}")


def _standing(dht: dict[str, object]) -> str:
    """Return in a few words how the node stands among the others."""
    if not dht.get("is_joined"):
        return "no other node is known yet: molia run --bootstrap names one"
    known = f"{dht.get('contacts')} contacts"
    if dht.get("network_nodes") is not None:
        known += f" of about {dht.get('network_nodes')} nodes"
    reachable = dht.get("reachable")
    serves = {True: "reachable", False: "not reachable, a client"}
    return f"{known}, {serves.get(bool(reachable)) if reachable is not None else 'not yet reached'}"


def _holding(holding: dict[str, object]) -> str:
    """Return in a few words what the node keeps for others."""
    offered, held = holding.get("offered_bytes"), holding.get("held_bytes")
    if not isinstance(offered, int) or not isinstance(held, int) or not (offered or held):
        return "nothing is offered to others: store.offer_bytes, or molia init --offer"
    sizes = f"{size_text(held)} of {size_text(offered)} offered"
    return f"{holding.get('shares')} shares of others, {sizes}"


@click.command(cls=Verb, help="Show the version of this command.")
@click.pass_obj
def version(session: Session) -> None:
    """Print the installed version."""
    output = session.output
    if output.as_json:
        output.json("version", version=__version__)
    else:
        output.line(__version__ if output.quiet else f"molia {__version__}")


config = Tree(name="config", help="Settings of the node.")


@config.command("show", cls=Verb, help="Show every setting as it stands.")
@click.option("--origin", is_flag=True, help="Say where each value comes from.")
@click.pass_obj
def show(session: Session, *, origin: bool) -> None:
    """Print the settings that `molia run` would use now, one a line."""
    from molia.cli.settings import load, toml_value

    flag = str(session.options.home) if session.options.home else None
    home = home_path(flag, environment())
    settings = load(home).settings
    output = session.output
    if output.as_json:
        values = {setting.name: setting.value for setting in settings}
        origins = {setting.name: setting.origin for setting in settings}
        output.json("config", home=str(home), settings=values, origins=origins)
        return
    for setting in settings:
        line = f"{setting.name} = {toml_value(setting.value)}"
        if output.quiet:
            line = setting.name
        elif origin:
            line = f"{line}  # {printable(setting.origin)}"
        output.line(line)


@click.command(cls=Verb, help="Print the completion script of a shell.")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_obj
def completion(session: Session, *, shell: str) -> None:
    """Print a script for the shell to read: `eval "$(molia completion bash)"`."""
    from click.shell_completion import get_completion_class

    from molia.cli.main import cli  # main imports us lazily

    kind = get_completion_class(shell)
    assert kind is not None, "the choices are click's own"
    script = kind(cli, {}, "molia", "_MOLIA_COMPLETE").source()
    if session.output.as_json:
        session.output.json("completion", shell=shell, script=script)
    else:
        session.output.line(script.rstrip("\n"))
