"""`molia init`: a home for a node."""

import click

from molia.cli.environment import environment, home_path
from molia.cli.output import printable
from molia.cli.settings import load, toml_text
from molia.cli.verb import Session, Verb


@click.command(cls=Verb, help="Make a node's home: settings, key, token and store.")
@click.option("--network", help="Name of the network. [molia]")
@click.option("--private", is_flag=True, help="Found a private network: make its secret, to copy.")
@click.pass_obj
def init(session: Session, *, network: str | None, private: bool) -> None:
    """Make what is missing of the home; running it again changes nothing."""
    from molia.node.home import init_home  # the node's own work, for this verb and run alone

    flag = str(session.options.home) if session.options.home else None
    home = home_path(flag, environment())
    loaded = load(home, flags={"network": ("--network", network)})
    result = init_home(home, loaded.config, toml_text(), private=private)
    output = session.output
    if output.as_json:
        output.json("init", home=str(home), peer=result.peer, created=result.created)
    elif output.quiet or not output.is_terminal:
        output.line(result.peer)
    else:
        what = "made" if result.created else "was there already"
        output.line(f"{printable(str(home))} {what}, peer {result.peer}. molia run starts the node")
