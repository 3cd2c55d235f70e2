"""Writes messages.json: bodies that protoc itself encodes from the schema and a text.

    python -m tests.vectors.make_messages

The texts are protobuf's text format; nothing of molia.wire has a part in the bytes.
"""

import json
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
SCHEMA = HERE.parent.parent / "molia" / "wire" / "schema"
KEY = "".join(f"\\{n:03o}" for n in range(32))
IPV4 = r"\300\000\002\001\017\241"
IPV6 = r"\040\001\015\270\000\000\000\000\000\000\000\000\000\000\000\001\017\241"

NETWORK = r"\001\002\003\004\005\006\007\010"
EIGHT = NETWORK
HELLO = f'features: 0x8000000000000002 software: "molia/0.1.0" workers: 2 network: "{NETWORK}"'
CONTACTS = [f'contacts {{ key: "{KEY}" address: "{address}" }}' for address in (IPV4, IPV6)]
LARGE, SMALL = (f'cid: "{head}{KEY}"' for head in (r"\001\161\036\040", r"\001\125\036\040"))
LEASE = f'lease: "{"x" * 145}"'
ADDED = f'root: "{KEY}" supplement: "{"s" * 1078}"'
SHARES_64 = " ".join(f"shares: {n}" for n in range(64))

ROWS = [
    (1, "Hello", f"version_min: 1 version_max: 1 {HELLO}"),
    (1, "Hello", 'version_min: 1 version_max: 4294967295 workers: 16 network: "abcdefgh"'),
    (2, "Ping", ""),
    (2, "Ping", f'serves: true nonce: "{EIGHT}"'),
    (3, "Pong", f'seen: "{IPV4}" unix_ms: 1700000000123'),
    (3, "Pong", f'seen: "{IPV6}"'),
    (3, "Pong", f'seen: "{IPV4}" unix_ms: 1 serves: true'),
    (4, "Busy", "retry_after_ms: 3600000 effort_bits: 24"),
    (4, "Busy", ""),
    (5, "Close", "reason: 4"),
    (5, "Close", "reason: 4294967295"),
    (6, "Error", 'code: 3 text: "not here \\303\\251"'),
    (64, "FindNode", f'target: "{KEY}"'),
    (65, "Nodes", ""),
    (65, "Nodes", " ".join(CONTACTS)),
    (66, "FindRegion", f'center: "{KEY}" radius_bits: 244 salt: "{EIGHT}"'),
    (66, "FindRegion", f'center: "{KEY}" radius_bits: 1 salt: "{EIGHT}" cursor: 4096'),
    (67, "Get", f'loc: "{KEY}"'),
    (67, "Get", f'loc: "{KEY}" have_seq: 0'),
    (67, "Get", f'loc: "{KEY}" have_seq: 18446744073709551615'),
    (68, "Record", ""),
    (68, "Record", 'record: "short"'),
    (68, "Record", f'record: "{"x" * 1144}"'),
    (69, "Miss", CONTACTS[0]),
    (70, "Put", 'record: "signed"'),
    (70, "Put", 'record: "signed" cas: 0'),
    (70, "Put", f'record: "{"x" * 1144}" cas: 18446744073709551615'),
    (71, "PutReply", ""),
    (71, "PutReply", f'code: 3 record: "{"x" * 1144}"'),
    (72, "AddProvider", 'records: "one"'),
    (72, "AddProvider", f'records: "{"x" * 284}" ' * 4),
    (73, "Added", "codes: 0 codes: 4 codes: 4294967295"),
    (74, "GetProviders", f'loc: "{KEY}"'),
    (74, "GetProviders", f'loc: "{KEY}" page: 15 salt: "{EIGHT}"'),
    (75, "Providers", ""),
    (75, "Providers", f'records: "{"x" * 284}" ' * 4 + "total: 64 page: 15"),
    (76, "Digest", f'entries: "{"x" * 13}"'),
    (76, "Digest", f'entries: "{"x" * 1040}"'),
    (77, "DigestReply", ""),
    (77, "DigestReply", 'wanted: "abcdefghij"'),
    (78, "Pull", "radius_bits: 256"),
    (79, "Pulled", ""),
    (79, "Pulled", "accepted: true"),
    (80, "Reach", f'nonce: "{EIGHT}"'),
    (81, "Reached", "code: 1"),
    (82, "Dial", f'key: "{KEY}" address: "{IPV4}" nonce: "{EIGHT}"'),
    (83, "Dialed", "code: 3"),
    (128, "Offer", f'{LARGE} size: 1099511627776 {SHARES_64} owner: "{KEY}"'),
    (128, "Offer", f'{SMALL} shares: 65535 owner: "{KEY}"'),
    (129, "Offered", "accepted: 0 accepted: 13 kept: 5 room: 18446744073709551615"),
    (129, "Offered", "code: 4 retry_after_ms: 3600000"),
    (130, "PutShare", f'{LARGE} share: 13 manifest: "{"x" * 1024}" {LEASE} first_stripe: 419430'),
    (130, "PutShare", f'{LARGE} share: 14 manifest: "m" {LEASE} root: "{KEY}"'),
    (130, "PutShare", f'{LARGE} share: 45 manifest: "{"m" * 620}" {LEASE} {ADDED}'),
    (130, "PutShare", f"{SMALL} share: 65535 {LEASE} size: 999999"),
    (131, "ShareKept", f'stripes: 419431 provider: "{"x" * 284}"'),
    (131, "ShareKept", "code: 6"),
    (132, "GetManifest", LARGE),
    (132, "GetManifest", f"{LARGE} supplement: true"),
    (133, "Manifest", f'manifest: "{"x" * 1024}"'),
    (133, "Manifest", f'manifest: "{"x" * 1652}"'),
    (134, "GetLeaves", f"{LARGE} share: 63"),
    (135, "Leaves", "share: 63 size: 13421792"),
    (136, "GetBlocks", f"{LARGE} share: 3 first_stripe: 419367 stripe_count: 64 paths: true"),
    (136, "GetBlocks", f"{SMALL} share: 65535 stripe_count: 1"),
    (137, "Blocks", "share: 3 first_stripe: 419430 stripe_count: 1"),
    (137, "Blocks", "share: 65535 stripe_count: 1"),
    (138, "Audit", f"{LARGE} share: 9 stripe: 419430"),
    (138, "Audit", f"{SMALL} share: 65535"),
    (139, "Audited", f'path: "{KEY * 19}" size: 262144'),
    (139, "Audited", "code: 1"),
    (140, "Lease", f'leases: "{"x" * 145}" ' * 7),
    (141, "Leased", "codes: 1 " * 7 + f'held: "{"x" * 145}" ' * 7),
    (141, "Leased", "codes: 0 codes: 4294967295"),
    (142, "Have", f"{LARGE} {SMALL} ".replace("cid", "cids") * 8),
    (143, "Has", "held {} held { whole: true }"),
    (143, "Has", "held { shares: \"" + r"\377" * 8 + "\" partial: 63 partial: 0 stripes: 419431 "
                 "stripes: 0 }"),
    (144, "Claim", f'claim: "{"x" * 145}"'),
    (145, "Claimed", ""),
    (145, "Claimed", f'code: 1 claim: "{"x" * 145}"'),
]  # fmt: skip


def encoded(kind: str, text: str) -> bytes:
    """Return what protoc makes of a message in text format."""
    command = [sys.executable, "-m", "grpc_tools.protoc", f"-I{SCHEMA}"]
    command += [f"--encode=molia.wire.{kind}", "transport.proto", "dht.proto", "blobs.proto"]
    return subprocess.run(command, input=text.encode(), capture_output=True, check=True).stdout


def main() -> None:
    """Write the file."""
    rows = [
        {"number": number, "text": text, "body": encoded(kind, text).hex()}
        for number, kind, text in ROWS
    ]
    made = "tests/vectors/make_messages.py: protoc --encode of `text` in protobuf's text format"
    text = json.dumps({"made": made, "vectors": rows}, indent=1)
    (HERE / "messages.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
