"""recovery - an old backup is restored: what the system must do about it, from then to the end.

`RestoredCopy` is what happens where a store was put back behind everybody's
back: it must be seen, and the pair stays closed. With `SaidRestore` its
operator says so: the pair agrees on what may have been used since, and goes on.
"""

from collections.abc import Callable
from typing import Protocol

from kme.errors import PeerUnavailableError
from kme.store.records import HeartbeatRecord, IncidentKind
from simulate.checks import check_all
from simulate.disks import Disk
from simulate.kme import SimulatedKme
from simulate.witness import require
from simulate.world import World


class Recovery(Protocol):
    """What becomes of a world in which a backup is restored."""

    async def restore(self, world: World, kme: SimulatedKme, backup: Disk) -> None:
        """Put the backup in the place of what the KME keeps; its processes run until now."""

    async def finish(self, world: World) -> None:
        """Check what must hold at the end, after the weather became good."""


class RestoredCopy:
    """A copy put back with no procedure at all: both close the pair, and nothing is repeated."""

    async def restore(self, world: World, kme: SimulatedKme, backup: Disk) -> None:
        await _put_back(world, kme, backup, lambda: True)
        kme.start()

    async def finish(self, world: World) -> None:
        await world.until(lambda: _are_closed(world), "both see the roll-back")
        given, n_blocks = len(world.witness.issued), world.witness.n_blocks
        world.feed_one(600)
        await world.ground.clock.sleep(15)
        world.check()
        require(len(world.witness.issued) == given, "a closed pair hands out new keys")
        require(world.witness.n_blocks == n_blocks, "a closed pair forms a block")
        for kme in world.both:
            alarms = await kme.disk.inspect().incidents(100)
            require(
                any(alarm.kind is IncidentKind.ROLLED_BACK_PEER for alarm in alarms),
                f"{kme.local} raises no alarm about a roll-back",
            )
            await kme.kill_all()


class SaidRestore:
    """A copy put back and marked as one: what may have been used since is burnt, and it goes on."""

    async def restore(self, world: World, kme: SimulatedKme, backup: Disk) -> None:
        await _put_back(world, kme, backup, backup.has_to_agree)
        await backup.inspect().mark_restored(f"{world.rng.getrandbits(128):032x}")
        # Nothing comes in any more of epochs up to the present.
        world.skip_epochs()
        kme.start()

    async def finish(self, world: World) -> None:
        await world.until(lambda: _have_agreed(world), "the restore is agreed")
        # Both know of the same last block again when they have made another one.
        world.feed_one(600)
        await check_all(world)
        for kme in world.both:
            alarms = await kme.disk.inspect().incidents(100)
            require(
                any(alarm.kind is IncidentKind.RESTORED for alarm in alarms),
                f"{kme.local} raises no alarm about a restore",
            )


async def restore_some_time(recovery: Recovery, world: World) -> None:
    """Copy one KME's store, wait until its peer has heard more than the copy knows, restore it."""
    rng, clock = world.rng, world.ground.clock
    await clock.sleep(rng.uniform(0, world.plan.busy_s / 2))
    kme = rng.choice(world.both)
    backup = kme.disk.backup()
    world.ground.trace.note(kme.local, "is backed up")
    kept = await backup.inspect().heartbeat(kme.peer)
    peer = world.kmes[kme.peer]
    while not await _is_past(peer, kept):
        await clock.sleep(0.2)
    await clock.sleep(rng.uniform(0, world.plan.busy_s / 2))
    for one in world.both:
        for alarm in await one.disk.inspect().incidents(100):
            require(alarm.kind is not IncidentKind.ROLLED_BACK_PEER, "a roll-back was imagined")
    world.ground.trace.count("restores")
    await recovery.restore(world, kme, backup)


async def _put_back(
    world: World, kme: SimulatedKme, backup: Disk, is_closed: Callable[[], bool]
) -> None:
    await kme.kill_all()
    kme.disk = backup
    record = await backup.inspect().pairing(kme.peer)
    world.witness.saw_restore(kme.local, record, is_closed)
    world.ground.trace.note(kme.local, "is restored from an older copy")


async def _have_agreed(world: World) -> bool:
    return not any(kme.disk.has_to_agree() for kme in world.both)


async def _is_past(heard_by: SimulatedKme, kept: HeartbeatRecord) -> bool:
    record = await heard_by.disk.inspect().heartbeat(heard_by.peer)
    return record.heard not in (None, kept.pending, kept.acknowledged)


async def _are_closed(world: World) -> bool:
    for kme in world.both:
        if kme.pairing is None:
            return False
        try:
            kme.pairing.require_alive(kme.peer)
        except PeerUnavailableError as error:
            if "until an operator acts" not in error.message:
                return False
        else:
            return False
    return True
