"""A blob's bytes from the node: found, streamed on through cut connections, checked end to end.

What the bytes must hash to follows from what the user typed, not from what the node says: a raw
CID and a content hash are the digest themselves, and a manifest's bytes must hash to its CID.
"""

import http.client
import time
from collections.abc import Iterator
from typing import Final, NamedTuple
from urllib.parse import unquote_to_bytes

from molia.base.cid import Cid, Codec, ContentHash, Ref
from molia.base.errors import (
    BadAnswer,
    BadCid,
    ConnectionLost,
    IntegrityFailure,
    MoliaError,
    NodeNotRunning,
)
from molia.base.hashing import DIGEST_SIZE, blake3_digest
from molia.base.limits import MANIFEST_SIZE_MAX
from molia.cli.client import Answer, Node
from molia.cli.output import NodeRefused

READ_SIZE: Final = 256 * 1024
RETRY_AFTER_S: Final = (0.2, 0.5, 1.0, 2.0)
"""Waits between tries that bring no byte; any byte starts the row anew."""
NAME_BYTES_MAX: Final = 200
"""Longest file name taken from a node: with its decorations, a `.part` file's fits 255 bytes."""


class Found(NamedTuple):
    """A blob that the node has."""

    cid: Cid
    size: int
    content: bytes
    """BLAKE3 that the whole blob must have."""
    name: str
    """A safe file name: the node's, or the CID."""

    @property
    def path(self) -> str:
        """Its route."""
        return f"/blob/{self.cid}"


def find_blob(node: Node, ref: Ref) -> Found:
    """Return the blob that `ref` names. Raises NodeRefused, IntegrityFailure, BadAnswer."""
    head = _head(node, f"/blob/{ref}")
    size_text = head.headers.get("content-length", "")
    try:
        cid = Cid.parse(head.headers.get("etag", "").removeprefix("W/").strip('"'))
        size = int(size_text if size_text.isdigit() else "")
    except (BadCid, ValueError):
        raise BadAnswer("the node's answer names no CID or size", hint="check --node") from None
    if isinstance(ref, Cid) and ref.codec == Codec.MANIFEST and cid != ref:
        raise IntegrityFailure(f"the node answered for another blob, {cid}")
    name = safe_name(disposition_name(head.headers.get("content-disposition", ""))) or str(cid)
    return Found(cid, size, _content_of(node, ref, cid, size), name)


def stream(node: Node, found: Found, start: int, stop: int) -> Iterator[bytes]:
    """Yield the bytes [start, stop) in order, going on where a cut connection left off.

    Raises ConnectionLost, TimedOut or NodeRefused when trying again has not helped.
    """
    failures = 0
    while start < stop:
        try:
            for chunk in _one_try(node, found, start, stop):
                start += len(chunk)
                failures = 0
                yield chunk
            _require_end(start, stop)
        except (ConnectionLost, NodeNotRunning, NodeRefused) as error:
            final = isinstance(error, NodeRefused) and error.status != 503
            if final or failures == len(RETRY_AFTER_S):
                raise _given_up(error) from None
            time.sleep(RETRY_AFTER_S[failures])
            failures += 1


def disposition_name(header: str) -> str:
    """Return the file name of a Content-Disposition header, "" when it has none.

    Source: RFC 6266, with `filename*` of RFC 8187 before `filename`.
    """
    plain, extended = "", ""
    for name, value in _parameters(header):
        if name == "filename*" and value.lower().startswith("utf-8'"):
            coded = value.split("'", 2)[-1]
            extended = unquote_to_bytes(coded).decode("utf-8", "replace")
        elif name == "filename":
            plain = value
    return extended or plain


def safe_name(name: str) -> str:
    """Return the last component of a node's file name as one that is safe here, or ""."""
    last = name.replace("\\", "/").rsplit("/", 1)[-1]
    clean = "".join(c if c.isprintable() else "_" for c in last).strip()
    short = clean.encode("utf-8", "replace")[:NAME_BYTES_MAX].decode("utf-8", "ignore")
    return "" if short in ("", ".", "..") else short


def _head(node: Node, path: str) -> Answer:
    try:
        return node.call("HEAD", path, headers={"Accept": "*/*"})
    except NodeRefused:
        # an answer to HEAD has no body: ask again for the node's own words
        with node.stream("GET", path, {"Range": "bytes=0-0"}):
            raise


def _content_of(node: Node, ref: Ref, cid: Cid, size: int) -> bytes:
    if isinstance(ref, ContentHash) or ref.codec == Codec.RAW:
        return ref.digest
    accept = {"Accept": "application/vnd.ipld.dag-cbor"}
    body = node.call("GET", f"/blob/{cid}/manifest", headers=accept).body
    if len(body) > MANIFEST_SIZE_MAX or blake3_digest(body) != cid.digest:
        raise IntegrityFailure(f"the manifest that the node gave for {cid} is another one")
    import cbor2  # large blobs only

    try:
        manifest = cbor2.loads(body)
        content, stated = manifest["content"], manifest["size"]
    except Exception:  # noqa: BLE001 - whatever a decoder raises on bytes of an unknown format
        content, stated = None, None
    if not isinstance(content, bytes) or len(content) != DIGEST_SIZE:
        raise IntegrityFailure(f"the manifest of {cid} is of a format that is not known here")
    if stated != size:
        raise IntegrityFailure(f"the node gives {size} bytes for a blob of {stated}")
    return content


def _one_try(node: Node, found: Found, start: int, stop: int) -> Iterator[bytes]:
    headers = {"If-Range": f'"{found.cid}"', "Range": f"bytes={start}-{stop - 1}"}
    whole = start == 0 and stop == found.size
    with node.stream("GET", found.path, {} if whole else headers) as response:
        left = stop - start
        skip = _bytes_before(response, start, found.size)
        while left > 0 and (chunk := response.read(min(READ_SIZE, skip or left))):
            if skip:
                skip -= len(chunk)
                continue
            left -= len(chunk)
            yield chunk


def _require_end(start: int, stop: int) -> None:
    if start < stop:
        raise ConnectionLost(f"the node ended the answer {stop - start} bytes short")


def _bytes_before(response: http.client.HTTPResponse, start: int, size: int) -> int:
    """Return how many bytes of the answer lie before `start`: all of them when it is whole."""
    if response.status == 200:
        return start
    expected = f"bytes {start}-"
    got = response.getheader("Content-Range", "")
    if response.status != 206 or not got.startswith(expected) or not got.endswith(f"/{size}"):
        raise BadAnswer(f"the node answered {response.status} with the range {got[:60]!r}")
    return 0


def _given_up(error: MoliaError) -> MoliaError:
    if isinstance(error, NodeNotRunning):  # it ran when we began
        return ConnectionLost("the node has gone", hint="molia run starts it; then try again")
    return error


def _parameters(header: str) -> Iterator[tuple[str, str]]:
    """Yield the name and value of each parameter; quoted values are unquoted."""
    rest = header.partition(";")[2]
    while rest:
        name, _, rest = rest.partition("=")
        rest = rest.lstrip()
        if rest.startswith('"'):
            value, rest = _quoted(rest[1:])
        else:
            value, _, rest = rest.partition(";")
        yield name.strip().strip(";").strip().lower(), value.strip()


def _quoted(text: str) -> tuple[str, str]:
    value: list[str] = []
    escaped = False
    for index, character in enumerate(text):
        if character == '"' and not escaped:
            return "".join(value), text[index + 1 :].partition(";")[2]
        if character == "\\" and not escaped:
            escaped = True
            continue
        escaped = False
        value.append(character)
    return "".join(value), ""
