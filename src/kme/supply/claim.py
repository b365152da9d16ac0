"""claim - a byte range claimed ahead, and how far it was used: keys are cut from it in memory."""

import secrets
from typing import Final

from kme.clock import Clock
from kme.errors import IntegrityError
from kme.store.records import Claim
from kme.supply.cache import OpenBlock
from kme.supply.key_id import make_key_id
from kme.supply.ports import Key
from kme.units import GRANULE_BYTES, granules_of_bytes

MIN_STEP_GRANULES: Final = 64
"""The first claim: 512 bytes, 16 keys of 256 bits."""

MAX_STEP_GRANULES: Final = 8192
"""No claim is larger: a block of the largest size."""

_QUICK_S: Final = 1.0
_SLOW_S: Final = 30.0


def fresh_worker_name() -> str:
    """Return a name that no process had before, for all claims of this one."""
    return f"worker-{secrets.token_hex(16)}"


class Step:
    """How much to claim next: doubles while claims are used up quickly, halves when slowly.

    What is claimed and not used is lost in a crash, so a KME with little to do
    claims little.

    Parameters
    ----------
    clock
        Tells how long the last claim lasted.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._n_granules = MIN_STEP_GRANULES
        self._claimed_s: float | None = None

    @property
    def n_granules(self) -> int:
        """The present step."""
        return self._n_granules

    def fitting(self, key_granules: int, needed_granules: int) -> int:
        """Return how much to claim for keys of one size.

        Parameters
        ----------
        key_granules
            Size of one key.
        needed_granules
            What is needed at once; a multiple of `key_granules`.

        Returns
        -------
        int
            The larger of need and step, as a multiple of `key_granules`: a
            block is never cut so that a key less fits than fitted before.
        """
        whole_keys = max(1, self._n_granules // key_granules) * key_granules
        return max(whole_keys, needed_granules)

    def claimed(self) -> None:
        """Note that what was claimed can be used from now on, and adapt the step."""
        now_s = self._clock.monotonic_s()
        if self._claimed_s is not None:
            lasted_s = now_s - self._claimed_s
            if lasted_s < _QUICK_S:
                self._n_granules = min(2 * self._n_granules, MAX_STEP_GRANULES)
            elif lasted_s > _SLOW_S:
                self._n_granules = max(self._n_granules // 2, MIN_STEP_GRANULES)
        self._claimed_s = now_s


class OpenClaim:
    """A claim with its bytes; the mark divides what was cut from what is free.

    Range and mark are one object: whoever waited looks at both again, so that
    nothing is cut twice or from a claim that was given back meanwhile.

    Parameters
    ----------
    claim
        The range, reserved durably.
    block
        Its block; what is needed is copied.
    claimed_s
        When it was reserved, in monotonic seconds.

    Raises
    ------
    IntegrityError
        If the range doesn't lie in the block.
    """

    __slots__ = ("_id_key", "_key", "_mark", "claim", "claimed_s", "source_class")

    def __init__(self, claim: Claim, block: OpenBlock, claimed_s: float = 0.0) -> None:
        reserved = claim.reserved
        if not block.holds(reserved.start, reserved.n_granules):
            raise IntegrityError(
                "the store reserved a range outside its block", block_number=reserved.block_number
            )
        self.claim = claim
        self.claimed_s = claimed_s
        self.source_class = block.source_class
        self._key = block.key[reserved.start * GRANULE_BYTES : reserved.stop * GRANULE_BYTES]
        self._id_key = block.id_key[:]
        self._mark = reserved.start

    @property
    def mark(self) -> int:
        """First granule of the block that was never cut; everything behind it is free."""
        return self._mark

    @property
    def room(self) -> int:
        """How many granules are free, in one piece."""
        return self.claim.reserved.stop - self._mark

    def cut(self, encoded_scope: bytes, n_bytes: int) -> Key:
        """Cut the next key.

        Parameters
        ----------
        encoded_scope
            Whom it is for (`IdScope.encoded`).
        n_bytes
            How long it is, in bytes; there must be room.
        """
        n_granules = granules_of_bytes(n_bytes)
        assert n_granules <= self.room, "a key is cut only where there is room"
        reserved = self.claim.reserved
        begin = (self._mark - reserved.start) * GRANULE_BYTES
        key_id = make_key_id(
            self._id_key, encoded_scope, reserved.block_number, self._mark, n_bytes
        )
        self._mark += n_granules
        return Key(key_id, self._key[begin : begin + n_bytes])

    def wipe(self) -> None:
        """Overwrite the bytes; keys that were cut have their own."""
        self._key.wipe()
        self._id_key.wipe()
