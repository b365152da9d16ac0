"""saes - three SAEs: two that keep the rules, and one that guesses, alters and repeats key_IDs."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Final, TypeVar

from kme.errors import (
    KeyNotFoundError,
    NotEntitledError,
    OverlapError,
    RequestError,
    UnavailableError,
)
from kme.ids import KeyId, KmeId, SaeId
from kme.supply.ports import Key
from kme.supply.supply import LinkSupply
from simulate.kme import Ground, SimulatedKme
from simulate.witness import BrokenRuleError, Issued, Witness, require
from simulation import SimulatedCrash

T = TypeVar("T")

ALICE, BOB, EVE = SaeId("alice"), SaeId("bob"), SaeId("eve")

_SIZES: Final = (8, 16, 32, 32, 32, 33, 64, 200)
_N_KEYS: Final = (1, 1, 1, 2, 5, 12)
_LOST_ANSWER: Final = 0.03
_ASKS_AGAIN: Final = 0.2


@dataclass
class Saes:
    """All SAEs and the doors of their KMEs.

    Parameters
    ----------
    ground
        Time, dice, trace.
    witness
        Sees every answer.
    kmes
        Whom they ask, by id.
    homes
        Where each lives.
    """

    ground: Ground
    witness: Witness
    kmes: dict[KmeId, SimulatedKme]
    homes: dict[SaeId, KmeId]
    is_network_sound: bool = False

    # Requests

    async def get_new(self, master: SaeId, slave: SaeId, n_keys: int, n_bytes: int) -> list[Key]:
        """Ask for new keys."""
        home = self.homes[master]
        keys = await self._ask(
            home,
            lambda supply: supply.new_keys(master, slave, n_keys, n_bytes),
            partial(self.witness.saw_cut, home),
        )
        require([len(key.key) for key in keys] == [n_bytes] * n_keys, "an answer is too short")
        self.witness.saw_new(home, master, slave, keys, self.ground.clock.monotonic_s())
        self._note(master, f"was given {_shown(keys)} for {slave}")
        self.ground.trace.count("keys given", len(keys))
        return keys

    async def draw(self, master: SaeId, slave: SaeId, wanted: Sequence[Issued]) -> list[Key]:
        """Ask for keys by their ids."""
        key_ids = [one.key.key_id for one in wanted]
        for one in wanted:
            one.n_asking += 1
        try:
            keys = await self._ask(
                self.homes[slave],
                lambda supply: supply.keys_by_id(master, slave, key_ids),
                partial(self.witness.saw_drawn, self.homes[slave], master, slave),
            )
        except OverlapError:
            raise BrokenRuleError(f"two ids of one range were given to {slave}") from None
        except KeyNotFoundError:
            self.witness.let_go(self.ground.clock.monotonic_s())
            self.witness.was_refused(slave, wanted)
            self._burn_if_shared(wanted)
            raise
        except UnavailableError:
            for one in wanted:
                one.may_be_burnt = True
            raise
        finally:
            for one in wanted:
                one.n_asking -= 1
        require([key.key_id for key in keys] == key_ids, "keys come in another order")
        self._note(slave, f"drew {_shown(keys)} of {master}")
        self.ground.trace.count("keys drawn", len(keys))
        return keys

    def _burn_if_shared(self, wanted: Sequence[Issued]) -> None:
        """Expect a refused draw over several blocks to burn what it had drawn by then.

        Only if something else asked for one of its keys at the same time.
        """
        if any(one.n_asking > 1 or one.is_drawn for one in wanted) and len(wanted) > 1:
            for one in wanted:
                one.may_be_burnt = True

    async def _ask(
        self,
        home: KmeId,
        call: Callable[[LinkSupply], Awaitable[list[Key]]],
        saw: Callable[[list[Key]], None],
    ) -> list[Key]:
        """Ask one of a KME's workers; what it answers may never arrive."""
        kme = self.kmes[home]
        if not kme.workers:
            raise UnavailableError("connection refused")
        process = self.ground.rng.choice(kme.workers)
        assert process.supply is not None
        try:
            answer = await call(process.supply)
        except SimulatedCrash:
            raise UnavailableError("connection lost") from None
        if process.fuse.is_blown:
            raise UnavailableError("connection lost")  # what a dead process does is not done
        saw(answer)
        if not self.is_network_sound and self.ground.rng.random() < _LOST_ANSWER:
            self._note(process.name, f"answers {_shown(answer)}, and nobody hears it")
            raise UnavailableError("connection lost")
        return answer

    def _note(self, who: str, what: str) -> None:
        self.ground.trace.note(who, what)

    # How they behave

    async def master(self, master: SaeId, slaves: Sequence[SaeId]) -> None:
        """Ask for new keys again and again."""
        rng = self.ground.rng
        for _ in range(self.ground.plan.n_calls):
            await self.ground.clock.sleep(rng.uniform(0, 2 * self._pause_s))
            try:
                await self.get_new(
                    master, rng.choice(slaves), rng.choice(_N_KEYS), rng.choice(_SIZES)
                )
            except UnavailableError as error:
                self._note(master, f"is refused new keys: {error.code}")

    async def slave(self, slave: SaeId) -> None:
        """Draw what came in, in batches, sometimes at two workers at once."""
        rng = self.ground.rng
        for _ in range(self.ground.plan.n_calls):
            await self.ground.clock.sleep(rng.uniform(0, 2 * self._pause_s))
            waiting = self.witness.waiting(slave)
            if not waiting:
                continue
            master = rng.choice(waiting).master
            mine = [issued for issued in waiting if issued.master == master]
            wanted = rng.sample(mine, min(len(mine), rng.choice((1, 1, 3, 10))))
            for _ in range(rng.choice((1, 1, 1, 2))):
                self.ground.spawn(self._try_to_draw(master, slave, wanted))
            if rng.random() < _ASKS_AGAIN:
                drawn = [one for one in self.witness.issued.values() if one.is_drawn]
                again = [one for one in drawn if (one.master, one.slave) == (master, slave)]
                if again:
                    self.ground.spawn(self._try_to_draw(master, slave, [rng.choice(again)]))

    async def _try_to_draw(self, master: SaeId, slave: SaeId, wanted: Sequence[Issued]) -> None:
        try:
            await self.draw(master, slave, wanted)
        except (UnavailableError, KeyNotFoundError) as error:
            first = wanted[0].key.key_id
            place = f"{first.block_number}/{first.offset_granules}"
            self._note(slave, f"is refused {len(wanted)} keys from {place} on: {error.code}")

    async def thief(self) -> None:
        """Ask for keys of others, for drawn ones again, and under altered ids."""
        rng = self.ground.rng
        for _ in range(2 * self.ground.plan.n_calls):
            await self.ground.clock.sleep(rng.uniform(0, self._pause_s))
            if self.witness.issued:
                await self._steal(rng.choice(list(self.witness.issued.values())))

    async def _steal(self, issued: Issued) -> None:
        forged, master = self._altered(issued.key.key_id), issued.master
        if self.ground.rng.random() < 0.2:
            master = self.ground.rng.choice((ALICE, BOB))
        is_hers = forged == issued.key.key_id and (issued.slave, issued.master) == (EVE, master)
        if is_hers:
            if issued.is_drawn:
                await self._try_to_draw(master, EVE, [issued])
            return
        home = self.homes[EVE]
        try:
            await self._ask(
                home,
                lambda supply: supply.keys_by_id(master, EVE, [forged]),
                partial(self.witness.saw_drawn, home, master, EVE),
            )
        except OverlapError:
            raise BrokenRuleError("a forged id passed its check") from None
        except (KeyNotFoundError, NotEntitledError, RequestError, UnavailableError) as error:
            self._note(EVE, f"is refused a key that isn't hers: {error.code}")
            self.ground.trace.count("thefts refused")

    def _altered(self, key_id: KeyId) -> KeyId:
        rng = self.ground.rng
        return rng.choice(
            (
                key_id,
                key_id,
                replace(key_id, tag=key_id.tag ^ 1 << rng.randrange(KeyId.TAG_BITS)),
                replace(key_id, offset_granules=key_id.offset_granules ^ 1),
                replace(key_id, n_bytes=key_id.n_bytes % KeyId.MAX_BYTES + 1),
                replace(key_id, block_number=rng.randrange(40)),
            )
        )

    @property
    def _pause_s(self) -> float:
        return self.ground.plan.busy_s / self.ground.plan.n_calls


def _shown(keys: Sequence[Key]) -> str:
    """Return where keys lie, never what they are."""
    places = [f"{k.key_id.block_number}/{k.key_id.offset_granules}" for k in keys]
    return f"{len(keys)} keys at {', '.join(places[:4])}{' ...' if len(places) > 4 else ''}"
