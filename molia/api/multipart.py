"""multipart/form-data as a stream: the fields before the file, then the file's own chunks.

python-multipart's low-level parser finds the parts; nothing is spooled and nothing is kept but the
short fields. Source: RFC 7578.
"""

import logging
from collections.abc import AsyncIterator
from typing import Final

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from molia.api.bodies import Body
from molia.api.options import FIELDS
from molia.base import limits
from molia.base.errors import BadInput

FILE_FIELD: Final = "file"
_BOUNDARY_MAX: Final = 70
_EPILOGUE_MAX: Final = limits.FIELD_SIZE_MAX

# It logs what clients send wrong; they are told themselves.
logging.getLogger("python_multipart.multipart").setLevel(logging.CRITICAL)


def is_multipart(content_type: str) -> bool:
    """Return whether a Content-Type announces a form."""
    return content_type[:19].lower() == "multipart/form-data"


class Form:
    """One form with one file in it.

    `open` reads up to the file; then `fields` and `file_name` are known and `file_chunks` streams.
    """

    def __init__(self, body: Body, content_type: str) -> None:
        self.fields: dict[str, str] = {}
        self.file_name = ""
        self._body = body
        self._parser = MultipartParser(
            _boundary(content_type),
            {
                "on_part_begin": self._on_part_begin,
                "on_header_field": self._on_header_field,
                "on_header_value": self._on_header_value,
                "on_header_end": self._on_header_end,
                "on_headers_finished": self._on_headers_finished,
                "on_part_data": self._on_part_data,
                "on_part_end": self._on_part_end,
                "on_end": self._on_end,
            },
            max_header_count=limits.PART_HEADERS_MAX,
            max_header_size=limits.PART_HEADER_SIZE_MAX,
        )
        self._part_count = 0
        self._header_name, self._header_value = bytearray(), bytearray()
        self._disposition = ""
        self._field_name, self._field_value = "", bytearray()
        self._in_file = self._has_file = self._ended = False
        self._chunks: list[bytes] = []
        self._epilogue_size = 0

    async def open(self) -> None:
        """Read up to the file. Raises BadInput when there is none, and as Body does."""
        while not self._has_file:
            if not await self._feed():
                raise BadInput("the form has no file", hint=f"send it as the field `{FILE_FIELD}`")

    async def file_chunks(self) -> AsyncIterator[bytes]:
        """Yield the file's bytes, then check the rest of the form. Raises BadInput, and as Body."""
        more = True
        while more:
            chunks, self._chunks = self._chunks, []
            for chunk in chunks:
                yield chunk
            more = await self._feed()
        if not self._ended:
            raise BadInput("the form ends before its last boundary")

    async def _feed(self) -> bool:
        data = await self._body.read()
        if not data:
            return False
        if self._ended:
            self._epilogue_size += len(data)
            if self._epilogue_size > _EPILOGUE_MAX:
                raise BadInput("too much follows the form's last boundary")
            return True
        try:
            self._parser.write(data)
        except FormParserError:
            raise BadInput("the form is malformed") from None
        return True

    # ------------------------------------------------------------------ called by the parser

    def _on_part_begin(self) -> None:
        self._part_count += 1
        if self._part_count > limits.PARTS_MAX:
            raise BadInput(f"a form has at most {limits.PARTS_MAX} parts")
        self._disposition, self._field_value = "", bytearray()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            self._disposition = self._header_value.decode("latin-1")
        self._header_name, self._header_value = bytearray(), bytearray()

    def _on_headers_finished(self) -> None:
        kind, options = parse_options_header(self._disposition)
        name = _text(options.get(b"name", b""), "a field's name")
        if kind != b"form-data" or b"name" not in options:
            raise BadInput("a part has no Content-Disposition: form-data with a name")
        self._in_file = name == FILE_FIELD
        self._field_name = name
        if not self._in_file and b"filename" in options:
            raise BadInput(f"a file came as the field {name[:40]!r}: it belongs in `{FILE_FIELD}`")
        if self._in_file:
            if self._has_file:
                raise BadInput("the form has two files: send each by itself")
            self._has_file = True
            file_name = _text(options.get(b"filename", b""), "the file's name")
            self.file_name = file_name.rpartition("/")[2]

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self._chunks.append(data[start:end])
            return
        self._field_value += data[start:end]
        if len(self._field_value) > limits.FIELD_SIZE_MAX:
            raise BadInput(f"a form field has at most {limits.FIELD_SIZE_MAX} bytes")

    def _on_part_end(self) -> None:
        if self._in_file or self._field_name not in FIELDS:
            return
        name, value = self._field_name, _text(bytes(self._field_value), "a field")
        if self._has_file:
            self._check_late(name, value)
        elif name in self.fields:
            raise BadInput(f"the form names {name} twice")
        else:
            self.fields[name] = value

    def _check_late(self, name: str, value: str) -> None:
        """Refuse a field that comes too late to be heeded, unless it changes nothing."""
        known = self.fields.get(name, self.file_name if name == "name" else None)
        if value != known:
            raise BadInput(f"the field {name} follows the file", hint="put it before the file")

    def _on_end(self) -> None:
        self._ended = True


def _boundary(content_type: str) -> bytes:
    _, options = parse_options_header(content_type)
    boundary = options.get(b"boundary", b"")
    if not 1 <= len(boundary) <= _BOUNDARY_MAX:
        raise BadInput(f"a form's boundary has 1 to {_BOUNDARY_MAX} characters")
    return boundary


def _text(data: bytes, what: str) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise BadInput(f"{what} is not UTF-8") from None
