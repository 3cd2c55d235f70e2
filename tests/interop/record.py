"""Write `tests/vectors/wireguard.json` from exchanges with a real wireguard-go.

    python -m tests.interop.record      (as root, where tests/interop runs)

Keys of both sides stand in the file, so that each exchange can be gone through again without it.
"""

import json
import threading
from pathlib import Path

from molia.node.system import SystemEntropy
from tests.interop.test_wireguard_go import OUR_KEY, OUR_PUBLIC, PSK, THEIR_KEY, comes
from tests.interop.wg_endpoint import WgNode
from tests.interop.wireguard_go import OURS, wireguard_go

OUTPUT = Path(__file__).parents[1] / "vectors" / "wireguard.json"


class NotingEntropy(SystemEntropy):
    """Real randomness, written down."""

    def __init__(self) -> None:
        self.keys: list[bytes] = []

    def token(self, size: int) -> bytes:
        """Return random bytes."""
        token = super().token(size)
        if size == 32:
            self.keys.append(token)
        return token


class NotingNode(WgNode):
    """A node that keeps the first data packet that came in."""

    data = b""

    def _note(self, packet: bytes) -> None:
        super()._note(packet)
        if packet[:1] == b"\4" and len(packet) > 32 and not self.data:
            self.data = packet


def record(*, we_initiate: bool) -> dict[str, str | bool]:
    """Return one exchange."""
    entropy = NotingEntropy()
    with wireguard_go(peer=OUR_PUBLIC, private=THEIR_KEY, psk=PSK) as theirs:
        node = NotingNode(
            listen=("127.0.0.1", 0), private=OUR_KEY, peer=theirs.public, psk=PSK,
            connect=theirs.address if we_initiate else None, entropy=entropy,
        )  # fmt: skip
        thread = threading.Thread(target=node.serve)
        thread.start()
        try:
            if we_initiate:
                node.send(b"")
            else:
                theirs.point_at(OUR_PUBLIC, node.address)
            theirs.ping(OURS[0], count=1)
            assert comes(lambda: node.data != b"")
        finally:
            node.stop()
            thread.join()
            node.close()
    return {
        "we_initiate": we_initiate, "our_private": OUR_KEY.hex(), "their_private": THEIR_KEY.hex(),
        "psk": PSK.hex(), "our_ephemeral": entropy.keys[-1].hex(),
        "initiation": node.sent[0].hex(), "response": node.sent[1].hex(),
        "data": node.data.hex(), "plaintext": node.plaintexts[0].hex(),
    }  # fmt: skip


if __name__ == "__main__":
    VECTORS = [record(we_initiate=True), record(we_initiate=False)]
    MADE = "tests/interop/record.py: exchanges with wireguard-go 0.0.20220316; data is from it"
    OUTPUT.write_text(json.dumps({"made": MADE, "vectors": VECTORS}, indent=1) + "\n")
