"""Renders the schema of the messages: its own comments, message by message."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

SCHEMA = Path(__file__).parent.parent / "molia" / "wire" / "schema"
_BLOCK = re.compile(
    r"((?:^//[^\n]*\n)+)^(enum|message) (\w+) \{\n(.*?)^\}", re.MULTILINE | re.DOTALL
)
_MEMBER = re.compile(r"((?:^  //[^\n]*\n)+)^  (?:(\w+(?: \w+)?) )?(\w+) = (\d+);", re.MULTILINE)


class Member(NamedTuple):
    """A value of an enumeration, or a field of a message."""

    kind: str
    name: str
    number: int
    about: str


class Block(NamedTuple):
    """An enumeration or a message."""

    kind: str
    name: str
    about: str
    members: list[Member]


def blocks() -> Iterator[Block]:
    """Yield what the schema defines, the transport first."""
    for path in sorted(SCHEMA.glob("*.proto"), reverse=True):
        for about, kind, name, body in _BLOCK.findall(path.read_text("utf-8")):
            members = [
                Member(member_kind, member, int(number), _prose(text))
                for text, member_kind, member, number in _MEMBER.findall(body)
            ]
            yield Block(kind, name, _prose(about), members)


def _prose(comment: str) -> str:
    return " ".join(line.strip().removeprefix("//").strip() for line in comment.splitlines())


def camel(number_name: str) -> str:
    """Return the message's name of a number's: FIND_NODE is FindNode."""
    return "".join(word.capitalize() for word in number_name.split("_"))
