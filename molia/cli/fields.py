"""What settings there are, and how a text or a TOML value becomes one.

All of it is read off the dataclasses of `base/config.py`, which stay the only definition.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple, get_type_hints

from molia.base.config import Config
from molia.cli.quantities import BadValue, parse_duration_s, parse_size_bytes

UNIT_SUFFIXES: Final = ("_bytes", "_s")
_WHOLE: Final = re.compile(r"[+-]?[0-9]{1,20}")
_YES, _NO = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


class Field(NamedTuple):
    """One setting."""

    name: str
    """Dotted, as in `store.quota_bytes`."""
    kind: object
    """The type of its dataclass field."""
    default: object


def all_fields() -> dict[str, Field]:
    """Return every setting by its dotted name, in the order of the dataclasses."""
    found: dict[str, Field] = {}
    for name, kind, field in _members(Config):
        if _is_section(kind):
            for inner, inner_kind, inner_field in _members(kind):
                full = f"{name}.{inner}"
                found[full] = Field(full, inner_kind, inner_field.default)
        else:
            found[name] = Field(name, kind, field.default)
    return found


def sections() -> dict[str, type]:
    """Return the dataclass of every section by its name."""
    kinds = [(name, kind) for name, kind, _ in _members(Config)]
    return {name: kind for name, kind in kinds if isinstance(kind, type) and _is_section(kind)}


def build_config(values: Mapping[str, object]) -> Config:
    """Return the configuration of these dotted names. Raises BadConfig on a range."""
    top: dict[str, Any] = {name: value for name, value in values.items() if "." not in name}
    for section, kind in sections().items():
        prefix = section + "."
        inner = {n.removeprefix(prefix): v for n, v in values.items() if n.startswith(prefix)}
        top[section] = kind(**inner)
    return Config(**top)


def flatten(config: Config) -> dict[str, object]:
    """Return the values by dotted name: what `build_config` takes."""
    found: dict[str, object] = {}
    for name in all_fields():
        section, _, inner = name.rpartition(".")
        found[name] = getattr(getattr(config, section) if section else config, inner)
    return found


def convert(field: Field, value: object) -> object:
    """Return `value`, from TOML or as text, as the setting's own type. Raises BadValue."""
    converter = _CONVERTERS.get(field.kind)
    assert converter is not None, f"no converter for {field.name}: {field.kind}"
    return converter(field.name, value)


def field_docs(kind: type) -> dict[str, str]:
    """Return the docstring that follows each field of a configuration dataclass."""
    import ast  # only init and the reference page need it
    import inspect
    import textwrap

    tree = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(tree, ast.ClassDef), "a dataclass is a class"
    docs: dict[str, str] = {}
    name = ""
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            name = node.target.id
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and name:
            docs[name] = inspect.cleandoc(str(node.value.value))
    return docs


def _is_section(kind: object) -> bool:
    return isinstance(kind, type) and dataclasses.is_dataclass(kind)


def _members(kind: type) -> list[tuple[str, Any, "dataclasses.Field[Any]"]]:
    hints = get_type_hints(kind)
    return [(field.name, hints[field.name], field) for field in dataclasses.fields(kind)]


def _to_int(name: str, value: object) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if isinstance(value, str) and name.endswith("_bytes"):
        return parse_size_bytes(value)
    if isinstance(value, str) and name.endswith("_s"):
        return parse_duration_s(value)
    if isinstance(value, str) and _WHOLE.fullmatch(value.strip()):
        return int(value)
    raise BadValue("must be a whole number")


def _to_bool(_name: str, value: object) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in (*_YES, *_NO):
        return value.strip().lower() in _YES
    raise BadValue("must be true or false")


def _to_str(_name: str, value: object) -> str:
    if not isinstance(value, str):
        raise BadValue("must be a text")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadValue("must be UTF-8") from None
    if any(ord(c) < 32 or ord(c) == 127 for c in value):
        raise BadValue("must not hold control characters")
    return value


def _to_texts(name: str, value: object) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [part for part in (part.strip() for part in value.split(",")) if part]
    if not isinstance(value, list | tuple):
        raise BadValue("must be a list of texts")
    return tuple(_to_str(name, item) for item in value)


_CONVERTERS: Final[dict[object, Callable[[str, object], object]]] = {
    int: _to_int,
    bool: _to_bool,
    str: _to_str,
    tuple[str, ...]: _to_texts,
}
