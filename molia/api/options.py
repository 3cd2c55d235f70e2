"""What a put may ask for beside its bytes: query, form fields and the path's last segment."""

import re
import time
from collections.abc import Mapping
from typing import Final

from molia.base import limits
from molia.base.cid import Cid, parse_ref
from molia.base.errors import BadCid, BadInput
from molia.base.views import PutOptions

NAME_LENGTH_MAX: Final = limits.NAME_SIZE_MAX // 4
"""Characters of a name: as many as always fit its bytes, so that a schema can say it."""
EXPIRES_MAX: Final = limits.UNIX_S_MAX

FIELDS: Final = frozenset(("name", "wait", "pin", "expires", "cache"))
_CID_LIKE: Final = re.compile(r"^baf[a-z2-7]{56}$")
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_NUMBER: Final = re.compile(r"^[0-9]{1,12}$")
_BOOLEANS: Final = {"true": True, "1": True, "false": False, "0": False}


def put_options(
    fields: Mapping[str, str], *, segment: str = "", file_name: str = "", size: int | None = None
) -> PutOptions:
    """Return the options of a put.

    fields: of the query and the form; segment: the path's last one, a file name or an assertion;
    file_name: of a multipart part. A name in `fields` wins over the other two.
    Raises BadInput, BadCid.
    """
    cid, content = _assertion(segment)
    given_name = "" if cid or content else segment
    name = fields.get("name") or given_name or file_name
    wait = fields.get("wait", "placed")
    if wait not in ("local", "placed"):
        raise BadInput("wait is local or placed")
    return PutOptions(
        name=_checked_name(name),
        pin=_boolean("pin", fields.get("pin", "true")),
        cached=_boolean("cache", fields.get("cache", "false")),
        expires_unix_s=_expiry(fields["expires"]) if "expires" in fields else None,
        size=size,
        assert_cid=cid,
        assert_content=content,
        wait_placed=wait == "placed",
    )


def _assertion(segment: str) -> tuple[Cid | None, bytes | None]:
    """Return what a segment asserts; (None, None) for a file name.

    What looks like a CID and is none of ours is refused: kept as a name, a mistyped assertion
    would go unnoticed.
    """
    if not segment:
        return None, None
    try:
        ref = parse_ref(segment)
    except BadCid:
        if _CID_LIKE.match(segment):
            raise
        return None, None
    return (ref, None) if isinstance(ref, Cid) else (None, ref.digest)


def _checked_name(name: str) -> str:
    if len(name) > NAME_LENGTH_MAX:
        raise BadInput(f"a name has at most {NAME_LENGTH_MAX} characters")
    if _CONTROL.search(name):
        raise BadInput("a name has no control characters")
    return name


def _boolean(name: str, text: str) -> bool:
    value = _BOOLEANS.get(text.lower())
    if value is None:
        raise BadInput(f"{name} is true or false")
    return value


def _expiry(text: str) -> int:
    if not _NUMBER.match(text) or int(text) > EXPIRES_MAX:
        raise BadInput("expires is a time in seconds since 1970")
    if int(text) <= time.time():
        raise BadInput("expires lies in the past")
    return int(text)
