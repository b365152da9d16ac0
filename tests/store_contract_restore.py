"""What every store promises about restores (`kme.store.ports.RestoreStore`), each as a test.

A backend's test module derives from `RestoreContract` and gives it a fixture
`backend`, as for `store_contract.StoreContract`.
"""

from dataclasses import replace

import pytest

from kme.errors import InputError, KeyNotFoundError, PairingError
from kme.ids import Epoch
from kme.store.ports import Store
from kme.store.records import (
    RESERVED_GRANULES,
    GranuleRange,
    HeartbeatRecord,
    Settlement,
    Verdict,
)
from kme.store.restore import RestoreAgreement
from kme.store.rules import MAX_NUMBER
from store_contract import (
    LINK,
    OTHER,
    B,
    Backend,
    C,
    add_block,
    everything,
    in_loop,
    opened,
    proposal,
    ref,
    some_key,
)
from store_contract_grants import grant

FIRST, SECOND = "1" * 32, "2" * 32
AGREED = RestoreAgreement(FIRST, "n", "p", 7, {LINK: Epoch(3000), OTHER: Epoch(5)})


def drawn(number: int) -> GranuleRange:
    return GranuleRange(number, RESERVED_GRANULES, RESERVED_GRANULES + 1)


async def used_pair(store: Store) -> None:
    """Let a pair have a block of each owner, an open proposal, and something that waits."""
    await add_block(store, 1)
    await add_block(store, 2, owner=B)
    await store.raise_peer_settled(B, 2)
    await store.ingest(B, LINK, Epoch(2000), [some_key(600)])
    await store.ingest(B, LINK, Epoch(2001), [some_key(600), some_key(9)])
    await store.ingest(B, OTHER, Epoch(9), [some_key(600)])
    await store.open_proposal(B, proposal(3, ref(2000)))
    await store.begin_heartbeat(B, "old", None)
    await store.accept_heartbeat(B, "heard", None)


async def is_burnt(store: Store) -> None:
    """Hold that nothing waits, and nothing that ever came in does so again."""
    for source in (LINK, OTHER):
        assert await store.inbox(B, source, None, 99) == []
    refs = [ref(2000), ref(2001), ref(2001, 1), ref(9, source=OTHER)]
    assert await store.held(B, refs) == []
    assert await store.final_keys(B, refs) == []
    for one in refs:
        assert not await store.ingest(B, one.source, one.epoch, [some_key(8)])


class MarkContract:
    """A store that is marked has to be agreed on with everybody."""

    @in_loop
    async def test_a_store_that_was_never_restored_has_nothing_to_agree_on(
        self, backend: Backend
    ) -> None:
        async with opened(backend) as store:
            await used_pair(store)
            assert await store.restoring(B) is None
            with pytest.raises(PairingError):
                await store.agree_restore(B, AGREED)
            assert (await store.pairing(B)).floor_draw == 0

    @in_loop
    async def test_the_mark_counts_for_all_peers_and_for_those_to_come(
        self, backend: Backend
    ) -> None:
        store = await backend.open()
        await used_pair(store)
        await store.mark_restored(FIRST)
        store = await backend.crash(store)
        assert [await store.restoring(peer) for peer in (B, C)] == [FIRST, FIRST]
        await store.agree_restore(B, AGREED)
        store = await backend.crash(store)
        assert [await store.restoring(peer) for peer in (B, C)] == [None, FIRST]
        await store.close()

    @in_loop
    async def test_a_later_restore_has_to_be_agreed_on_anew(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await store.mark_restored(FIRST)
            await store.agree_restore(B, AGREED)
            await store.mark_restored(SECOND)
            assert await store.restoring(B) == SECOND
            with pytest.raises(PairingError):
                await store.agree_restore(B, AGREED)
            await store.agree_restore(B, replace(AGREED, incarnation=SECOND, nonce="m"))
            assert await store.restoring(B) is None
            assert (await store.heartbeat(B)).acknowledged == "m"

    @in_loop
    async def test_a_restore_is_named_by_32_digits(self, backend: Backend) -> None:
        async with opened(backend) as store:
            for name in ("", "1" * 31, "A" * 32, "1" * 33):
                with pytest.raises(InputError):
                    await store.mark_restored(name)
            assert await store.restoring(B) is None

    @in_loop
    async def test_final_keys_come_in_while_it_is_not_agreed(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await store.mark_restored(FIRST)
            assert await store.ingest(B, LINK, Epoch(1), [some_key(600)])
            await store.agree_restore(B, AGREED)
            assert await store.inbox(B, LINK, None, 9) == []


class AgreeContract:
    """The restored side gives up all that may have been used since."""

    @in_loop
    async def test_nothing_up_to_the_highest_number_is_allocated_or_drawn(
        self, backend: Backend
    ) -> None:
        store = await backend.open()
        await used_pair(store)
        await store.mark_restored(FIRST)
        await store.agree_restore(B, AGREED)
        store = await backend.crash(store)
        record = await store.pairing(B)
        assert (record.highest, record.floor_allocate, record.floor_draw) == (7, 7, 7)
        assert await store.claim(B, "w", 1, 1) is None
        for number in (1, 2):
            with pytest.raises(KeyNotFoundError):
                await store.draw(B, [drawn(number)])
        with pytest.raises(PairingError):
            await store.open_proposal(B, proposal(7, ref(3001)))
        await store.close()

    @in_loop
    async def test_its_own_highest_number_counts_if_it_is_higher(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await used_pair(store)
            await store.mark_restored(FIRST)
            await store.agree_restore(B, replace(AGREED, highest=0))
            record = await store.pairing(B)
            assert (record.highest, record.floor_allocate, record.floor_draw) == (3, 3, 3)

    @in_loop
    async def test_what_waits_and_what_is_proposed_is_burnt(self, backend: Backend) -> None:
        store = await backend.open()
        await used_pair(store)
        await store.mark_restored(FIRST)
        await store.agree_restore(B, AGREED)
        store = await backend.reopen(store)
        record = await store.pairing(B)
        assert record.open_proposal is None
        assert record.last == Settlement(proposal(3, ref(2000)), Verdict.VOID)
        await is_burnt(store)
        await store.close()

    @in_loop
    async def test_no_epoch_up_to_the_highest_comes_in_again(self, backend: Backend) -> None:
        store = await backend.open()
        await used_pair(store)
        await store.mark_restored(FIRST)
        await store.agree_restore(B, AGREED)
        store = await backend.crash(store)
        for epoch in (0, 1, 2999, 3000):
            assert not await store.ingest(B, LINK, Epoch(epoch), [some_key(600)])
        assert not await store.ingest(B, OTHER, Epoch(5), [some_key(600)])
        assert not await store.ingest(B, OTHER, Epoch(9), [some_key(600)])
        assert await store.ingest(B, LINK, Epoch(3001), [some_key(600)])
        assert await store.ingest(B, OTHER, Epoch(6), [some_key(600)])
        assert [one.ref for one in await store.inbox(B, LINK, None, 9)] == [ref(3001)]
        assert len(await store.held(B, [ref(2999), ref(3001)])) == 1
        assert await store.highest_epochs(B) == {LINK: Epoch(3001), OTHER: Epoch(9)}
        await store.close()

    @in_loop
    async def test_heartbeats_go_on_from_the_nonces_agreed_on(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await used_pair(store)
            await store.mark_restored(FIRST)
            await store.agree_restore(B, AGREED)
            assert await store.heartbeat(B) == HeartbeatRecord(None, "n", "p")
            assert (await store.begin_heartbeat(B, "next", None)).pending == "next"
            await store.accept_heartbeat(B, "q", "p")
            assert (await store.heartbeat(B)).heard == "q"

    @in_loop
    async def test_repeating_it_changes_nothing_more(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await used_pair(store)
            await store.mark_restored(FIRST)
            await store.agree_restore(B, AGREED)
            await store.ingest(B, LINK, Epoch(3001), [some_key(600)])
            await store.begin_heartbeat(B, "next", None)
            before = await everything(store)
            await store.agree_restore(B, replace(AGREED, nonce="other", highest=9))
            assert await everything(store) == before

    @in_loop
    async def test_the_next_block_is_made_and_used(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await used_pair(store)
            await store.mark_restored(FIRST)
            await store.agree_restore(B, AGREED)
            key = some_key(600)
            await store.ingest(B, LINK, Epoch(3001), [key])
            await store.open_proposal(B, proposal(8, ref(3001)))
            await store.settle(B, Settlement(proposal(8, ref(3001)), Verdict.EQUAL), key)
            await store.raise_peer_settled(B, 8)
            claimed = await store.claim(B, "w", 1, 1)
            assert claimed is not None
            assert claimed.reserved.block_number == 8
            assert await store.ingest(B, LINK, Epoch(3002), [key])
            theirs = proposal(9, ref(3002), owner=B)
            await store.settle(B, Settlement(theirs, Verdict.EQUAL), key)
            await store.draw(B, [drawn(9)])

    @in_loop
    async def test_other_pairs_are_left_alone(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await used_pair(store)
            before = await everything(store)
            await store.mark_restored(FIRST)
            await store.ingest(C, LINK, Epoch(1), [some_key(600)])
            await store.agree_restore(C, AGREED)
            assert await everything(store) == before

    @in_loop
    async def test_a_number_that_is_none_changes_nothing(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await used_pair(store)
            await store.mark_restored(FIRST)
            before = await everything(store)
            for highest in (-1, MAX_NUMBER + 1):
                with pytest.raises(PairingError):
                    await store.agree_restore(B, replace(AGREED, highest=highest))
                with pytest.raises(PairingError):
                    await store.accept_restore(B, "n", highest)
            assert await everything(store) == before
            assert await store.restoring(B) == FIRST


class RetireContract:
    """All that is kept for a peer that is gone for good is given up."""

    @in_loop
    async def test_nothing_of_a_retired_peer_is_left(self, backend: Backend) -> None:
        store = await backend.open()
        await used_pair(store)
        assert await store.retire(B) == 3
        store = await backend.crash(store)
        record = await store.pairing(B)
        assert (record.highest, record.floor_allocate, record.floor_draw) == (3, 3, 3)
        assert record.open_proposal is None
        assert record.last == Settlement(proposal(3, ref(2000)), Verdict.VOID)
        assert await store.claim(B, "w", 1, 1) is None
        for number in (1, 2):
            assert await store.block(B, number) is None
            with pytest.raises(KeyNotFoundError):
                await store.draw(B, [drawn(number)])
        await is_burnt(store)
        await store.close()

    @in_loop
    async def test_its_grants_are_forgotten_too(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await add_block(store, 1, 2048, owner=B)
            kept = grant(1)
            await store.keep_grants(B, [kept])
            await store.retire(B)
            assert await store.grants(B, [kept.key_id]) == {}

    @in_loop
    async def test_to_retire_a_peer_may_be_repeated(self, backend: Backend) -> None:
        async with opened(backend) as store:
            assert await store.retire(B) == 0
            await used_pair(store)
            assert await store.retire(B) == 3
            before = await everything(store)
            assert await store.retire(B) == 3
            assert await everything(store) == before

    @in_loop
    async def test_other_peers_are_left_alone_by_it(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await used_pair(store)
            before = await everything(store)
            await store.retire(C)
            assert await everything(store) == before


class AcceptContract:
    """The other side allocates nothing from what was given up, and keeps its promises."""

    @in_loop
    async def test_nothing_is_allocated_from_what_was_given_up(self, backend: Backend) -> None:
        store = await backend.open()
        await used_pair(store)
        await store.accept_restore(B, "n", 7)
        store = await backend.crash(store)
        record = await store.pairing(B)
        assert (record.highest, record.floor_allocate) == (7, 7)
        assert await store.claim(B, "w", 1, 1) is None
        assert (await store.stock(B)).n_bytes == 0
        await store.close()

    @in_loop
    async def test_what_was_promised_is_drawn(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await used_pair(store)
            await store.accept_restore(B, "n", 7)
            assert (await store.pairing(B)).floor_draw == 0
            assert await store.block(B, 2) is not None
            await store.draw(B, [drawn(2)])

    @in_loop
    async def test_what_waits_and_what_is_proposed_is_burnt(self, backend: Backend) -> None:
        store = await backend.open()
        await used_pair(store)
        await store.accept_restore(B, "n", 1)
        store = await backend.crash(store)
        record = await store.pairing(B)
        assert record.highest == 3
        assert record.last == Settlement(proposal(3, ref(2000)), Verdict.VOID)
        await is_burnt(store)
        await store.close()

    @in_loop
    async def test_new_epochs_come_in_below_the_highest_as_well(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await used_pair(store)
            await store.accept_restore(B, "n", 1)
            assert await store.ingest(B, LINK, Epoch(1500), [some_key(600)])
            assert len(await store.inbox(B, LINK, None, 9)) == 1

    @in_loop
    async def test_the_next_heartbeat_of_the_restored_peer_follows(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await used_pair(store)
            assert await store.accept_restore(B, "n", 7) == HeartbeatRecord("old", None, "n")
            await store.accept_heartbeat(B, "next", "n")
            assert (await store.heartbeat(B)).heard == "next"

    @in_loop
    async def test_it_may_be_repeated_and_the_last_nonce_counts(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await used_pair(store)
            await store.accept_restore(B, "n", 7)
            first = await store.pairing(B)
            assert (await store.accept_restore(B, "m", 2)).heard == "m"
            assert await store.pairing(B) == first

    @in_loop
    async def test_a_pair_without_a_past_accepts(self, backend: Backend) -> None:
        async with opened(backend) as store:
            assert await store.accept_restore(B, "n", 0) == HeartbeatRecord(None, None, "n")
            assert (await store.pairing(B)).highest == 0

    @in_loop
    async def test_a_restored_store_accepts_as_well(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await used_pair(store)
            await store.mark_restored(FIRST)
            await store.accept_restore(B, "n", 7)
            assert await store.restoring(B) == FIRST
            await store.agree_restore(B, AGREED)
            assert await store.heartbeat(B) == HeartbeatRecord(None, "n", "p")


class EpochContract:
    """The highest epoch of each source is known, also of what is long gone."""

    @in_loop
    async def test_the_highest_epoch_of_each_source_is_told(self, backend: Backend) -> None:
        async with opened(backend) as store:
            assert await store.highest_epochs(B) == {}
            await store.ingest(B, LINK, Epoch(9000), [some_key(8)])
            await store.ingest(B, LINK, Epoch(4), [some_key(8)])
            await store.ingest(B, OTHER, Epoch(0), [some_key(8)])
            await store.ingest(C, LINK, Epoch(99_999), [some_key(8)])
            expected = {LINK: Epoch(9000), OTHER: Epoch(0)}
            assert await store.highest_epochs(B) == expected
            await store.burn_inbox(B)
            assert await store.highest_epochs(B) == expected

    @in_loop
    async def test_what_was_filled_up_counts(self, backend: Backend) -> None:
        async with opened(backend) as store:
            await store.mark_restored(FIRST)
            await store.ingest(B, LINK, Epoch(5000), [some_key(8)])
            await store.agree_restore(B, AGREED)
            assert await store.highest_epochs(B) == {LINK: Epoch(5000), OTHER: Epoch(5)}
            assert await store.ingest(B, LINK, Epoch(4000), [some_key(8)])
            assert not await store.ingest(B, LINK, Epoch(5000), [some_key(8)])


class RestoreContract(MarkContract, AgreeContract, AcceptContract, EpochContract, RetireContract):
    """All promises about restores; a backend's tests derive from it."""
