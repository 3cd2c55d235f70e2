"""`molia init`: a home for a node."""

import click

from molia.cli.environment import environment, home_path
from molia.cli.output import printable
from molia.cli.settings import CONFIG_NAME, load, toml_text
from molia.cli.verb import Session, Verb


@click.command(cls=Verb, help="Make a node's home: settings, key, token and store.")
@click.option("--network", help="Name of the network. [molia]")
@click.option("--offer", metavar="SIZE", help="Space for shares of other nodes: 50GiB. [0]")
@click.option("--private", is_flag=True, help="Found a private network: make its secret, to copy.")
@click.pass_obj
def init(session: Session, *, network: str | None, offer: str | None, private: bool) -> None:
    """Make what is missing of the home; running it again changes nothing."""
    from molia.node.home import init_home  # the node's own work, for this verb and run alone

    flag = str(session.options.home) if session.options.home else None
    home = home_path(flag, environment())
    flags = {"network": ("--network", network), "store.offer_bytes": ("--offer", offer)}
    loaded = load(home, flags=flags)
    chosen = {} if offer is None else {"store.offer_bytes": loaded.config.store.offer_bytes}
    is_new = not (home / CONFIG_NAME).exists()
    result = init_home(home, loaded.config, toml_text(chosen), private=private)
    if chosen and not is_new:
        session.output.note(f"{CONFIG_NAME} was there already: set store.offer_bytes in it")
    output = session.output
    if output.as_json:
        output.json("init", home=str(home), peer=result.peer, created=result.created)
    elif output.quiet or not output.is_terminal:
        output.line(result.peer)
    else:
        what = "made" if result.created else "was there already"
        output.line(f"{printable(str(home))} {what}, peer {result.peer}. molia run starts the node")
