"""The room document: small whatever is in stock, and each of its steps on its own."""

import json

from kme.store.records import MAX_OPEN_FROM, RESERVED_GRANULES, Claim, Frontier, GranuleRange
from kme.store.vault.roomstate import MAX_FRONT, PAGE_BLOCKS, Page, RoomState

WISH = Claim("0" * 32, "w", GranuleRange(0, 8, 9))


def wish(number: int) -> Claim:
    return Claim(f"{number:032x}", "w", WISH.reserved)


def stocked(n_blocks: int, granules: int = 128) -> RoomState:
    room = RoomState()
    room.raise_marks(peer_settled=10**6)
    for number in range(1, n_blocks + 1):
        room.put(number, granules)
    return room


def test_a_document_is_read_back_as_it_was() -> None:
    room = stocked(5)
    room.take(WISH, (1, 10))
    blocks = {4: 128, 5: 128}
    assert room.spill(Page.of("page", blocks), blocks)
    room.spent, room.drawn = {9}, {11, 12}
    again = RoomState.from_data(json.loads(json.dumps(room.to_data())))
    assert again == room


def test_the_document_stays_small_whatever_is_in_stock() -> None:
    room = stocked(0)
    for number in range(1, 10_001):
        room.put(number, 128)
        blocks = room.overflow()
        if blocks:
            assert room.spill(Page.of(f"{number:032x}", blocks), blocks)
    assert room.stock().blocks_by_room == {120: 10_000}
    assert len(room.blocks) <= MAX_FRONT
    assert len(room.pages) == 10_000 // PAGE_BLOCKS - 1
    assert len(json.dumps(room.to_data())) < 20_000


def test_only_fresh_blocks_leave_for_a_page() -> None:
    room = stocked(MAX_FRONT + 1)
    room.take(WISH, (1, 10))
    assert 1 not in room.overflow()
    blocks = {1: 128, 2: 128}
    assert not room.spill(Page.of("page", blocks), blocks)
    assert 2 in room.blocks


def test_a_page_is_absorbed_once() -> None:
    room, blocks = stocked(3), {2: 128, 3: 128}
    page = Page.of("page", blocks)
    room.spill(page, blocks)
    assert room.absorb(page, blocks)
    assert not room.absorb(page, blocks)
    assert room.stock().blocks_by_room == {120: 3}


def test_of_too_many_remainders_the_smallest_are_given_up() -> None:
    room = stocked(MAX_OPEN_FROM + 5)
    for number in range(MAX_OPEN_FROM + 5):
        one = room.blocks[number + 1]
        one.mark = RESERVED_GRANULES + 1 + number % 100
    claim = room.take(WISH, (1, 1))
    assert claim is not None
    room.give_back(claim, claim.reserved.stop)
    assert len(room.blocks) == MAX_OPEN_FROM
    assert len(room.spent) == 5


def test_a_claim_that_nobody_knows_of_is_given_back_whole() -> None:
    room = stocked(1)
    room.take(wish(1), (5, 5))
    room.give_back_whole(wish(1).nonce)
    room.give_back_whole(wish(1).nonce)
    assert room.stock().blocks_by_room == {120: 1}
    assert not room.claims


def test_what_a_killed_try_added_is_replaced_until_something_was_claimed_of_it() -> None:
    room = stocked(3)
    room.put(3, 64)
    assert room.stock().blocks_by_room == {120: 2, 56: 1}
    room.put(3, None)
    assert room.stock().blocks_by_room == {120: 2}
    room.put(4, 256)
    claim = room.take(WISH, (200, 200))
    assert claim is not None
    assert claim.reserved.block_number == 4
    room.put(4, 128)
    room.put(2, None)
    assert room.stock().blocks_by_room == {120: 2, 48: 1}


def test_a_floor_waits_until_the_pages_below_it_are_absorbed() -> None:
    room, blocks = stocked(4), {2: 128, 3: 128}
    page = Page.of("page", blocks)
    room.spill(page, blocks)
    assert room.raise_marks(floor_allocate=2) == page
    assert room.floor_allocate == 0
    room.absorb(page, blocks)
    assert room.raise_marks(floor_allocate=2) is None
    assert room.stock().blocks_by_room == {120: 2}
    assert room.spent == {1, 2}


def test_begun_blocks_go_first_then_numbers_in_order_wherever_they_stand() -> None:
    room = stocked(6)
    blocks = {4: 128, 5: 128}
    page = Page.of("page", blocks)
    room.spill(page, blocks)
    for number, (n_granules, expected) in enumerate([(100, 1), (50, 2), (20, 1), (70, 2), (90, 3)]):
        assert room.page_before(n_granules) is None
        claim = room.take(wish(number), (n_granules, n_granules))
        assert claim is not None
        assert claim.reserved.block_number == expected
    # 3 has room for so much; for more, 4 comes before 6, though it stands in a page.
    assert room.page_before(30) is None
    assert room.page_before(31) == page
    assert room.page_before(121) is None
    room.absorb(page, blocks)
    claim = room.take(wish(9), (31, 31))
    assert claim is not None
    assert claim.reserved.block_number == 4


def test_nothing_from_a_page_on_is_behind_the_frontier() -> None:
    room = stocked(6)
    claim = room.take(WISH, (5, 5))
    assert claim is not None
    assert room.frontier(9) == Frontier(10, {1: 8, **dict.fromkeys(range(2, 7), 8)})
    blocks = {5: 128, 6: 128}
    room.spill(Page.of("page", blocks), blocks)
    assert room.frontier(9) == Frontier(5, {1: 8, 2: 8, 3: 8, 4: 8})
    assert room.lowest(behind=10) == 1
    room.close_claims(None)
    assert room.frontier(9) == Frontier(5, {1: 13, 2: 8, 3: 8, 4: 8})
    room.raise_marks(floor_allocate=4)
    assert room.frontier(9) == Frontier(5)
    assert room.lowest(behind=10) == 5
