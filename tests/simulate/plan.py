"""plan - a seed in, what its world is like out: how many workers, how bad the weather, how long."""

import random
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Final, Self

VAULT_EVERY: Final = 6
"""One seed in so many runs on the store of the appliance, which takes longer."""

RESTORE_EVERY: Final = 11
"""One seed in so many restores an old backup in the midst of it; another one says so."""

LIFETIME_S: Final = 36_000
"""Keys live longer than a run, even where clocks are set."""

SHORT_LIFETIME_S: Final = 6

_SAID_AT: Final = 5
_SHORT_LIVED: Final = 0.3


class StoreKind(StrEnum):
    """Where the KMEs of a run keep what they keep.

    SQLite has no place here: its writer is a thread of its own, and virtual
    time would jump while it works. It passes the same contract, and
    `tests/system` kills it.
    """

    MEMORY = "memory"
    VAULT = "vault"


@dataclass(frozen=True, slots=True)
class Plan:
    """All that is decided before a run begins.

    Parameters
    ----------
    seed
        Where all dice of the run come from.
    store
        The kind of store.
    n_workers
        Workers per KME beside the elected one; with 0 one process does all, as
        in embedded mode.
    busy_s
        How long SAEs ask for keys in bad weather, in seconds.
    n_final_keys, unequal, one_sided
        How many final keys arrive meanwhile, and what share of them differs at
        the two ends, or arrives at one of them only.
    link
        Of both directions, when they aren't cut.
    cut_every_s
        A direction or both are cut about so often; never if 0.
    unavailable, late
        Probability that a call to a store fails with unknown outcome; and the
        share of the writes to documents among those that land later.
    outage_every_s
        The store of one KME fails at every call for a while about so often;
        never if 0.
    max_pause_s
        Calls to a store take up to twice so long.
    max_life_steps
        A process dies after at most so many steps; never if 0.
    kill_every_s
        Some process is killed, or stopped in order, about so often; never if 0.
    skew
        Clocks run faster or slower by up to this share, and are set.
    n_calls
        How often each SAE asks for something.
    eve_at_a
        Whether the hostile SAE lives at the leader's KME.
    is_restored, is_said
        Whether an old backup is restored at one of the two, and whether its
        operator says so, so that both agree on it and go on.
    starts_calm
        Whether both get a first block before the weather turns bad.
    lifetime_s
        How long keys may be drawn, in seconds.
    """

    seed: int
    store: StoreKind = StoreKind.MEMORY
    n_workers: int = 2
    busy_s: float = 12.0
    n_final_keys: int = 14
    unequal: float = 0.0
    one_sided: float = 0.0
    link: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    cut_every_s: float = 0.0
    unavailable: float = 0.0
    late: float = 0.0
    outage_every_s: float = 0.0
    max_pause_s: float = 0.01
    max_life_steps: int = 0
    kill_every_s: float = 0.0
    skew: float = 0.0
    n_calls: int = 20
    eve_at_a: bool = False
    is_restored: bool = False
    is_said: bool = False
    starts_calm: bool = True
    lifetime_s: int = LIFETIME_S

    @classmethod
    def of(cls, seed: int, **changes: Any) -> Self:
        """Return the plan of a seed, with some things decided otherwise."""
        rng = random.Random(f"plan of {seed}")
        plan = cls(
            seed,
            store=StoreKind.VAULT if seed % VAULT_EVERY == 0 else StoreKind.MEMORY,
            n_workers=rng.choice((0, 1, 2, 2, 3)),
            busy_s=rng.choice((4.0, 6.0, 10.0)),
            n_final_keys=rng.randint(6, 18),
            unequal=rng.choice((0.0, 0.0, 0.1)),
            one_sided=rng.choice((0.0, 0.1)),
            link=(
                rng.choice((0.0, 0.05, 0.25)),
                rng.choice((0.0, 0.05, 0.25)),
                rng.choice((0.0, 0.3)),
                rng.choice((0.002, 0.02, 0.02, 0.8)),
            ),
            cut_every_s=rng.choice((0.0, 0.0, 4.0)),
            unavailable=rng.choice((0.0, 0.02, 0.08)),
            late=rng.choice((0.2, 0.5)),
            outage_every_s=rng.choice((0.0, 0.0, 3.0)),
            max_pause_s=rng.choice((0.0, 0.01, 0.05)),
            max_life_steps=rng.choice((0, 0, 80, 400)),
            kill_every_s=rng.choice((0.0, 1.5, 4.0)),
            skew=rng.choice((0.0, 0.02)),
            eve_at_a=rng.random() < 0.3,
            starts_calm=rng.random() < 0.8,
            is_restored=seed % RESTORE_EVERY in (_SAID_AT, RESTORE_EVERY - 1),
            is_said=seed % RESTORE_EVERY == _SAID_AT,
        )
        if not plan.skew and rng.random() < _SHORT_LIVED:
            plan = replace(plan, lifetime_s=SHORT_LIFETIME_S)
        return replace(plan, **changes)

    def __str__(self) -> str:
        mode = f"{self.n_workers} workers" if self.n_workers else "embedded"
        restored = ", a backup is restored" if self.is_restored else ""
        said = ", and that is said" if self.is_said else ""
        return f"seed {self.seed}: {self.store}, {mode}{restored}{said}"
