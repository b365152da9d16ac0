"""inbox - final keys in, once for good; listed, read, and overwritten when a block is settled."""

import asyncio
import functools
from collections.abc import Mapping, Sequence

from kme.errors import ConflictError
from kme.ids import Epoch, KmeId, SourceId
from kme.secret import Secret
from kme.store import rules
from kme.store.records import FinalKey, FinalKeyRef, InboxEntry
from kme.store.vault.cell import Cell, Cells, DocumentStore, all_of
from kme.store.vault.index import Bucket, Top, bucket_of
from kme.store.vault.keydocs import TOMBSTONE, KeyDocs, entry_path


class Inbox:
    """The final keys that wait, and the epochs that ever came in.

    An entry is there if the index says so; what was created before the index
    was written is nothing yet.

    Parameters
    ----------
    documents
        Where all lies.
    keydocs
        How key bytes are written.
    """

    def __init__(self, documents: DocumentStore, keydocs: KeyDocs) -> None:
        self._documents = documents
        self._keydocs = keydocs
        self._tops = Cells(self._top)
        self._buckets = Cells(self._bucket)

    def _top(self, peer: KmeId, source: SourceId) -> Cell[Top]:
        return Cell(self._documents, f"index/{peer}/{source}", Top)

    def _bucket(self, peer: KmeId, source: SourceId, bucket: int) -> Cell[Bucket]:
        async def list_first(state: Bucket) -> None:
            if not state.is_empty and not state.is_listed:
                await self._tops[peer, source].change(lambda top: top.list_bucket(bucket))
                state.is_listed = True

        return Cell(self._documents, f"index/{peer}/{source}/{bucket}", Bucket, list_first)

    async def settled(self) -> None:
        """Wait until nothing is under way."""
        await self._buckets.settled()
        await self._tops.settled()

    async def ingest(
        self, peer: KmeId, source: SourceId, epoch: Epoch, parts: Sequence[Secret]
    ) -> bool:
        """Take one epoch's final key, or return False if it came in before."""
        rules.check_parts(parts)
        cell = self._buckets[peer, source, bucket_of(epoch)]
        # An epoch that was seen stays seen, so what was seen last is enough to refuse.
        seen = await cell.peek()
        if seen is not None and seen.has_seen(epoch):
            return False
        if epoch.number < (await self._tops[peer, source].read()).begins:
            return False
        refs = [FinalKeyRef(source, epoch, part) for part in range(len(parts))]
        await all_of(*(self._create(peer, ref, key) for ref, key in zip(refs, parts, strict=True)))
        sizes = [len(part) for part in parts]
        return await cell.change(lambda bucket: bucket.add(epoch, list(sizes)))

    async def _create(self, peer: KmeId, ref: FinalKeyRef, key: Secret) -> None:
        try:
            await self._documents.write(
                entry_path(peer, ref), self._keydocs.of_entry(peer, ref, key), 0
            )
        except ConflictError:
            # An earlier try ended between entry and index, or another one is under way.
            return

    async def entries(
        self, peer: KmeId, source: SourceId, after: FinalKeyRef | None, limit: int
    ) -> list[InboxEntry]:
        """List entries of one source in order of epoch and part, behind `after`."""
        begin = (Epoch(0), -1) if after is None else (after.epoch, after.part)
        listed: list[InboxEntry] = []
        if limit <= 0:
            return listed
        top = await self._tops[peer, source].read()
        for bucket in sorted(top.buckets):
            if bucket < bucket_of(begin[0]) or len(listed) >= limit:
                continue
            found = (await self._buckets[peer, source, bucket].read()).entries(source)
            listed += [
                entry
                for entry in found
                if (entry.ref.epoch, entry.ref.part) > begin and top.has_not_given_up(entry.ref)
            ]
        return listed[:limit]

    async def held(self, peer: KmeId, refs: Sequence[FinalKeyRef]) -> list[InboxEntry]:
        """Return those of `refs` that wait here."""
        buckets, tops = await asyncio.gather(
            self._read_buckets(peer, refs), self._read_tops(peer, refs)
        )
        sizes = [buckets[ref.source, bucket_of(ref.epoch)].size_of(ref) for ref in refs]
        return [
            InboxEntry(ref, size)
            for ref, size in zip(refs, sizes, strict=True)
            if size and tops[ref.source].has_not_given_up(ref)
        ]

    async def final_keys(self, peer: KmeId, refs: Sequence[FinalKeyRef]) -> list[FinalKey]:
        """Read entries with their bytes."""
        found = await all_of(*(self._read(peer, ref) for ref in refs))
        return [final_key for final_key in found if final_key is not None]

    async def _read(self, peer: KmeId, ref: FinalKeyRef) -> FinalKey | None:
        found = await self._documents.read(entry_path(peer, ref))
        return None if found is None else self._keydocs.to_entry(peer, ref, found.data)

    async def remove(self, peer: KmeId, refs: Sequence[FinalKeyRef]) -> None:
        """Let entries wait no longer and overwrite their bytes; what was done before stays done."""
        names = sorted({(ref.source, bucket_of(ref.epoch)) for ref in refs})
        await all_of(
            *(self._remove(peer, source, bucket, refs) for source, bucket in names),
            *(self._overwrite(peer, ref) for ref in refs),
        )

    async def is_any_gone(self, peer: KmeId, refs: Sequence[FinalKeyRef]) -> bool:
        """Return whether one of these came in and waits no longer."""
        buckets = await self._read_buckets(peer, refs)
        found = [(buckets[ref.source, bucket_of(ref.epoch)], ref) for ref in refs]
        return any(bucket.has_seen(ref.epoch) and not bucket.size_of(ref) for bucket, ref in found)

    async def begin_burning(
        self, peer: KmeId, listed: frozenset[FinalKeyRef]
    ) -> tuple[int, dict[tuple[SourceId, int], list[FinalKeyRef]]]:
        """Let all that waits wait no longer, but what is listed.

        Returns
        -------
        n_burnt : int
            How many entries these are.
        to_burn : dict
            What is to be overwritten, by source and bucket, earlier tries included.
        """

        def act(source: SourceId, bucket: Bucket) -> tuple[int, list[FinalKeyRef]]:
            waiting = [entry.ref for entry in bucket.entries(source)]
            n_burnt = bucket.burn(ref for ref in waiting if ref not in listed)
            return n_burnt, bucket.to_burn(source)

        n_burnt, to_burn = 0, {}
        for source in await self._sources(peer):
            for bucket in sorted((await self._tops[peer, source].read()).buckets):
                n_more, refs = await self._buckets[peer, source, bucket].change(
                    functools.partial(act, source)
                )
                n_burnt += n_more
                if refs:
                    to_burn[source, bucket] = refs
        return n_burnt, to_burn

    async def end_burning(
        self,
        peer: KmeId,
        to_burn: Mapping[tuple[SourceId, int], list[FinalKeyRef]],
        listed: frozenset[FinalKeyRef],
    ) -> int:
        """Overwrite what is to be burnt, but what was listed meanwhile; return how much that is."""
        n_spared = 0
        for (source, bucket), refs in to_burn.items():
            cell = self._buckets[peer, source, bucket]
            spared = [ref for ref in refs if ref in listed]
            if spared:
                n_spared += await cell.change(functools.partial(_spare, refs=spared))
            burnt = [ref for ref in refs if ref not in listed]
            await all_of(*(self._overwrite(peer, ref) for ref in burnt))
            await cell.change(functools.partial(_has_burnt, refs=burnt))
        return n_spared

    async def highest_epochs(self, peer: KmeId) -> dict[SourceId, Epoch]:
        """Return the highest epoch that ever came in, of each source."""
        highest: dict[SourceId, Epoch] = {}
        for source in await self._sources(peer):
            top = await self._tops[peer, source].read()
            last = top.begins - 1
            if top.buckets:
                # The newest bucket is never taken off the list.
                newest = max(top.buckets)
                last = max(last, (await self._buckets[peer, source, newest].read()).last_of(newest))
            if last >= 0:
                highest[source] = Epoch(last)
        return highest

    async def give_up(self, peer: KmeId, source: SourceId, last: Epoch) -> None:
        """Let nothing of a source come in or wait any more, up to this epoch."""
        await self._tops[peer, source].change(lambda top: top.give_up(last))

    async def _sources(self, peer: KmeId) -> list[SourceId]:
        names = await self._documents.names(f"index/{peer}")
        return [SourceId(name) for name in names if not name.endswith("/")]

    async def _read_buckets(
        self, peer: KmeId, refs: Sequence[FinalKeyRef]
    ) -> dict[tuple[SourceId, int], Bucket]:
        names = sorted({(ref.source, bucket_of(ref.epoch)) for ref in refs})
        found = await all_of(
            *(self._buckets[peer, source, bucket].read() for source, bucket in names)
        )
        return dict(zip(names, found, strict=True))

    async def _read_tops(self, peer: KmeId, refs: Sequence[FinalKeyRef]) -> dict[SourceId, Top]:
        sources = sorted({ref.source for ref in refs})
        found = await all_of(*(self._tops[peer, source].read() for source in sources))
        return dict(zip(sources, found, strict=True))

    async def _overwrite(self, peer: KmeId, ref: FinalKeyRef) -> None:
        try:
            await self._documents.write(entry_path(peer, ref), TOMBSTONE, 1)
        except ConflictError:
            return  # overwritten before, or never here

    async def _remove(
        self, peer: KmeId, source: SourceId, bucket: int, refs: Sequence[FinalKeyRef]
    ) -> None:
        here = [ref for ref in refs if ref.source == source and bucket_of(ref.epoch) == bucket]

        def act(state: Bucket) -> bool:
            state.remove(here)
            return state.is_listed and state.is_empty

        cell = self._buckets[peer, source, bucket]
        if await cell.change(act):
            await self._take_off(peer, source, bucket)

    async def _take_off(self, peer: KmeId, source: SourceId, bucket: int) -> None:
        """Take an empty bucket off the list, unless it is the newest: that one fills again."""
        path = f"index/{peer}/{source}"
        found = await self._documents.read(path)
        if found is None:
            return
        top = Top.from_data(found.data)
        if bucket not in top.buckets or bucket == max(top.buckets):
            return
        if await self._buckets[peer, source, bucket].change(lambda state: state.unlist()):
            top.buckets.discard(bucket)
            top.n_writes += 1
            try:
                await self._documents.write(path, top.to_data(), found.version)
            except ConflictError:
                return  # it is listed and empty: that costs a read, no more


def _spare(bucket: Bucket, refs: Sequence[FinalKeyRef]) -> int:
    return bucket.spare(refs)


def _has_burnt(bucket: Bucket, refs: Sequence[FinalKeyRef]) -> None:
    bucket.has_burnt(refs)
