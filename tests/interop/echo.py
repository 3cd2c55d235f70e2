"""Answers to pings inside a tunnel: IPv4 with ICMP, IPv6 with ICMPv6, and nothing else."""

from struct import pack, unpack


def checksum(data: bytes) -> int:
    """Return the Internet checksum (RFC 1071)."""
    data += bytes(len(data) % 2)
    total: int = sum(unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def echo_reply(packet: bytes) -> bytes | None:
    """Return the reply to an echo request; None for anything else. Padding behind it is ignored."""
    if len(packet) >= 28 and packet[0] == 0x45:
        return _reply_v4(packet)
    if len(packet) >= 48 and packet[0] >> 4 == 6:
        return _reply_v6(packet)
    return None


def _reply_v4(packet: bytes) -> bytes | None:
    packet = packet[: int.from_bytes(packet[2:4], "big")]
    if len(packet) < 28 or packet[9] != 1 or packet[20] != 8:
        return None
    body = b"\0\0\0\0" + packet[24:]
    body = body[:2] + pack("!H", checksum(body)) + body[4:]
    head = packet[:8] + b"\x40\x01\0\0" + packet[16:20] + packet[12:16]
    return head[:10] + pack("!H", checksum(head)) + head[12:] + body


def _reply_v6(packet: bytes) -> bytes | None:
    packet = packet[: 40 + int.from_bytes(packet[4:6], "big")]
    if len(packet) < 48 or packet[6] != 58 or packet[40] != 128:
        return None
    head = packet[:7] + b"\x40" + packet[24:40] + packet[8:24]
    body = b"\x81\0\0\0" + packet[44:]
    pseudo = head[8:40] + pack("!II", len(body), 58)
    return head + body[:2] + pack("!H", checksum(pseudo + body)) + body[4:]


def echo_request(source: bytes, target: bytes, number: int) -> bytes:
    """Return an IPv4 echo request from one 4-byte address to another."""
    body = pack("!BBHHH", 8, 0, 0, 77, number) + b"are you there?"
    body = body[:2] + pack("!H", checksum(body)) + body[4:]
    head = pack("!BBHHHBBH", 0x45, 0, 20 + len(body), number, 0, 64, 1, 0) + source + target
    return head[:10] + pack("!H", checksum(head)) + head[12:] + body
