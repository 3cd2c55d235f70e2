"""What users do: read, look for nodes, write; open loop, whatever the network makes of it.

What is asked for is drawn before anybody knows who will be there. Operations come as a Poisson
process over all nodes that have joined, keys by Zipf's law, and each ends in a tally: what was not
found within the deadline is a failure, whyever.
Source: docs/reference/simulator.md, "The load".
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from molia.base.crypto import Identity, new_seed
from molia.dht import blinding, records
from molia.dht.outcome import LookupResult
from molia.dht.records import RecordAddress
from molia.dht.results import Got, Stored
from molia.sim.dht_host import DhtHost, Operation
from molia.sim.fleet import NETWORK, Fleet, Node
from molia.sim.places import Picker, zipf_weights
from molia.sim.tally import Tally

DEADLINE_S: Final = 20.0
"""When a user has given up."""
ZIPF: Final = 0.9
_PUBLISHERS: Final = 16
_LIFE_S: Final = 86_000
_VALUE_BYTES: Final = 200
_SETTLING_S: Final = 5.0
"""A record that was acknowledged so long ago is there for everyone."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadConfig:
    """How much users do."""

    per_node_s: float = 30.0
    """Between two operations of one node, in the mean."""
    gets: float = 0.5
    finds: float = 0.4
    puts: float = 0.1
    keys: int = 200


@dataclass(slots=True, eq=False)
class Key:
    """A record of the workload: what was written, and what the network said to have kept."""

    identity: Identity
    salt: bytes
    seq: int = 0
    acked_seq: int = 0
    """The highest that somebody acknowledged."""
    acked_s: float = 0.0
    first_s: float = 0.0
    """When it was first acknowledged; 0: never."""
    values: dict[int, bytes] = field(default_factory=dict)

    @property
    def address(self) -> RecordAddress:
        """What readers ask for."""
        return RecordAddress(self.identity.peer_key, self.salt)


class Workload:
    """The users of one network."""

    def __init__(self, fleet: Fleet, config: LoadConfig) -> None:
        self._fleet, self._world, self.config = fleet, fleet.world, config
        self._rng = fleet.world.seeds.entropy("users", "load").random
        identities = fleet.world.seeds.entropy("users", "keys")
        publishers = [Identity(new_seed(identities)) for _ in range(_PUBLISHERS)]
        self.keys = [
            Key(publishers[n % _PUBLISHERS], f"key {n}".encode()) for n in range(config.keys)
        ]
        self.kept = [
            Key(publishers[n % _PUBLISHERS], f"kept {n}".encode()) for n in range(config.keys)
        ]
        """Records that are written once."""
        self._picker = Picker(zipf_weights(config.keys, ZIPF))
        self.tallies = {name: Tally() for name in ("get", "find", "put")}
        self.old = Tally()
        """Of reads of kept records."""
        self.running = 0
        self._is_on = False
        self.choose: Callable[[], Node | None] = self._draw

    # ------------------------------------------------------------------ the open loop

    def fill(self, seconds: float) -> None:
        """Put every record once, evenly over a time; those puts count as any other."""
        for number, key in enumerate(self.keys):
            self._world.after(seconds * number / len(self.keys), self._put_somewhere, key)

    def put_kept(self, seconds: float) -> None:
        """Put every record that is written once, evenly over a time."""
        for number, key in enumerate(self.kept):
            self._world.after(seconds * number / len(self.kept), self._put_somewhere, key)

    def read_kept(self, seconds: float, *, times: int) -> None:
        """Read each of them from some nodes, evenly over a time; what nobody kept was not put."""
        reads = [key for _ in range(times) for key in self.kept if key.first_s]
        for number, key in enumerate(reads):
            self._world.after(seconds * number / len(reads), self._read_kept, key)

    def _read_kept(self, key: Key) -> None:
        self.get(key, tally=self.old)

    def start(self) -> None:
        """Begin to read, look and write."""
        self._is_on = True
        self._await_next()

    def stop(self) -> None:
        """Begin nothing any more; what runs comes to its end."""
        self._is_on = False

    def _await_next(self) -> None:
        rate = max(1, len(self._fleet.up)) / self.config.per_node_s
        self._world.after(self._rng.expovariate(rate), self._one, None)

    def _one(self, _: object) -> None:
        if not self._is_on:
            return
        # all that is drawn for an operation is drawn here, before anyone knows who is there
        kind, key = self._rng.random(), self.keys[self._picker.draw(self._rng)]
        target = self._rng.getrandbits(256)
        if kind < self.config.gets:
            self.get(key)
        elif kind < self.config.gets + self.config.finds:
            self.find(target)
        elif kind < self.config.gets + self.config.finds + self.config.puts:
            self._put_somewhere(key)
        self._await_next()

    def _put_somewhere(self, key: Key) -> None:
        self.put(key)

    def _draw(self) -> Node | None:
        """Return a node whose user may ask: one that has joined."""
        for _ in range(200):
            node = self._fleet.draw()
            if node is not None and node.host is not None and node.host.engine.is_joined:
                return node
        return None

    # ------------------------------------------------------------------ the operations

    def get(self, key: Key, *, node: Node | None = None, consistent: bool = False,
            tally: Tally | None = None, waited_s: float = 0.0) -> None:  # fmt: skip
        """Read a record; success: a value that was written, and no older than it must be.

        waited_s: how long the user has waited for it before.
        """
        if not key.first_s:
            self.put(key)  # nothing was ever there to read
            return
        tally = tally or self.tallies["get"]
        time_s = self._world.time_s
        must_s = key.acked_seq if consistent and time_s - key.acked_s > _SETTLING_S else 1

        def judge(result: object) -> str | None:
            if not isinstance(result, Got):
                return "asker gone"
            opened = result.opened
            if opened is None:
                return "not found" if result.is_complete else "not found, incomplete"
            if key.values.get(opened.seq) != opened.value:
                return "wrong value"
            return None if opened.seq >= must_s else "stale"

        self._run([tally], judge, node, lambda host: host.engine.get_record(
            key.address, self._world.now, consistent=consistent), waited_s)  # fmt: skip

    def find(self, target: int, *, node: Node | None = None, tally: Tally | None = None) -> None:
        """Look for a target; success: the settled node that is truly closest is in the answer."""
        truth, asker = self._fleet.closest(target), node or self.choose()
        if asker is None:
            return self._nobody([tally or self.tallies["find"]])

        def judge(result: object) -> str | None:
            if not isinstance(result, LookupResult):
                return "asker gone"
            # a lookup ends without those that are slow: they are named, and did not fail
            found = {contact.key for contact in (*result.closest, *result.heard)}
            found.add(asker.identity.peer_key)
            for wanted in truth:
                if wanted.host is not None and wanted.identity.peer_key not in found:
                    return f"closest not found ({result.end.value})"
            return None if result.closest else f"nobody found ({result.end.value})"

        body = target.to_bytes(32, "big")
        return self._run([tally or self.tallies["find"]], judge, asker,
                  lambda host: host.engine.find(body, self._world.now))  # fmt: skip

    def put(self, key: Key, *, node: Node | None = None, tally: Tally | None = None) -> None:
        """Write the next value of a record; success: somebody keeps it."""
        key.seq += 1
        seq, value = key.seq, self._rng.randbytes(_VALUE_BYTES)
        key.values[seq] = value
        encoded = self.signed(key, seq)

        def judge(result: object) -> str | None:
            if not isinstance(result, Stored):
                return "asker gone"
            if result.acks == 0:
                return "overtaken" if result.stale and seq < key.seq else "no acknowledgement"
            if seq > key.acked_seq:
                key.acked_seq, key.acked_s = seq, self._world.time_s
            key.first_s = key.first_s or self._world.time_s
            return None

        self._run([tally or self.tallies["put"]], judge, node,
                  lambda host: host.engine.put_record(encoded, self._world.now))  # fmt: skip

    def signed(self, key: Key, seq: int) -> list[bytes]:
        """Return a value's record for each period in which readers look for it now."""
        unix_s = self._world.now.unix_s
        places = blinding.locations(NETWORK, key.identity.peer_key, key.salt, unix_s)
        return [
            records.publish(
                key.identity, NETWORK, key.salt, key.values[seq], seq=seq,
                expires=int(unix_s) + _LIFE_S, period=place.period,
            ).encoded
            for place in places
        ]  # fmt: skip

    def _run(
        self, tallies: list[Tally], judge: Callable[[object], str | None], node: Node | None,
        start: Callable[[DhtHost], int], waited_s: float = 0.0,
    ) -> None:  # fmt: skip
        node = node or self.choose()
        if node is None or node.host is None:
            return self._nobody(tallies)
        host = node.host
        self.running += 1

        def done(result: object, took_s: float) -> None:
            self.running -= 1
            took_s += waited_s
            cause = judge(result)
            if cause is None and took_s > DEADLINE_S:
                cause = "too late"
            for tally in tallies:
                tally.add(took_s=took_s, deadline_s=DEADLINE_S, cause=cause)

        operation = Operation(tallies[0], done, self._world.now.mono_s)
        return host.begin(operation, lambda _engine, _now: start(host))

    @staticmethod
    def _nobody(tallies: list[Tally]) -> None:
        for tally in tallies:
            tally.add(took_s=0.0, deadline_s=DEADLINE_S, cause="nobody to ask")
