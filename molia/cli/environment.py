"""What surrounds the command: its environment, read here alone, and where the home is."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from molia.base.errors import BadConfig


def environment() -> Mapping[str, str]:
    """Return the environment of this process."""
    return os.environ


def home_path(flag: str | None, environ: Mapping[str, str]) -> Path:
    """Return the home that `--home`, `MOLIA_HOME` or the platform names, absolute.

    Raises BadConfig when the platform names none.
    """
    chosen = flag or environ.get("MOLIA_HOME", "")
    if chosen:
        return Path(chosen).absolute()
    try:
        user = Path.home()
    except RuntimeError:
        raise BadConfig("MOLIA_HOME", "must be set where the user has no home directory") from None
    if sys.platform == "darwin":
        return user / "Library" / "Application Support" / "molia"
    data = environ.get("XDG_DATA_HOME", "")
    # the XDG base directory specification says to ignore a relative path
    return (Path(data) if data.startswith("/") else user / ".local" / "share") / "molia"
