"""store_audit - what two stopped KMEs' files say, held against what their SAEs were handed.

It reads the tables themselves, so that a mistake in the store's code cannot
hide itself.
"""

import shutil
import sqlite3
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from histories import Given, History, Outcome
from kme.ids import KeyId, KmeId
from kme.pair import KmePlace as Place
from kme.pair import Pair
from kme.store.records import RESERVED_GRANULES
from kme.units import GRANULE_BYTES


@contextmanager
def _tables(place: Place) -> Iterator[sqlite3.Connection]:
    """Open a copy of a store that no process uses, so that nothing of it changes."""
    with tempfile.TemporaryDirectory(dir=place.folder.parent) as folder:
        for suffix in ("", "-wal"):
            source = place.folder / f"store.db{suffix}"
            if source.exists():
                shutil.copyfile(source, Path(folder) / source.name)
        with closing(sqlite3.connect(Path(folder) / "store.db")) as connection:
            yield connection


def open_granules(place: Place) -> int:
    """Return how many granules a KME that just died had claimed and not given back."""
    with _tables(place) as tables:
        return int(
            tables.execute("SELECT coalesce(sum(stop - start), 0) FROM claims").fetchone()[0]
        )


def is_at_rest(place: Place) -> bool:
    """Whether a running KME has made blocks of all final keys that it was given."""
    # Each file came once, so none is ever set aside either.
    if any(place.epochs.iterdir()):
        return False
    open_work = (
        "SELECT (SELECT count(*) FROM inbox)"
        " + (SELECT count(*) FROM proposals WHERE state = 'open')"
        " + (SELECT count(*) FROM pairs WHERE peer_settled < highest)"
    )
    try:
        with _tables(place) as tables:
            return _number(tables, open_work) == 0
    except sqlite3.DatabaseError:
        return False  # copied while it was written to


@dataclass(frozen=True)
class Audit:
    """What was found.

    Parameters
    ----------
    wrong
        What contradicts something else, in words.
    n_blocks
        How many blocks were settled.
    n_claimed, n_given
        Granules that were ever claimed, and that masters got.
    """

    wrong: Sequence[str]
    n_blocks: int
    n_claimed: int
    n_given: int

    @property
    def n_burnt(self) -> int:
        """Granules that were claimed and given to nobody."""
        return self.n_claimed - self.n_given


def audit(pair: Pair, history: History, fed_bytes: int) -> Audit:
    """Hold both stores against each other and against a history.

    Parameters
    ----------
    pair
        Two KMEs that are stopped.
    history
        All keys that SAEs were handed, since the stores were made.
    fed_bytes
        How much final key both KMEs ever took in.
    """
    one, other = pair.kmes
    with _tables(one) as here, _tables(other) as there:
        both = {one.id: here, other.id: there}
        wrong = [*_unequal(here, there)]
        for kme, tables in both.items():
            wrong += [f"{kme}: {words}" for words in _own_contradictions(tables)]
        n_claimed = fed_bytes // GRANULE_BYTES
        n_blocks = _number(here, "SELECT highest FROM pairs")
        n_claimed -= n_blocks * RESERVED_GRANULES
        n_claimed -= _number(here, "SELECT sum(n_bytes) FROM inbox") // GRANULE_BYTES
        n_claimed -= sum(
            _number(t, "SELECT sum(room * n_blocks) FROM stock") for t in both.values()
        )
        for kme, peer in ((one.id, other.id), (other.id, one.id)):
            given = [key for key in history.given if pair.saes[key.master] == kme]
            wrong += [f"{kme}: {w}" for w in _room(both[kme], given)]
            wrong += [f"{peer}: {w}" for w in _ledgers(both[peer], kme, given, history)]
    n_given = sum(KeyId.parse(key.key_id).n_granules for key in history.given)
    return Audit(wrong, n_blocks, n_claimed, n_given)


def _number(tables: sqlite3.Connection, query: str) -> int:
    found = tables.execute(query).fetchone()
    return 0 if found is None or found[0] is None else int(found[0])


def _unequal(here: sqlite3.Connection, there: sqlite3.Connection) -> Iterator[str]:
    """Compare what must be the same at both ends."""
    for what, query in {
        "inboxes": "SELECT source, epoch, part, n_bytes FROM inbox ORDER BY 1, 2, 3",
        "epochs": "SELECT source, first, last FROM source_epochs ORDER BY 1, 2",
        "last settlements": (
            "SELECT number, owner, source, tag, verdict FROM proposals WHERE state = 'last'"
        ),
    }.items():
        if here.execute(query).fetchall() != there.execute(query).fetchall():
            yield f"the {what} of both KMEs differ"
    owners = "SELECT number, owner, n_bytes FROM blocks"
    left, right = (
        {number: facts for number, *facts in tables.execute(owners)} for tables in (here, there)
    )
    for number in left.keys() & right.keys():
        if left[number] != right[number]:
            yield f"block {number} differs"


def _own_contradictions(tables: sqlite3.Connection) -> Iterator[str]:
    """Check what one store says about itself."""
    if tables.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
        yield "the database is damaged"
    for kind, details in tables.execute("SELECT kind, details FROM incidents"):
        yield f"alarm {kind}: {details}"
    if _number(tables, "SELECT count(*) FROM claims"):
        yield "claims are open though it was stopped cleanly"
    if _number(tables, "SELECT count(*) FROM proposals WHERE state = 'open'"):
        yield "a proposal is open though nothing hindered it"
    counted = (
        "SELECT room, count(*) FROM own_blocks JOIN pairs USING (peer)"
        " WHERE number > floor_allocate AND number <= peer_settled AND room > 0 GROUP BY room"
    )
    if dict(tables.execute(counted)) != dict(tables.execute("SELECT room, n_blocks FROM stock")):
        yield "the stock is not what its blocks' room adds up to"
    for number, n_granules, end in tables.execute(
        "SELECT number, n_bytes / 8, next_granule + room FROM own_blocks"
        " JOIN blocks USING (peer, number) WHERE next_granule + room <> n_bytes / 8"
    ):
        yield f"block {number} has {n_granules} granules, its mark and room make {end}"


def _room(tables: sqlite3.Connection, given: Sequence[Given]) -> Iterator[str]:
    """Check that no key lies where nothing was claimed."""
    marks = dict(tables.execute("SELECT number, next_granule FROM own_blocks"))
    for key in given:
        key_id = KeyId.parse(key.key_id)
        end = key_id.offset_granules + key_id.n_granules
        if end > marks.get(key_id.block_number, end):
            yield f"{key_id} was given out beyond what was claimed"


def _ledgers(
    tables: sqlite3.Connection, owner: KmeId, given: Sequence[Given], history: History
) -> Iterator[str]:
    """Check that drawn is what was drawn, or perhaps was, and nothing else."""
    surely, perhaps = drawn_by(given, history)
    own = (1 << RESERVED_GRANULES) - 1
    query = (
        "SELECT number, drawn FROM ledgers JOIN blocks USING (peer, number) WHERE blocks.owner = ?"
    )
    rows: list[tuple[Any, ...]] = tables.execute(query, (owner,)).fetchall()
    for number, bitmap in rows:
        drawn = int.from_bytes(bitmap, "little")
        if (surely[number] | own) & ~drawn:
            yield f"block {number}: a key was handed out that the ledger doesn't show as drawn"
        if drawn & ~(surely[number] | perhaps[number] | own):
            yield f"block {number}: the ledger shows as drawn what nobody drew"


def drawn_by(given: Sequence[Given], history: History) -> tuple[dict[int, int], dict[int, int]]:
    """Return bitmaps by block number: drawn for sure, and perhaps."""
    outcomes = defaultdict(set)
    for asked in history.asked:
        outcomes[asked.key_id.lower()].add(asked.outcome)
    surely: dict[int, int] = defaultdict(int)
    perhaps: dict[int, int] = defaultdict(int)
    for key in given:
        key_id = KeyId.parse(key.key_id)
        mask = ((1 << key_id.n_granules) - 1) << key_id.offset_granules
        found = outcomes[key.key_id.lower()]
        if Outcome.OK in found:
            surely[key_id.block_number] |= mask
        elif Outcome.AMBIGUOUS in found:
            perhaps[key_id.block_number] |= mask
    return surely, perhaps
