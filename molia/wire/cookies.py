"""The two MACs at a handshake message's end, and the cookies that the second one proves.

mac1 shows that the sender knows whom it speaks to; a message without it gets no answer. mac2 shows
that the sender gets what is sent to its address; a node under load asks for it with a cookie reply.
Source: the WireGuard paper, 5.3 and 5.4.7; docs/reference/packets.md, "Cookies".
"""

from typing import Final

from molia.base.crypto import xchacha_open, xchacha_seal
from molia.base.entropy import Entropy
from molia.base.hashing import blake2s_digest, blake2s_mac, macs_equal
from molia.wire.noise import Profile
from molia.wire.packet import MAC, MACS, CookieReply, encode_cookie
from molia.wire.puzzle import NO_EFFORT, Effort

COOKIE_LIFE_S: Final = 120
NO_MAC: Final = bytes(MAC)

Address = tuple[str, int] | tuple[str, int, int, int]
"""Where a packet came from or goes to, as a socket says it."""


def address_bytes(address: Address) -> bytes:
    """Return host and port as bytes that no other address has."""
    return f"{address[0]} {address[1]}".encode()


class CookieSecret:
    """The secret behind a node's cookies; it changes every two minutes.

    The secret of a time follows from the root, so workers that share the root share the secrets.
    """

    __slots__ = ("_at", "_root", "_secrets")

    def __init__(self, root: bytes) -> None:
        assert len(root) == 32, "a cookie secret's root has 32 bytes"
        self._root, self._at = root, -1
        self._secrets = (b"", b"")

    @classmethod
    def fresh(cls, entropy: Entropy) -> "CookieSecret":
        """Return a new secret; give `entropy.token(32)` of one worker to all instead."""
        return cls(entropy.token(32))

    def cookies(self, address: Address, unix_s: float) -> tuple[bytes, bytes]:
        """Return an address's present cookie and its last one, which still counts."""
        number = int(unix_s) // COOKIE_LIFE_S
        if number != self._at:
            self._at = number
            self._secrets = (self._secret(number), self._secret(number - 1))
        where = address_bytes(address)
        return blake2s_mac(self._secrets[0], where), blake2s_mac(self._secrets[1], where)

    def _secret(self, number: int) -> bytes:
        return blake2s_mac(self._root, number.to_bytes(8, "little", signed=True))


class MacChecker:
    """What a node does with the MACs of messages that come in."""

    __slots__ = ("_cookie_key", "_mac1_key", "_profile", "_secret")

    def __init__(self, profile: Profile, public: bytes, secret: CookieSecret) -> None:
        self._profile, self._secret = profile, secret
        self._mac1_key, self._cookie_key = mac1_key(profile, public), cookie_key(profile, public)

    def mac1_holds(self, packet: bytes) -> bool:
        """Tell whether the packet was made by someone who knows our static key."""
        return macs_equal(blake2s_mac(self._mac1_key, packet[:-MACS]), packet[-MACS:-MAC])

    def mac2_holds(self, packet: bytes, address: Address, unix_s: float) -> bool:
        """Tell whether the sender has a cookie of its address."""
        body, mac2 = packet[:-MAC], packet[-MAC:]
        now, last = self._secret.cookies(address, unix_s)
        return macs_equal(blake2s_mac(now, body), mac2) or macs_equal(blake2s_mac(last, body), mac2)

    def reply(
        self, packet: bytes, address: Address, unix_s: float, *, effort: Effort,
        nonce: bytes,
    ) -> bytes:  # fmt: skip
        """Return the cookie reply to a handshake packet: always shorter than the packet."""
        cookie = self._secret.cookies(address, unix_s)[0]
        if self._profile.is_molia:
            cookie += effort.encode()
        sealed = xchacha_seal(self._cookie_key, nonce, cookie, packet[-MACS:-MAC])
        return encode_cookie(CookieReply(packet[4:8], nonce, sealed))


def mac1_key(profile: Profile, public: bytes) -> bytes:
    """Return the key of mac1 in messages to the owner of `public`."""
    return blake2s_digest(b"mac1----" + public + profile.mac_salt)


def cookie_key(profile: Profile, public: bytes) -> bytes:
    """Return the key of cookie replies from the owner of `public`."""
    return blake2s_digest(b"cookie--" + public + profile.mac_salt)


def stamp(body: bytes, *, key: bytes, cookie: bytes) -> bytes:
    """Return a handshake message with both MACs; without a cookie (b"") mac2 is zeros."""
    body += blake2s_mac(key, body)
    return body + (blake2s_mac(cookie, body) if cookie else NO_MAC)


def open_cookie(
    profile: Profile, public: bytes, reply: CookieReply, mac1: bytes
) -> tuple[bytes, Effort] | None:
    """Return cookie and effort of a reply from the owner of `public` to the message of `mac1`.

    None: someone else made it, or it asks for more than anyone may.
    """
    opened = xchacha_open(cookie_key(profile, public), reply.nonce, reply.sealed, mac1)
    if opened is None:
        return None
    effort = Effort.parse(opened[MAC:]) if profile.is_molia else NO_EFFORT
    return None if effort is None else (opened[:MAC], effort)
