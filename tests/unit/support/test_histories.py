"""The checker of histories accepts what may happen and rejects planted faults."""

from dataclasses import replace

import pytest

from histories import NEVER_S, Asked, Event, Given, History, Outcome, is_linearizable
from kme.ids import KeyId, SaeId

ALICE, BOB, EVE = SaeId("alice"), SaeId("bob"), SaeId("eve")
KEY = bytes(range(32))
OTHER_KEY = bytes(range(100, 132))
KEY_ID = str(KeyId(3, 8, 32, 5))


def given(call_s: float = 0, return_s: float = 1, key: bytes = KEY, key_id: str = KEY_ID) -> Given:
    return Given(key_id, key, ALICE, BOB, call_s, return_s)


def asked(outcome: Outcome, call_s: float, return_s: float, caller: SaeId = BOB) -> Asked:
    key = KEY if outcome is Outcome.OK else None
    return Asked(KEY_ID, ALICE, caller, outcome, key, call_s, return_s)


def ok(call_s: float = 2, return_s: float = 3, caller: SaeId = BOB) -> Asked:
    return asked(Outcome.OK, call_s, return_s, caller)


def refused(call_s: float, return_s: float, caller: SaeId = BOB) -> Asked:
    return asked(Outcome.REFUSED, call_s, return_s, caller)


def ambiguous(call_s: float) -> Asked:
    return asked(Outcome.AMBIGUOUS, call_s, NEVER_S)


def together(call_s: float, return_s: float) -> Asked:
    return asked(Outcome.REFUSED_TOGETHER, call_s, return_s)


RIGHT: dict[str, list[Event]] = {
    "nothing at all": [],
    "given and never drawn": [given()],
    "given and drawn": [given(), ok()],
    "drawn, then refused": [given(), ok(), refused(4, 5)],
    "refused while another call draws": [given(), ok(2, 5), refused(3, 4)],
    "another SAE is refused before and after": [
        given(), refused(1.5, 1.7, EVE), ok(), refused(4, 5, EVE),
    ],
    "an id that nobody was given is refused": [refused(0, 1)],
    "refused before it was given out": [refused(0, 1), given(2, 3), ok(4, 5)],
    "asked for while it is given out": [given(0, 5), ok(1, 2)],
    "an ambiguous draw took place": [given(), ambiguous(2), refused(3, 4)],
    "an ambiguous draw never took place": [given(), ambiguous(2), ok(3, 4)],
    "an ambiguous draw takes place late": [given(), ambiguous(2), together(3, 4), refused(5, 6)],
    "of two ambiguous draws one took place": [given(), ambiguous(2), ambiguous(2), refused(3, 4)],
    "refused together because of another id": [given(), together(2, 3), ok(4, 5)],
}  # fmt: skip

WRONG: dict[str, list[Event]] = {
    "given out twice": [given(), given(2, 3)],
    "given out twice, with the same bytes, at once": [given(), given()],
    "drawn twice, one after the other": [given(), ok(), ok(4, 5)],
    "drawn twice at the same time": [given(), ok(2, 4), ok(3, 5)],
    "drawn with other bytes": [given(), replace(ok(), key=OTHER_KEY)],
    "drawn by another SAE": [given(), ok(caller=EVE)],
    "drawn by the master itself": [given(), ok(caller=ALICE)],
    "drawn under another master": [given(), replace(ok(), master=EVE)],
    "drawn, but nobody was given it": [ok()],
    "drawn before it was given out": [ok(0, 1), given(2, 3)],
    "refused to its slave, though nobody drew it": [given(), refused(2, 3)],
    "refused to its slave before it was drawn": [given(), refused(2, 3), ok(4, 5)],
    "refused to its slave after only another SAE asked": [
        given(), asked(Outcome.AMBIGUOUS, 2, NEVER_S, EVE), refused(3, 4),
    ],
    "a group was refused, and yet drew": [given(), together(2, 3), refused(4, 5)],
    "an ambiguous draw that began later explains nothing": [given(), refused(2, 3), ambiguous(4)],
    "drawn twice beside an ambiguous draw": [given(), ambiguous(2), ok(3, 4), ok(5, 6)],
}  # fmt: skip


@pytest.mark.parametrize("name", RIGHT)
def test_accepts(name: str) -> None:
    assert is_linearizable(RIGHT[name])


@pytest.mark.parametrize("name", WRONG)
def test_rejects(name: str) -> None:
    assert not is_linearizable(WRONG[name])


def test_order_of_notes_does_not_matter() -> None:
    for events in RIGHT.values():
        assert is_linearizable(events[::-1])
    for events in WRONG.values():
        assert not is_linearizable(events[::-1])


def test_many_calls_at_once_are_judged_without_trying_every_order() -> None:
    crowd = [refused(2, 10) for _ in range(8)] + [ambiguous(2 + n) for n in range(200)]
    assert is_linearizable([given(), ok(2, 10), *crowd])
    assert not is_linearizable([given(), ok(2, 10), ok(2, 10), *crowd])


def test_a_history_names_the_key_id_and_no_byte() -> None:
    history = History(given=[given()], asked=[ok(), ok(4, 5)])
    [words] = history.violations()
    assert KEY_ID in words
    assert KEY.hex() not in words
    assert "ok to bob of alice [4.0000, 5.0000]" in words


def test_an_id_in_capitals_is_the_same_id() -> None:
    history = History(given=[given()], asked=[ok(), replace(ok(4, 5), key_id=KEY_ID.upper())])
    assert len(history.violations()) == 1


def test_two_ids_that_share_a_granule_are_found() -> None:
    other = given(2, 3, OTHER_KEY, str(KeyId(3, 11, 32, 6)))
    [words] = History(given=[given(), other]).violations()
    assert "share bytes of a block" in words
    apart = given(2, 3, OTHER_KEY, str(KeyId(3, 12, 32, 6)))
    assert not History(given=[given(), apart]).violations()


def test_bytes_that_came_under_two_ids_are_found() -> None:
    other = given(2, 3, OTHER_KEY[:8] + KEY[:8], str(KeyId(4, 8, 16, 6)))
    [words] = History(given=[given(), other]).violations()
    assert "have bytes in common" in words
