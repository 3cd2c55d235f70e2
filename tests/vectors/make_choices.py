"""Writes choices.json: what nodes must agree about without a word, computed without molia.

    python -m tests.vectors.make_choices

When a share's audit epoch began, who audits it, in which order holders lead a repair, and a
supplement's bytes.
"""

import json
from pathlib import Path

from blake3 import blake3

HERE = Path(__file__).parent
WEEK = 604_800
NOON = 1_800_000_000
KEYS = [bytes([n]) * 32 for n in range(1, 15)]


def derived(purpose: str, data: bytes) -> bytes:
    """Return H[purpose](data)."""
    return blake3(data, derive_key_context=f"molia v1 {purpose}").digest()


def choice(digest: bytes, share: int, unix_s: int, count: int) -> dict[str, object]:
    """Return what follows from a blob, a share, a time and some holders."""
    number = share.to_bytes(2, "big")
    offset = int.from_bytes(derived("schedule", digest + number)[:8], "big") % WEEK
    epoch = unix_s - (unix_s - offset) % WEEK
    head = digest + number + (epoch // WEEK).to_bytes(4, "big")
    week = (unix_s // WEEK).to_bytes(4, "big")
    keys = KEYS[:count]
    lead = sorted(keys, key=lambda key: derived("repair-lead", digest + key + week))
    return {
        "digest": digest.hex(), "share": share, "unix_s": unix_s, "holders": count,
        "epoch_start": epoch, "lead": [key.hex() for key in lead],
        "auditor": min(keys, key=lambda key: derived("audit", head + key)).hex(),
    }  # fmt: skip


def main() -> None:
    """Write the file."""
    roots = [bytes([n]) * 32 for n in range(3)]
    digest = bytes(range(32))
    supplement = b"molia/supplement/1\x01" + digest + b"\x03" + b"".join(roots)
    rows = [
        choice(bytes([n]) * 32, share, NOON + n * 100_003, 14 - n)
        for n, share in enumerate((0, 1, 9, 13, 14, 63, 65535))
    ]
    vectors = {
        "choices": rows,
        "supplement": {
            "digest": digest.hex(), "roots": [root.hex() for root in roots],
            "encoded": supplement.hex(),
        },
    }  # fmt: skip
    made = "tests/vectors/make_choices.py; keys are byte 1 to 14, 32 times; LOC is the digest"
    text = json.dumps({"made": made, "vectors": vectors}, indent=1)
    (HERE / "choices.json").write_text(text + "\n", "utf-8")


if __name__ == "__main__":
    main()
