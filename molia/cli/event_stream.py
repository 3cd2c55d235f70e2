"""Server-sent events as the command reads them. Source: the HTML standard, 9.2."""

import json
from collections.abc import Iterator
from http.client import HTTPResponse
from typing import Final, NamedTuple

LINE_SIZE_MAX: Final = 64 * 1024


class Event(NamedTuple):
    """One event."""

    id: int
    kind: str
    data: dict[str, object]


def read_events(response: HTTPResponse) -> Iterator[Event]:
    """Yield the events of an answer as they come; one whose data is no object has an empty one."""
    event_id, kind, data = 0, "message", ""
    while line := response.readline(LINE_SIZE_MAX):
        name, _, value = line.decode("utf-8", "replace").rstrip("\r\n").partition(":")
        value = value.removeprefix(" ")
        if name == "id" and value.isdigit():
            event_id = int(value[:18])
        elif name == "event":
            kind = value
        elif name == "data":
            data += value
        elif not name and not value and data:
            yield Event(event_id, kind, _object(data))
            kind, data = "message", ""


def _object(text: str) -> dict[str, object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return value if isinstance(value, dict) else {}
