"""A request's head, read once: method, headers, and the query as strict UTF-8.

The plain endpoints and the guard share one `Head` per request, kept in the ASGI scope.
"""

from typing import Final
from urllib.parse import unquote_to_bytes

from starlette.types import Scope

from molia.base.errors import BadInput

_KEY: Final = "molia.head"
_QUERY_FIELDS_MAX: Final = 32
_SAFE_METHODS: Final = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))


class Head:
    """What a request says before its body. Header names are lower case."""

    __slots__ = ("headers", "method", "path", "query_string", "raw_path")

    def __init__(self, scope: Scope) -> None:
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.raw_path: bytes = scope.get("raw_path") or self.path.encode()
        self.query_string: bytes = scope.get("query_string", b"")
        headers: dict[bytes, bytes] = {}
        for name, value in scope["headers"]:
            # A repeated field is the list of its values (RFC 9110, 5.3).
            headers[name] = headers[name] + b", " + value if name in headers else value
        self.headers = headers

    @property
    def is_write(self) -> bool:
        """Whether the method may change something."""
        return self.method not in _SAFE_METHODS

    @property
    def has_body(self) -> bool:
        """Whether a body follows the head."""
        size = self.headers.get(b"content-length", b"0")
        return size != b"0" or b"transfer-encoding" in self.headers

    @property
    def declared_size(self) -> int | None:
        """Bytes of the body as the client said, None when it did not (chunked)."""
        text = self.headers.get(b"content-length")
        if text is None:
            return None if b"transfer-encoding" in self.headers else 0
        if not text.isdigit() or len(text) > 19:
            raise BadInput("Content-Length is not a size")
        return int(text)

    def text(self, name: bytes) -> str:
        """Return a header's value, "" when it is absent. Bytes are read as Latin-1."""
        return self.headers.get(name, b"").decode("latin-1")

    def last_segment(self) -> str:
        """Return the last part of the path, percent-decoded. Raises BadInput unless UTF-8."""
        return _utf8(unquote_to_bytes(self.raw_path.rpartition(b"/")[2]), "the path")

    def after_first_segment(self) -> str:
        """Return what follows the path's first part, decoded; it may hold slashes.

        Raises BadInput unless there is such a part and it is UTF-8.
        """
        _, slash, rest = self.raw_path.removeprefix(b"/").partition(b"/")
        if not slash:
            raise BadInput("the path is cut in an odd place")
        return _utf8(unquote_to_bytes(rest), "the path")

    def query(self, names: frozenset[str]) -> dict[str, str]:
        """Return the query's parameters of these names; others are ignored.

        Raises BadInput for one that is repeated, or not UTF-8, or too many.
        """
        found: dict[str, str] = {}
        if not self.query_string:
            return found
        fields = self.query_string.split(b"&")
        if len(fields) > _QUERY_FIELDS_MAX:
            raise BadInput(f"the query has more than {_QUERY_FIELDS_MAX} parameters")
        for field in fields:
            key, _, value = field.replace(b"+", b" ").partition(b"=")
            name = unquote_to_bytes(key).decode("latin-1")
            if name not in names:
                continue
            if name in found:
                raise BadInput(f"the query names {name} twice")
            found[name] = _utf8(unquote_to_bytes(value), f"the parameter {name}")
        return found


def head_of(scope: Scope) -> Head:
    """Return the head of a request, read when first asked for."""
    known = scope.get(_KEY)
    if isinstance(known, Head):
        return known
    head = scope[_KEY] = Head(scope)
    return head


def _utf8(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BadInput(f"{what} is not UTF-8") from None
