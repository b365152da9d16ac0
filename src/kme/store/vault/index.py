"""index - which epochs of a source came in, and which of their final keys wait.

Epochs are kept in buckets of 4096, each a document with a bitmap of those that
came in and the sizes of what waits. The source's top document lists the buckets
in which something may wait. A bucket says itself whether it is listed, and:

- whoever lets something wait in a bucket that says it isn't listed, first
  writes the top, always, then the bucket;
- whoever takes a bucket off the list reads the top, then writes into the bucket
  that it isn't listed, while nothing waits in it, then writes the top that it
  has read. In between the other one's write of the top makes that fail.
"""

import base64
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Self

from kme.ids import Epoch, SourceId
from kme.store.records import FinalKeyRef, InboxEntry

BUCKET_BITS: Final = 12
_BITMAP_BYTES: Final = (1 << BUCKET_BITS) // 8
_IN_BUCKET: Final = (1 << BUCKET_BITS) - 1


def bucket_of(epoch: Epoch) -> int:
    """Return which bucket an epoch belongs to."""
    return epoch.number >> BUCKET_BITS


@dataclass(slots=True)
class Bucket:
    """What a bucket's document says.

    Parameters
    ----------
    came
        Bit e is set once the epoch with the last 12 bits e came in.
    waits
        From an epoch's number to the bytes of each of its parts, 0 for one that is gone.
    is_listed
        Whether the top lists it; else it has to be listed before anything may wait.
    n_turns
        How often it was taken off the list.
    burns
        Like `waits`, what an operator has burnt and isn't overwritten yet.
    """

    came: int = 0
    waits: dict[int, list[int]] = field(default_factory=dict)
    is_listed: bool = False
    n_turns: int = 0
    burns: dict[int, list[int]] = field(default_factory=dict)

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """Read a document."""
        return cls(
            int.from_bytes(base64.b64decode(data.get("came", "")), "little"),
            _read(data.get("waits", {})),
            bool(data.get("listed", False)),
            int(data.get("turns", 0)),
            _read(data.get("burns", {})),
        )

    def to_data(self) -> dict[str, Any]:
        """Return the document."""
        bitmap = self.came.to_bytes(_BITMAP_BYTES, "little")
        return {
            "came": base64.b64encode(bitmap.rstrip(b"\0")).decode("ascii"),
            "waits": _told(self.waits),
            "burns": _told(self.burns),
            "listed": self.is_listed,
            "turns": self.n_turns,
        }

    def has_seen(self, epoch: Epoch) -> bool:
        """Return whether an epoch came in."""
        return bool(self.came >> (epoch.number & _IN_BUCKET) & 1)

    def last_of(self, bucket: int) -> int:
        """Return the highest epoch that came in, if this is that bucket; -1 if none did."""
        return (bucket << BUCKET_BITS) + self.came.bit_length() - 1 if self.came else -1

    def add(self, epoch: Epoch, sizes: list[int]) -> bool:
        """Let a final key wait; False if its epoch came in before."""
        if self.has_seen(epoch):
            return False
        self.came |= 1 << (epoch.number & _IN_BUCKET)
        self.waits[epoch.number] = sizes
        return True

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left to do for what came in."""
        return not self.waits and not self.burns

    def remove(self, refs: Iterable[FinalKeyRef]) -> None:
        """Let entries wait no longer."""
        for ref in refs:
            _take(self.waits, ref)

    def burn(self, refs: Iterable[FinalKeyRef]) -> int:
        """Let entries wait no longer, but remember to overwrite them; return how many."""
        return sum([_move(self.waits, self.burns, ref) for ref in refs])

    def spare(self, refs: Iterable[FinalKeyRef]) -> int:
        """Let entries wait again that were to be overwritten; return how many."""
        return sum([_move(self.burns, self.waits, ref) for ref in refs])

    def has_burnt(self, refs: Iterable[FinalKeyRef]) -> None:
        """Take note that entries were overwritten."""
        for ref in refs:
            _take(self.burns, ref)

    def unlist(self) -> bool:
        """Say that it isn't listed, if nothing waits; a change each time."""
        if not self.is_empty:
            return False
        self.is_listed = False
        self.n_turns += 1
        return True

    def size_of(self, ref: FinalKeyRef) -> int:
        """Return how many bytes an entry has that waits; 0 if it doesn't."""
        sizes = self.waits.get(ref.epoch.number, [])
        return sizes[ref.part] if 0 <= ref.part < len(sizes) else 0

    def entries(self, source: SourceId) -> list[InboxEntry]:
        """List what waits, in order."""
        return _entries(source, self.waits)

    def to_burn(self, source: SourceId) -> list[FinalKeyRef]:
        """List what is still to be overwritten."""
        return [entry.ref for entry in _entries(source, self.burns)]


@dataclass(slots=True)
class Top:
    """What a source's top document says: in which buckets something may wait.

    Epochs before `begins` were given up in a restore: they count as come in,
    and as gone, whatever their buckets say.
    """

    buckets: set[int] = field(default_factory=set)
    n_writes: int = 0
    begins: int = 0

    @classmethod
    def from_data(cls, data: Mapping[str, Any]) -> Self:
        """Read a document."""
        return cls(
            set(data.get("buckets", [])), int(data.get("writes", 0)), int(data.get("begins", 0))
        )

    def to_data(self) -> dict[str, Any]:
        """Return the document."""
        return {"buckets": sorted(self.buckets), "writes": self.n_writes, "begins": self.begins}

    def list_bucket(self, bucket: int) -> None:
        """List a bucket: a change also if it was listed before."""
        self.buckets.add(bucket)
        self.n_writes += 1

    def give_up(self, last: Epoch) -> None:
        """Let all epochs up to this one count as come in and gone."""
        self.begins = max(self.begins, last.number + 1)

    def has_not_given_up(self, ref: FinalKeyRef) -> bool:
        """Return whether a final key may wait."""
        return ref.epoch.number >= self.begins


def _read(data: Mapping[str, Any]) -> dict[int, list[int]]:
    return {int(epoch, 16): list(sizes) for epoch, sizes in data.items()}


def _told(waits: Mapping[int, list[int]]) -> dict[str, list[int]]:
    return {f"{epoch:08x}": list(sizes) for epoch, sizes in waits.items()}


def _entries(source: SourceId, waits: Mapping[int, list[int]]) -> list[InboxEntry]:
    return [
        InboxEntry(FinalKeyRef(source, Epoch(epoch), part), n_bytes)
        for epoch, sizes in sorted(waits.items())
        for part, n_bytes in enumerate(sizes)
        if n_bytes
    ]


def _take(waits: dict[int, list[int]], ref: FinalKeyRef) -> int:
    """Remove a part; return its size, 0 if it isn't there."""
    sizes = waits.get(ref.epoch.number, [])
    if not 0 <= ref.part < len(sizes):
        return 0
    size, sizes[ref.part] = sizes[ref.part], 0
    if not any(sizes):
        del waits[ref.epoch.number]
    return size


def _move(before: dict[int, list[int]], after: dict[int, list[int]], ref: FinalKeyRef) -> bool:
    size = _take(before, ref)
    if size:
        sizes = after.setdefault(ref.epoch.number, [])
        sizes += [0] * (ref.part + 1 - len(sizes))
        sizes[ref.part] = size
    return size > 0
