"""What a client may ask of an answer: media type, conditions, and a file name to save it under.

Source: RFC 9110 (12.5.1, 13.1, 14), RFC 6266 and RFC 8187.
"""

import re
from functools import lru_cache
from typing import Final
from urllib.parse import quote

from molia.api.heads import Head
from molia.base.errors import PreconditionFailed
from molia.base.ranges import ByteRange, parse_http_range

TEXT: Final = "text/plain"
JSON: Final = "application/json"
DAG_CBOR: Final = "application/vnd.ipld.dag-cbor"

_TAG: Final = re.compile(r'(?:W/)?"([^"]*)"')
_NOT_PLAIN: Final = re.compile(r"[^ !#-\[\]-~]")
_ATTR_SAFE: Final = "!#$&+-.^_`|~"
_ACCEPT_MAX: Final = 1_000


def preferred(accept: str, *offers: str) -> str:
    """Return the offer that an Accept header likes best; the first when it does not care.

    A header that likes none of them gets the first too: an answer beats a 406.
    """
    return _preferred(accept[:_ACCEPT_MAX], offers)


@lru_cache(maxsize=256)
def _preferred(accept: str, offers: tuple[str, ...]) -> str:
    best, best_quality = offers[0], 0.0
    wishes = [_wish(item) for item in accept.split(",")] if accept else []
    for offer in offers:
        quality = _quality(offer, wishes)
        if quality > best_quality:
            best, best_quality = offer, quality
    return best


def _wish(item: str) -> tuple[str, float]:
    media, _, parameters = item.partition(";")
    match = re.search(r"(?:^|;)\s*q=([01](?:\.[0-9]{0,3})?)\s*$", parameters, re.IGNORECASE)
    return media.strip().lower(), float(match.group(1)) if match else 1.0


def _quality(offer: str, wishes: list[tuple[str, float]]) -> float:
    for pattern in (offer, offer.partition("/")[0] + "/*", "*/*"):
        for media, quality in wishes:
            if media == pattern:
                return quality
    return 0.0


def etag_matches(header: str, etag: str) -> bool:
    """Return whether a list of entity tags, or `*`, names `etag` (given without quotes)."""
    return header.strip() == "*" or etag in _TAG.findall(header)


def check_if_match(head: Head, etag: str) -> None:
    """Raise PreconditionFailed when `If-Match` names other versions."""
    header = head.text(b"if-match")
    if header and not etag_matches(header, etag):
        raise PreconditionFailed("If-Match names another version", hint=f'the ETag is "{etag}"')


def is_not_modified(head: Head, etag: str) -> bool:
    """Return whether `If-None-Match` says that the client has this version."""
    header = head.text(b"if-none-match")
    return bool(header) and etag_matches(header, etag)


def asked_range(head: Head, *, etag: str, size: int) -> ByteRange | None:
    """Return the range that a GET wants, None for everything.

    Several ranges, and a range under an `If-Range` that is not exactly this ETag, are ignored.
    Raises RangeNotSatisfiable.
    """
    header = head.text(b"range")
    if not header or head.method != "GET":
        return None
    condition = head.text(b"if-range").strip()
    if condition and condition != f'"{etag}"':
        return None
    return parse_http_range(header, size=size)


def content_disposition(name: str, default: str) -> str:
    """Return the header value that saves a blob under the last part of its name."""
    file_name = name.replace("\\", "/").rpartition("/")[2].strip(". ") or default
    plain = _NOT_PLAIN.sub("_", file_name)
    value = f'attachment; filename="{plain}"'
    if plain != file_name:
        value += f"; filename*=UTF-8''{quote(file_name, safe=_ATTR_SAFE)}"
    return value
