"""A process that stands for the other holders of many blobs, for `bench_net_held`.

Each of them is a network of its own on a socket of its own; it answers HAVE and AUDIT for every
blob, and on a line `key host port blobs` begins to audit that node, as often as all holders of so
many shares do together. It prints where its holders are, and in the end how many audits held.
"""

import asyncio
import json
import logging
import random
import socket
import sys
from contextlib import ExitStack
from typing import Final

import structlog

from molia.base.config import AdmissionConfig
from molia.base.crypto import Identity
from molia.base.errors import MoliaError
from molia.base.ids import PeerKey
from molia.base.now import Now
from molia.blobs.audit import EPOCH_S
from molia.dht.providers import share_bitmap
from molia.node.network import Network, NetworkSettings
from molia.node.offload import Offload
from molia.node.peer_streams import PeerStream
from molia.node.stream_messages import read_reply, read_request, read_some, send_reply, send_request
from molia.node.system import SystemClock, calm_collector
from molia.wire import blob_messages as said
from molia.wire import messages
from molia.wire.messages import Number
from molia.wire.peer import Peer
from molia.wire.transport import Answer
from tests.bench.bench_wire import asking_socket
from tests.bench.held_blobs import NETWORK_NAME, SMALL, STORED, body, cid_of

OTHERS: Final = tuple(share for share in STORED if share != SMALL)


class Peers:
    """The holders."""

    def __init__(self) -> None:
        self.networks: list[Network] = []
        self.sound = self.failed = 0

    def add(self, share: int, sock: socket.socket, offload: Offload) -> None:
        """Begin to hold a share of every blob."""
        settings = NetworkSettings(
            identity=Identity((share + 1).to_bytes(32)), name=NETWORK_NAME,
            admission=AdmissionConfig(),
        )  # fmt: skip
        network = Network(settings, offload, clock=SystemClock())
        held = said.Held(shares=share_bitmap([share]))

        def has(_peer: Peer, _id: int, encoded: bytes, _now: Now) -> Answer | None:
            asked = messages.decode(Number.HAVE, encoded)
            count = len(asked.cids) if isinstance(asked, said.Have) else 0
            return Number.HAS, messages.encode(said.Has((held,) * count))

        network.serve({Number.HAVE: has}, {Number.AUDIT: _show})
        self.networks.append(network)
        self._running = asyncio.ensure_future(network.run([sock]))

    async def audit(self, key: PeerKey, host: str, port: int, count: int) -> None:
        """Audit the share that a node has of each of so many blobs once a week."""
        chance = random.Random(count)
        while True:
            await asyncio.sleep(EPOCH_S / count)
            network, number = chance.choice(self.networks), chance.randrange(count)
            try:
                shown = await _ask(network, key, (host, port), number)
            except MoliaError:
                shown = b""
            is_sound = shown == body().blocks[SMALL, 0]
            self.sound, self.failed = self.sound + is_sound, self.failed + (not is_sound)


async def _show(stream: PeerStream) -> None:
    asked = await read_request(stream, Number.AUDIT)
    assert isinstance(asked, said.Audit)
    block = body().blocks[asked.share, asked.stripe]
    await send_reply(stream, said.Audited(code=said.AuditCode.HERE, path=(), size=len(block)))
    await stream.send(block)


async def _ask(network: Network, key: PeerKey, place: tuple[str, int], number: int) -> bytes:
    async with network.open_stream(key, place, Number.AUDIT) as stream:
        await send_request(stream, said.Audit(cid=cid_of(number), share=SMALL, stripe=0))
        stream.end()
        reply = await read_reply(stream)
        size = reply.size if isinstance(reply, said.Audited) else 0
        return await read_some(stream, size)


async def main() -> None:
    """Hold shares until the input ends."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    peers, offload = Peers(), Offload(1)
    with ExitStack() as held:
        for share in OTHERS:
            peers.add(share, held.enter_context(asking_socket()), offload)
        await asyncio.sleep(0)
        calm_collector()
        where = [[n.settings.identity.peer_key.key.hex(), *n.driver.pumps[0].address]
                 for n in peers.networks]  # fmt: skip
        print(json.dumps(where), flush=True)
        lines, auditing = asyncio.Queue[str](), []
        loop = asyncio.get_running_loop()
        loop.add_reader(sys.stdin.fileno(), lambda: lines.put_nowait(sys.stdin.readline()))
        while line := await lines.get():
            key, host, port, count = line.split()
            work = peers.audit(PeerKey(bytes.fromhex(key)), host, int(port), int(count))
            auditing.append(asyncio.ensure_future(work))
        print(json.dumps({"sound": peers.sound, "failed": peers.failed}), flush=True)
        loop.remove_reader(sys.stdin.fileno())
        for task in (*auditing, *asyncio.all_tasks() - {asyncio.current_task()}):
            task.cancel()


if __name__ == "__main__":
    asyncio.run(main())
