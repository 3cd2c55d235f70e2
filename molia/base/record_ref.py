"""How people and programs name a mutable record: `<peer key>`, `<peer key>/<name>`, or a name.

A name alone means the node's own record of that name. What begins like a peer key is one, so that
a mistyped key is never taken for a name.
"""

import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from molia.base.errors import BadPeerKey, BadRecordAddress
from molia.base.ids import PeerKey
from molia.base.limits import RECORD_NAME_MAX

RESERVED: Final = "molia/"
"""Names that begin so are the node's own: `molia/addr` says where it is."""
_LIKE_A_KEY: Final = re.compile(r"b[a-z2-7]{55}")
_PATH_SAFE: Final = "/!$&'()*+,;=:@-._~"
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class RecordRef:
    """Which record is meant."""

    peer: PeerKey | None
    """Whose; None for the asked node's own."""
    name: str
    """Empty for the record of the peer itself."""

    def __str__(self) -> str:
        if self.peer is None:
            return self.name
        return f"{self.peer}/{self.name}" if self.name else str(self.peer)

    def under(self, own: PeerKey) -> "RecordRef":
        """Return the same with the key of whoever is asked in place of none."""
        return self if self.peer is not None else RecordRef(own, self.name)

    @property
    def quoted(self) -> str:
        """The text for the path of a URL."""
        return quote(str(self), safe=_PATH_SAFE)

    @property
    def salt(self) -> bytes:
        """What the record's place follows from, beside the key."""
        return self.name.encode()

    @classmethod
    def parse(cls, text: str) -> "RecordRef":
        """Return what `text` names. Raises BadRecordAddress."""
        first, slash, rest = text.partition("/")
        if not _LIKE_A_KEY.fullmatch(first):
            return cls(None, _checked(text, text))
        try:
            peer = PeerKey.parse(first)
        except BadPeerKey:
            raise BadRecordAddress(text, "the peer key is mistyped") from None
        return cls(peer, _checked(rest, text) if slash else "")


def own_name(text: str) -> str:
    """Return a name that may be signed for a user of this node. Raises BadRecordAddress."""
    ref = RecordRef.parse(text)
    if ref.peer is not None:
        raise BadRecordAddress(text, "a record is put under a name, its key is this node's")
    if ref.name.startswith(RESERVED):
        raise BadRecordAddress(text, f"names under {RESERVED} are the node's own")
    return ref.name


def _checked(name: str, text: str) -> str:
    if not name:
        raise BadRecordAddress(text, "the name is empty")
    if len(name.encode("utf-8", "surrogatepass")) > RECORD_NAME_MAX:
        raise BadRecordAddress(text, f"a name has at most {RECORD_NAME_MAX} bytes")
    if _CONTROL.search(name) or not name.isprintable():
        raise BadRecordAddress(text, "a name has printable characters only")
    return name
