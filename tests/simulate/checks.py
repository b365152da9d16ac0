"""checks - what must hold at the end of a run, when the weather has been good for a while."""

from kme.ids import KmeId
from kme.store.records import RESERVED_GRANULES, IncidentKind
from simulate.kme import SimulatedKme
from simulate.plan import LIFETIME_S
from simulate.saes import ALICE, BOB, EVE
from simulate.witness import require
from simulate.world import A, World

_QUIET_S = 6.0
"""So long after the last of it nothing late is under way any more."""


async def check_all(world: World) -> None:
    """Check everything that must hold in a healed world.

    Raises
    ------
    BrokenRuleError
        If something doesn't.
    StuckError
        If the pair doesn't go on.
    """
    await check_progress(world)
    await check_promised_keys(world)
    await world.ground.clock.sleep(_QUIET_S)
    world.check()
    await check_claims(world)
    await check_incidents(world)
    for kme in world.both:
        await kme.stop_in_order()
    await check_claims_closed(world)
    await check_blocks(world)
    await check_ledgers(world)
    world.check()


async def check_progress(world: World) -> None:
    """Have the pair settle all that waits, then form another block and hand out keys of it."""
    await world.until(world.is_settled, "all final keys become blocks")
    before = world.witness.n_blocks
    for _ in range(2):
        world.feed_one(600)
        await world.until(world.has_arrived, "final keys are taken in")
        await world.until(world.is_settled, "the next block is formed")
    require(world.witness.n_blocks > before, "no block was made of good final keys")
    for master, slave in ((ALICE, BOB), (BOB, ALICE)):
        home = world.kmes[world.homes[master]]
        free = (await home.disk.inspect().stock(home.peer)).count_of(32)
        await world.until(lambda home=home: _is_serving(home), "workers serve")  # type: ignore[misc]
        if free:
            keys = await world.saes.get_new(master, slave, 1, 32)
            await world.saes.draw(master, slave, [world.witness.issued[keys[0].key_id]])


async def _is_serving(home: SimulatedKme) -> bool:
    for process in home.workers:
        try:
            process.liveness.require_alive(home.peer)  # type: ignore[union-attr]
            process.liveness.require_heard_once(home.peer)  # type: ignore[union-attr]
        except Exception:  # noqa: BLE001 - any reason counts
            return False
    return len(home.workers) == max(1, home.ground.plan.n_workers)


async def check_promised_keys(world: World) -> None:
    """Draw every key that a master was given and nothing may have burnt."""
    for kme in world.both:
        await world.until(lambda kme=kme: _is_serving(kme), "workers serve")  # type: ignore[misc]
    for slave in (ALICE, BOB, EVE):
        for issued in world.witness.waiting(slave):
            world.witness.let_go(world.ground.clock.monotonic_s())
            if not issued.may_be_burnt:
                await world.saes.draw(issued.master, slave, [issued])


async def check_claims(world: World) -> None:
    """Compare the claims that are open in the store with those that living workers know."""
    for kme in world.both:
        if not kme.disk.undoes_lost_claims:
            continue
        held: set[str] = set()
        for process in kme.workers:
            # A claim whose writing was in doubt is undone by the worker's next write.
            await process.store.close_claims("nobody")
            assert process.supply is not None
            for allocator in process.supply._allocators.values():
                held |= {one.claim.nonce for one in allocator.claims}
                held |= {claim.nonce for claim, _ in allocator._retired}
        lost = kme.disk.open_claims() - held
        require(not lost, f"{kme.local} keeps {len(lost)} open claims that no worker knows of")


async def check_claims_closed(world: World) -> None:
    """Expect no open claim but those of workers that died and were not found yet."""
    for kme in world.both:
        store = kme.disk.inspect()
        await store.close_claims()
        require(not kme.disk.open_claims(), f"{kme.local} cannot close a claim")


async def check_incidents(world: World) -> None:
    """Expect alarms only about what was made to go wrong."""
    allowed = {IncidentKind.UNEQUAL_BLOCK} if world.n_unequal else set()
    allowed |= {IncidentKind.RESTORED} if world.plan.is_said else set()
    for kme in world.both:
        for incident in await kme.disk.inspect().incidents(100):
            require(
                incident.kind in allowed,
                f"{kme.local} raises an alarm of nothing: {incident.kind}: {incident.details}",
            )


async def check_blocks(world: World) -> None:
    """Compare all blocks that both still have, and both ends' records."""
    a, b = world.both
    mine, theirs = await a.record(), await b.record()
    require(mine.last == theirs.last, "the two remember another last block")
    for number in range(1, mine.highest + 1):
        here = await a.disk.inspect().block(a.peer, number)
        there = await b.disk.inspect().block(b.peer, number)
        if here is not None and there is not None:
            require(here == there, f"block {number} differs")


async def check_ledgers(world: World) -> None:
    """Compare stock and ledgers with what was handed out: each fact at the KME that is its home."""
    for number in range(1, (await world.kmes[A].record()).highest + 1):
        for owner in world.both:
            await _check_ledger(world, owner.local, number)


async def _check_ledger(world: World, owner: KmeId, number: int) -> None:
    """Compare one block of an owner with what its SAEs were given."""
    if world.plan.is_said and number <= (await world.kmes[owner].record()).floor_allocate:
        return  # given up
    kme, other = world.kmes[owner], world.kmes[world.kmes[owner].peer]
    issued = [
        one
        for one in world.witness.issued.values()
        if one.home == owner and one.key.key_id.block_number == number
    ]
    mark = kme.disk.marks().get(number)
    drawn_by_id = may_be_drawn = 0
    for one in issued:
        start, n = one.key.key_id.offset_granules, one.key.key_id.n_granules
        mask = ((1 << n) - 1) << start
        require(
            mark is None or start + n <= mark,
            f"{owner} may allocate granule {start} of block {number} a second time",
        )
        drawn_by_id |= mask if one.is_drawn else 0
        may_be_drawn |= mask if one.is_drawn or one.may_be_burnt else 0
    block = await other.disk.inspect().block(owner, number)
    if block is None or block.owner != owner:
        return
    ledger = await other.disk.ledger(number)
    require(ledger is not None, f"{other.local} has block {number} and no ledger of it")
    assert ledger is not None
    drawn = ledger.drawn & ~((1 << RESERVED_GRANULES) - 1)
    require(drawn & drawn_by_id == drawn_by_id, f"{other.local} forgot draws from block {number}")
    # What expires counts as drawn, whether it was ever given to anybody or not.
    may_be_drawn |= -1 if world.plan.lifetime_s < LIFETIME_S else 0
    require(
        drawn & ~may_be_drawn == 0,
        f"{other.local} counts granules of block {number} as drawn that nobody drew",
    )
