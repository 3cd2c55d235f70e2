"""A node in memory: it carries out the cores' effects on a dict, at once or in a drawn order."""

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from molia.base.errors import MoliaError
from molia.blobs import download, upload, verify
from molia.blobs.download import Download, read_stripe, verified_leaves
from molia.blobs.manifest import Manifest
from molia.blobs.upload import Upload
from tests import oracles

LEAVES, WHOLE = -1, -2


@dataclass
class Store:
    """Values by (stripe, share); leaf lists lie at stripe LEAVES."""

    values: dict[tuple[int, int], bytes] = field(default_factory=dict)
    fetched: list[tuple[int, int]] = field(default_factory=list)

    def fetch(self, stripe_index: int, share: int) -> bytes | None:
        """What `read_stripe` gets blocks with."""
        self.fetched.append((stripe_index, share))
        return self.values.get((stripe_index, share))

    def leaves_of(self, manifest: Manifest) -> download.LeafLists:
        """What `read_stripe` gets leaf lists with."""
        return lambda share: verified_leaves(manifest, share, self.values.get((LEAVES, share)))

    def flip(self, stripe_index: int, share: int, *, at: int = 0) -> None:
        """Damage one byte of a value."""
        damaged = bytearray(self.values[stripe_index, share])
        damaged[at] ^= 0x40
        self.values[stripe_index, share] = bytes(damaged)


@dataclass
class UploadShell:
    """Drives one Upload; `chance` decides in which order its effects are carried out."""

    core: Upload
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    store: Store = field(default_factory=Store)
    todo: list[upload.Effect] = field(default_factory=list)
    result: upload.Done | None = None
    error: MoliaError | None = None
    peak_in_flight: int = 0
    leaf_lists: int = 0
    hashes_waiting: int = 0

    def run(self, chunks: Iterable[bytes | memoryview]) -> upload.Done:
        """Feed the body, carry everything out, and return Done or raise what the core says."""
        for chunk in chunks:
            while not self.core.wants_bytes and self.step():
                pass
            if self.error is not None:
                raise self.error
            assert self.core.wants_bytes, "nothing is left to do and no bytes are wanted"
            self.core.on_bytes(chunk)
            self.peak_in_flight = max(self.peak_in_flight, self.core.in_flight)
            if self.chance.random() < 0.3:
                self.step()
        self.core.on_end()
        while self.step():
            pass
        if self.error is not None:
            raise self.error
        assert self.result is not None, "the upload came to an end"
        return self.result

    def step(self) -> bool:
        """Carry out one effect; False when there is none."""
        effects = self.core.take_effects()
        if any(isinstance(effect, upload.Done) for effect in effects):
            left = [e for e in self.todo if not isinstance(e, upload.StoreWhole)]
            assert left == [], "a blob is done when all of it is durable"
        self.todo += effects
        if not self.todo:
            return False
        waiting = sum(isinstance(effect, upload.HashContent) for effect in self.todo)
        assert waiting <= 1, "the content is hashed by one thread at a time"
        self._carry_out(self.todo.pop(self.chance.randrange(len(self.todo))))
        return True

    def _carry_out(self, effect: upload.Effect) -> None:
        if isinstance(effect, upload.Encode):
            self.core.on_encoded(upload.encode(effect))
        elif isinstance(effect, upload.HashContent):
            upload.hash_content(effect)
            self.core.on_hashed()
        elif isinstance(effect, upload.Store):
            for share, block in effect.blocks:
                self.store.values[effect.stripe_index, share] = bytes(block)
            self.core.on_stored(effect.stripe_index)
        elif isinstance(effect, upload.StoreLeaves):
            self.store.values[LEAVES, effect.share] = effect.leaves
            self.leaf_lists += 1
            if self.leaf_lists == 14:
                self.core.on_leaves_stored()
        elif isinstance(effect, upload.StoreWhole):
            self.store.values[WHOLE, 0] = effect.data
        elif isinstance(effect, upload.Done):
            self.result = effect
        else:
            self.error = effect.error
            self.todo.clear()


def stored(size: int) -> tuple[Manifest, Store, bytes]:
    """A blob of `size` bytes that was put."""
    data = oracles.content(size)
    shell = UploadShell(Upload(size=size))
    done = shell.run([data])
    return Manifest.decode(done.manifest), shell.store, data


@dataclass
class DownloadShell:
    """Drives one Download; stripes are answered in a drawn order."""

    core: Download
    manifest: Manifest
    store: Store
    chance: random.Random = field(default_factory=lambda: random.Random(0))
    got: bytearray = field(default_factory=bytearray)
    damage: list[tuple[int, Sequence[int]]] = field(default_factory=list)
    asked: list[download.Fetch] = field(default_factory=list)
    peak_asked: int = 0

    def run(self) -> bytes:
        """Return the bytes, or raise what the core says."""
        fetches: list[download.Fetch] = []
        while True:
            for effect in self.core.take_effects():
                if isinstance(effect, download.Fetch):
                    fetches.append(effect)
                    self.asked.append(effect)
                elif isinstance(effect, download.Deliver):
                    assert all(0 < len(chunk) <= 256 * 1024 for chunk in effect.chunks)
                    self.got += b"".join(effect.chunks)
                elif isinstance(effect, download.Damage):
                    self.damage.append((effect.stripe_index, effect.shares))
                elif isinstance(effect, download.Done):
                    return bytes(self.got)
                else:
                    raise effect.error
            self.peak_asked = max(self.peak_asked, len(fetches))
            fetch = fetches.pop(self.chance.randrange(len(fetches)))
            leaves = self.store.leaves_of(self.manifest)
            self.core.on_fetched(read_stripe(self.store.fetch, leaves, fetch.stripe, fetch.shares))


def read(manifest: Manifest, store: Store, start: int, stop: int, *, ahead: int = 2) -> bytes:
    """Return the bytes [start, stop) of a stored blob."""
    return DownloadShell(Download(manifest, start, stop, ahead=ahead), manifest, store).run()


def verify_blob(
    manifest: Manifest, store: Store, core: verify.VerifyBlob, *, steps: int = 1_000_000
) -> verify.VerifyReport | None:
    """Run a verification; None when it is cut off after `steps` effects."""
    leaves = store.leaves_of(manifest)
    for _ in range(steps):
        (effect,) = core.take_effects()
        if isinstance(effect, verify.CheckLeaves):
            core.on_leaves_checked(effect.share, sound=leaves(effect.share) is not None)
        elif isinstance(effect, verify.HashShare):
            core.on_share_hashed(verify.hash_share(store.fetch, leaves, manifest, effect))
        elif isinstance(effect, verify.RepairLeaves):
            store.values[LEAVES, effect.share] = effect.leaves
            core.on_repaired()
        elif isinstance(effect, verify.CheckStripe):
            core.on_stripe_checked(verify.check_stripe(store.fetch, leaves, effect.stripe))
        elif isinstance(effect, verify.Repair):
            for share, block in effect.blocks.items():
                store.values[effect.stripe_index, share] = block
            core.on_repaired()
        else:
            return effect.report
    return None
