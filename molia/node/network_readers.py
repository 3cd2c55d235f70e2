"""Blobs from the network, open: see `service.BlobReader`."""

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing
from typing import Final, Protocol

from molia.base import limits
from molia.base.cid import Cid, Codec
from molia.base.errors import IntegrityFailure, MoliaError, SharesOutOfReach
from molia.base.hashing import ContentHasher, blake3_digest
from molia.base.views import BlobInfo
from molia.blobs import gather as cores
from molia.blobs.elastic import Supplement
from molia.blobs.gather import Gather
from molia.blobs.geometry import STRIPE_SIZE_MAX
from molia.blobs.manifest import Manifest
from molia.blobs.one_read import Failed, GatherConfig
from molia.node.caching import Cache
from molia.node.catalog import Bound
from molia.node.context import Context
from molia.node.gathering import Gathering
from molia.node.whereabouts import Find

CHUNK_SIZE: Final = limits.BLOCK_SIZE_MAX
_MARK_SIZE: Final = 16


class Reads(Protocol):
    """What a reader asks of the part that fetches."""

    context: Context
    patience: GatherConfig
    cache: Cache | None

    def begin(self, core: Gather, find: Find, here: tuple[Bound, ...]) -> Gathering:
        """Begin to carry out a core's effects. Raises Busy."""
        ...

    def explain(self, error: MoliaError, find: Find) -> MoliaError:
        """Return why a read failed, and count it."""
        ...

    def supplements(self, find: Find, here: tuple[Bound, ...]) -> AsyncGenerator[Supplement, None]:
        """Yield what is said of shares that were added to a blob, by whom there is time to ask."""
        ...

    def note_untrue(self, added: Supplement) -> None:
        """Take that what was read by a supplement was another blob."""
        ...

    def note_read(self, core: Gather) -> None:
        """Remember how fast nodes were."""
        ...

    def is_checked(self, content: bytes, cid: Cid) -> bool:
        """Tell whether a manifest was found to be of the content that it claims."""
        ...

    def note_checked(self, content: bytes, cid: Cid) -> None:
        """Remember that."""
        ...


class WholeReader:
    """A small blob that came."""

    def __init__(self, cid: Cid, data: bytes) -> None:
        self._cid, self._data = cid, data

    @property
    def info(self) -> BlobInfo:
        """What is known of the blob."""
        return info_of(self._cid, size=len(self._data), content=self._cid.digest)

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """See `service.BlobReader.read`."""
        for at in range(start, stop, CHUNK_SIZE):
            yield self._data[at : min(at + CHUNK_SIZE, stop)]


class NetworkReader:
    """A blob that others hold, or of which not enough is here."""

    def __init__(
        self, reads: Reads, find: Find, manifest: Manifest, here: tuple[Bound, ...] = (),
        added: tuple[bytes, ...] = (),
    ) -> None:  # fmt: skip
        """added: what somebody says that the roots of shares from 14 on are; read with care."""
        self._added = added
        self._reads, self._find, self.manifest, self._here = reads, find, manifest, here

    @property
    def info(self) -> BlobInfo:
        """What is known of the blob."""
        if self._here and self._here[0].row.name:
            return self._here[0].info
        return info_of(self._find.cid, size=self.manifest.size, content=self.manifest.content)

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """See `service.BlobReader.read`; raises as `Fetcher.open`.

        Where what the manifest lists is not enough, shares that were added are read as well. What
        they must be is a stranger's word, so all of the blob is read then, and has to hash to its
        content before the range is given, or the last of it.
        """
        at = start
        try:
            async for chunk in self._read(start, stop):
                at += len(chunk)
                yield chunk
            return
        except SharesOutOfReach as error:
            if self._added:
                raise
            failure: MoliaError = error
        given = at
        async with aclosing(self._reads.supplements(self._find, self._here)) as said:
            async for added in said:
                try:
                    async for chunk in self._patched(added).read(at, stop):
                        given += len(chunk)
                        yield chunk
                    return
                except IntegrityFailure as error:
                    self._reads.note_untrue(added)
                    failure = error
                except SharesOutOfReach as error:
                    failure = error
                if given > at:
                    break  # what is out cannot be taken back; the next read begins with another
        raise failure

    def _patched(self, added: Supplement) -> "AddedReader":
        reader = NetworkReader(self._reads, self._find, self.manifest, self._here, added.roots)
        return AddedReader(reader, self.manifest.content)

    @property
    def size(self) -> int:
        """Bytes of the blob."""
        return self.manifest.size

    async def _read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        context = self._reads.context
        stripes = len(self.manifest.geometry.stripes_of(start, stop))
        cost = await context.budget.draw(min(stripes, self._reads.patience.ahead) * STRIPE_SIZE_MAX)
        try:
            core = Gather(
                self._find.cid, start=start, stop=stop, now_s=context.now().mono_s,
                manifest=self.manifest, added=self._added, config=self._reads.patience,
            )  # fmt: skip
            is_whole = (start, stop) == (0, self.manifest.size)
            async for chunk in self._chunks(core, is_whole=is_whole):
                context.metrics.read_bytes.inc(len(chunk))
                yield chunk
        finally:
            context.budget.release(cost)

    async def _chunks(self, core: Gather, *, is_whole: bool) -> AsyncIterator[bytes]:
        running = self._reads.begin(core, self._find, self._here)
        cache = self._reads.cache if is_whole else None
        filling = None if cache is None else cache.fill(self.manifest)
        try:
            while True:
                match await running.next():
                    case cores.Deliver(stripe_index=index, chunks=chunks):
                        if filling is not None:
                            filling.take(index, chunks)
                        for chunk in chunks:
                            yield chunk
                        running.delivered(index)
                    case Failed(error=error):
                        raise self._reads.explain(error, self._find)
                    case _:
                        return
        finally:
            running.close()
            self._reads.note_read(core)
            if filling is not None:  # who has all bytes may not come back to hear that it was all
                filling.end(is_whole=core.position == self.manifest.size)


class HintedReader:
    """A blob that was asked for by its content hash, through a manifest that a stranger named.

    Until all of it has hashed to what was asked for, no part of it is given out, and of the whole
    not the last chunk.
    """

    def __init__(self, reads: Reads, reader: NetworkReader, content: bytes) -> None:
        self._reads, self._reader, self._content = reads, reader, content

    @property
    def info(self) -> BlobInfo:
        """What the manifest claims."""
        return self._reader.info

    @property
    def manifest(self) -> Manifest:
        """The manifest: a hint until the whole was read."""
        return self._reader.manifest

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """See `service.BlobReader.read`; raises IntegrityFailure for a manifest that lies."""
        info = self._reader.info
        if self._reads.is_checked(self._content, info.cid):
            async for chunk in self._reader.read(start, stop):
                yield chunk
        elif (start, stop) == (0, info.size):
            async for chunk in self._checked():
                yield chunk
        else:
            async for _ in self._checked():
                pass
            async for chunk in self._reader.read(start, stop):
                yield chunk

    async def _checked(self) -> AsyncIterator[bytes]:
        hasher, info, last = ContentHasher(), self._reader.info, b""
        async for chunk in self._reader.read(0, info.size):
            if last:
                yield last
            hasher.update(chunk)
            last = chunk
        if hasher.digest() != self._content:
            raise IntegrityFailure(
                f"what was named for the content {self._content.hex()} is another blob",
                hint="get it by its CID",
            )
        self._reads.note_checked(self._content, info.cid)
        yield last


class AddedReader:
    """A blob of which too little can be read but for shares that were added to it.

    Their roots are a stranger's word, so of the whole the last chunk is held back until all of it
    has hashed to the content. A range is given once all has, block by block as it was then.
    """

    def __init__(self, reader: NetworkReader, content: bytes) -> None:
        self._reader, self._content = reader, content

    async def read(self, start: int, stop: int) -> AsyncIterator[bytes]:
        """See `service.BlobReader.read`; raises IntegrityFailure for shares that are not its."""
        if (start, stop) == (0, self._reader.size):
            async for chunk in self._checked(0, 0, bytearray()):
                yield chunk
            return
        marks = bytearray()
        async for _ in self._checked(start, stop, marks):
            pass
        at = 0
        async for chunk in self._reader.read(start, stop):
            if blake3_digest(chunk)[:_MARK_SIZE] != marks[at : at + _MARK_SIZE]:
                raise self._wrong()
            at += _MARK_SIZE
            yield chunk

    async def _checked(self, start: int, stop: int, marks: bytearray) -> AsyncIterator[bytes]:
        """Yield all of the blob; raise before the last chunk if it is another.

        marks: takes what the blocks of a range are known by.
        """
        hasher, at = ContentHasher(), 0
        async for chunk in self._reader.read(0, self._reader.size):
            hasher.update(chunk)
            piece = chunk[max(start - at, 0) : max(stop - at, 0)]
            if piece:
                marks += blake3_digest(piece)[:_MARK_SIZE]
            at += len(chunk)
            if at == self._reader.size and hasher.digest() != self._content:
                raise self._wrong()
            yield chunk

    def _wrong(self) -> IntegrityFailure:
        return IntegrityFailure(
            "what was added to this blob by others is not part of it",
            hint="try again when more of its holders can be reached",
        )


def info_of(cid: Cid, *, size: int, content: bytes) -> BlobInfo:
    """Return what is known of a blob that is not kept here."""
    is_raw = cid.codec is Codec.RAW
    return BlobInfo(
        cid=cid, size=size, content=content, name="", created_unix_ms=0, pinned=False,
        expires_unix_s=None, k=1 if is_raw else limits.DATA_SHARES,
        n=1 if is_raw else limits.TOTAL_SHARES,
    )  # fmt: skip
