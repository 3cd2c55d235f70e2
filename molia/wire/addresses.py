"""Socket addresses: packed, masked to the prefix they are counted by, and as people write them.

A core knows an address as the pair that a socket gives, host and port. An IPv4 address that arrives
through an IPv6 socket (`::ffff:a.b.c.d`) is the IPv4 address.
Source: docs/reference/ids.md, "Addresses".
"""

import ipaddress
import re
from functools import lru_cache
from typing import Final, NamedTuple, TypeAlias

from molia.base.errors import BadAddress, BadPeerKey
from molia.base.hashing import blake2b_digest
from molia.base.ids import PeerKey
from molia.base.limits import ADDRESS_CACHE_MAX, ADDRESS_TEXT_MAX, HOST_SIZE_MAX

Address: TypeAlias = tuple[str, int]
"""Host as a number, not a name, and port: the first two fields of what a socket gives."""

IPV4_SIZE: Final = 4
IPV6_SIZE: Final = 16
_MAPPED: Final = bytes(10) + b"\xff\xff"
_LOOPBACK6: Final = bytes(15) + b"\1"
_IPV6_MASK: Final = int.from_bytes(bytes.fromhex("fffffff80303"), "big")
_SCHEME: Final = "molia://"
_NAME: Final = re.compile(
    r"(?=.*[a-z])[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*"
)
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")


@lru_cache(maxsize=ADDRESS_CACHE_MAX)
def pack_host(host: str) -> bytes | None:
    """Return the 4 or 16 bytes of a numeric host; None for anything else.

    A scope (`fe80::1%eth0`) is left out.
    """
    if len(host) > HOST_SIZE_MAX or not host.isascii():
        return None
    try:
        packed = ipaddress.ip_address(host.partition("%")[0]).packed
    except ValueError:
        return None
    return packed[12:] if packed.startswith(_MAPPED) and len(packed) == IPV6_SIZE else packed


def unpack_host(packed: bytes) -> str | None:
    """Return the host of 4 or 16 bytes as a socket writes it; None for another length."""
    if len(packed) == IPV4_SIZE:
        return f"{packed[0]}.{packed[1]}.{packed[2]}.{packed[3]}"
    return _ipv6_host(packed) if len(packed) == IPV6_SIZE else None


@lru_cache(maxsize=ADDRESS_CACHE_MAX)
def _ipv6_host(packed: bytes) -> str:
    if packed.startswith(_MAPPED):
        return ".".join(map(str, packed[12:]))
    return str(ipaddress.IPv6Address(packed))


def host_key(packed: bytes) -> bytes:
    """Return what one customer is counted by: the IPv4 address, or the IPv6 /64."""
    return packed[:8]


def network_key(packed: bytes) -> bytes:
    """Return what one network is counted by: the IPv4 /24 or the IPv6 /48."""
    return packed[:3] if len(packed) == IPV4_SIZE else packed[:6]


def operator_key(packed: bytes) -> bytes:
    """Return what stands for the operator while its ASN is unknown: IPv4 /16 or IPv6 /32."""
    return packed[:2] if len(packed) == IPV4_SIZE else packed[:4]


def address_prefix(packed: bytes) -> bytes:
    """Return the address prefix that identities are bound to: family byte, then masked bytes.

    IPv4: 04 and the /24. IPv6: 06 and the /48 with bits 30 to 32, 33 to 38 and 41 to 46 cleared,
    so that a /32, or the /29 that registries set aside around one, gives 16 prefixes and not
    65,536, and a /40 gives 4.
    """
    if len(packed) == IPV4_SIZE:
        return b"\x04" + packed[:3]
    return b"\x06" + (int.from_bytes(packed[:6], "big") & _IPV6_MASK).to_bytes(6, "big")


def source_tag(packed: bytes) -> bytes:
    """Return the 3 bytes by which a request puzzle names its source.

    IPv4: the /24. IPv6: 3 bytes of BLAKE2b over the address prefix. Three bytes fit the reserved
    field of a cookie reply, so that a node behind NAT learns which source to solve for.
    """
    if len(packed) == IPV4_SIZE:
        return packed[:3]
    return blake2b_digest(address_prefix(packed), size=3)


_LOCAL_RANGES: Final = tuple(
    (int(net.network_address), int(net.netmask), net.max_prefixlen // 8)
    for net in map(
        ipaddress.ip_network,
        ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16",
         "100.64.0.0/10", "::1/128", "fc00::/7", "fe80::/10"),
    )
)  # fmt: skip


@lru_cache(maxsize=ADDRESS_CACHE_MAX)
def is_local(packed: bytes) -> bool:
    """Tell whether an address is loopback, private, link-local or shared (RFC 1918, 4193, 6598)."""
    number, size = int.from_bytes(packed, "big"), len(packed)
    return any(number & mask == net and size == of for net, mask, of in _LOCAL_RANGES)


def is_loopback(packed: bytes) -> bool:
    """Tell whether an address is this machine's own: 127/8 or ::1. Nobody can send from it."""
    return packed[0] == 127 if len(packed) == IPV4_SIZE else packed == _LOOPBACK6


def is_unicast(packed: bytes) -> bool:
    """Tell whether a packet to this address goes to one host: no broadcast, multicast, or zero.

    An IPv4 address in IPv6's clothes is none either: between peers it is written as IPv4.
    """
    if len(packed) == IPV4_SIZE:
        return 0 < packed[0] < 224
    return packed[0] != 0xFF and packed != bytes(IPV6_SIZE) and not packed.startswith(_MAPPED)


def is_sendable(host: str, port: int) -> bool:
    """Tell whether a packet can be sent there, and to one host.

    Packets come from elsewhere too, such as port 0: who sends them wants no answer.
    """
    packed = pack_host(host)
    return packed is not None and is_unicast(packed) and 0 < port < 65_536


class PeerAddress(NamedTuple):
    """Where a peer is said to be."""

    peer_key: PeerKey
    host: str
    """A numeric host, or a name in lower case for the shell to resolve."""
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{_SCHEME}{self.peer_key}@{host}:{self.port}"

    @classmethod
    def parse(cls, text: str) -> "PeerAddress":
        """Return what `molia://<peer key>@<host>:<port>` says. Raises BadAddress.

        An IPv6 host stands in brackets; a numeric host is written as a socket writes it.
        """
        if len(text) > ADDRESS_TEXT_MAX or not text.startswith(_SCHEME):
            raise BadAddress(text)
        key, at, place = text[len(_SCHEME) :].partition("@")
        host, colon, port = place.rpartition(":")
        if not at or not colon or not _PORT.fullmatch(port) or int(port) > 0xFFFF:
            raise BadAddress(text)
        try:
            return cls(PeerKey.parse(key), _parse_host(host, text), int(port))
        except BadPeerKey:
            raise BadAddress(text) from None


def parse_addresses(text: str) -> list[PeerAddress]:
    """Return the addresses of a text in which commas join them; empty for an empty one.

    Raises BadAddress on the first that is none.
    """
    return [PeerAddress.parse(part.strip()) for part in text.split(",") if part.strip()]


def _parse_host(host: str, text: str) -> str:
    bracketed = host.startswith("[") and host.endswith("]")
    packed = pack_host(host[1:-1] if bracketed else host)
    if packed is not None and "%" not in host:
        written = unpack_host(packed)
        if written is not None and bracketed == (":" in written):
            return written
    elif not bracketed and len(host) <= HOST_SIZE_MAX and _NAME.fullmatch(host):
        return host
    raise BadAddress(text)
