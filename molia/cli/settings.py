"""The settings of a node: flags over environment over `molia.toml` over defaults.

Every value keeps its origin, so that `config show
--origin` and every complaint can name the file, the variable or the flag.
Source: docs/decisions/0003-settings.md; docs/reference/settings.md is generated from the classes.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple

from molia.base.config import Config
from molia.base.errors import BadConfig
from molia.base.limits import CONFIG_FILE_SIZE_MAX
from molia.cli import fields
from molia.cli.environment import environment
from molia.cli.fields import Field
from molia.cli.quantities import BadValue

CONFIG_NAME: Final = "molia.toml"
DEFAULT: Final = "default"
PREFIX: Final = "MOLIA_"
NOT_SETTINGS: Final = frozenset({"MOLIA_HOME", "MOLIA_NODE", "MOLIA_TOKEN"})
"""Variables that the command reads and that are no setting of a node."""
_ORCHESTRATOR: Final = re.compile(r"MOLIA_(SERVICE_(HOST|PORT(_.*)?)|PORT(_.*)?)")
"""Kubernetes and Docker links set these in every container beside a service called molia."""


class Setting(NamedTuple):
    """One setting as it stands."""

    name: str
    value: object
    origin: str
    """`default`, the path of the file, the name of the variable, or the flag."""


class Loaded(NamedTuple):
    """A configuration and where each of its values comes from."""

    config: Config
    settings: tuple[Setting, ...]


def load(
    home: Path,
    *,
    flags: Mapping[str, tuple[str, object]] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Loaded:
    """Return the configuration of the node in `home`; a missing file is an empty one.

    flags: by setting name, the flag as the user typed it and its value; a value of None is unset.
    Raises BadConfig, whose one line names the setting and the file, variable or flag.
    """
    table = fields.all_fields()
    chosen = {name: Setting(name, field.default, DEFAULT) for name, field in table.items()}
    sources = (
        _from_file(table, home / CONFIG_NAME),
        _from_environment(table, environment() if environ is None else environ),
        [Setting(n, v, flag) for n, (flag, v) in (flags or {}).items() if v is not None],
    )
    for source in sources:
        for setting in source:
            chosen[setting.name] = _converted(table[setting.name], setting)
    try:
        config = fields.build_config({name: setting.value for name, setting in chosen.items()})
    except BadConfig as error:
        rule = error.message.removeprefix(f"{error.setting}: ")
        raise _complaint(chosen[error.setting], rule) from None
    return Loaded(config, tuple(chosen.values()))


def toml_text(chosen: Mapping[str, object] | None = None) -> str:
    """Return a `molia.toml` that explains every setting and sets those that are chosen."""
    lines = [
        "# Settings of this node. A line without its leading # takes effect at the next start."
    ]
    names = list(fields.all_fields().values())
    given = chosen or {}
    top = [field for field in names if "." not in field.name]
    lines += _commented("", top, Config, given)
    for section, kind in fields.sections().items():
        lines += ["", f"# {(kind.__doc__ or '').strip()}", f"[{section}]"]
        inside = [field for field in names if field.name.startswith(f"{section}.")]
        lines += _commented(f"{section}.", inside, kind, given)
    return "\n".join(lines) + "\n"


def toml_value(value: object) -> str:
    """Return a setting's value as TOML spells it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    if isinstance(value, tuple):
        return "[" + ", ".join(toml_value(item) for item in value) + "]"
    return str(value)


def _commented(
    prefix: str, shown: list[Field], kind: type, given: Mapping[str, object]
) -> list[str]:
    docs = fields.field_docs(kind)
    lines: list[str] = []
    for field in shown:
        name = field.name.removeprefix(prefix)
        lines += ["", *(f"# {line}" for line in docs.get(name, "").splitlines())]
        is_set = field.name in given
        value = given.get(field.name, field.default)
        lines.append(f"{'' if is_set else '#'}{name} = {toml_value(value)}")
    return lines


def _from_file(table: Mapping[str, Field], path: Path) -> list[Setting]:
    document = _read_toml(path)
    found: list[Setting] = []
    for key, value in document.items():
        if key not in fields.sections():
            found.append(Setting(_known(table, key, str(path)), value, str(path)))
        elif isinstance(value, dict):
            for inner, inner_value in value.items():
                name = _known(table, f"{key}.{inner}", str(path))
                found.append(Setting(name, inner_value, str(path)))
        else:
            raise BadConfig(_shown(key), f"must be a table ({path})", hint=f"write [{key}]")
    return _each_once(found)


def _read_toml(path: Path) -> dict[str, object]:
    import tomllib  # only a node's own verbs read settings

    try:
        if not path.is_file() and path.exists():
            raise BadConfig(str(path), "must be a file")
        with path.open("rb") as file:
            body = file.read(CONFIG_FILE_SIZE_MAX + 1)
    except FileNotFoundError:
        return {}
    except OSError as error:
        raise BadConfig(str(path), f"cannot be read: {error.strerror}") from None
    if len(body) > CONFIG_FILE_SIZE_MAX:
        raise BadConfig(str(path), f"must be at most {CONFIG_FILE_SIZE_MAX} bytes")
    try:
        return tomllib.loads(body.decode("utf-8-sig"))
    except UnicodeDecodeError:
        raise BadConfig(str(path), "must be UTF-8") from None
    except RecursionError:
        raise BadConfig(str(path), "must not be nested so deep") from None
    except ValueError as error:  # TOMLDecodeError, or a number with thousands of digits
        raise BadConfig(str(path), f"must be TOML: {_shown(str(error))}") from None


def _from_environment(table: Mapping[str, Field], environ: Mapping[str, str]) -> list[Setting]:
    found: list[Setting] = []
    for variable, value in sorted(environ.items()):
        if not variable.startswith(PREFIX) or variable in NOT_SETTINGS:
            continue
        if _ORCHESTRATOR.fullmatch(variable):
            continue
        key = variable.removeprefix(PREFIX).lower().replace("__", ".", 1)
        found.append(Setting(_known(table, key, variable), value, variable))
    return _each_once(found)


def _known(table: Mapping[str, Field], key: str, origin: str) -> str:
    """Return the setting that `key` names; its unit may be left off. Raises BadConfig."""
    for name in (key, *(key + suffix for suffix in fields.UNIT_SUFFIXES)):
        if name in table:
            return name
    import difflib

    near = difflib.get_close_matches(key[:100], list(table), n=1, cutoff=0.5)
    if origin.startswith(PREFIX):
        near = [PREFIX + name.upper().replace(".", "__") for name in near]
        raise BadConfig(_shown(origin), "no such setting", hint=_did_you_mean(near))
    raise BadConfig(_shown(key), f"no such setting ({origin})", hint=_did_you_mean(near))


def _did_you_mean(near: list[str]) -> str:
    return f"did you mean {near[0]}?" if near else "molia config show lists all settings"


def _each_once(found: list[Setting]) -> list[Setting]:
    seen: dict[str, Setting] = {}
    for setting in found:
        if setting.name in seen:
            raise BadConfig(setting.name, f"is set twice ({setting.origin})")
        seen[setting.name] = setting
    return found


def _converted(field: Field, setting: Setting) -> Setting:
    try:
        return setting._replace(value=fields.convert(field, setting.value))
    except BadValue as error:
        raise _complaint(setting, str(error)) from None


def _complaint(setting: Setting, rule: str) -> BadConfig:
    return BadConfig(setting.name, f"{rule}, not {_shown(repr(setting.value))} ({setting.origin})")


def _shown(text: str) -> str:
    """Return foreign text short, on one line and without control characters."""
    safe = "".join(c if c.isprintable() else "?" for c in text)
    return safe if len(safe) <= 120 else safe[:119] + "…"
