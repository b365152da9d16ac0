from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from kme.errors import IdentifierError, InputError
from kme.ids import Epoch, SourceId
from kme.pairing.ports import RestoreChallenge, RestoreConsent, RestoreTerms
from kme.peer.messages import MAX_BODY_BYTES
from kme.peer.restore_messages import (
    RestoreChallengeMessage,
    RestoreConsentMessage,
    RestoreQuestionMessage,
    RestoreTermsMessage,
)

tokens = st.integers(0, 2**128 - 1).map(lambda number: f"{number:032x}")
numbers = st.integers(0, 2**34 - 1)
sources = st.from_regex(r"[a-z0-9][a-z0-9_-]{0,31}", fullmatch=True).map(SourceId)
epochs = st.integers(0, 2**32 - 1).map(Epoch)


@given(tokens, st.booleans())
def test_a_challenge_survives_the_wire(challenge: str, is_restoring: bool) -> None:
    told = RestoreChallenge(challenge, is_restoring)
    text = RestoreChallengeMessage.of(told).model_dump_json()
    assert RestoreChallengeMessage.model_validate_json(text).to_challenge() == told


@given(st.builds(RestoreTerms, tokens, tokens, tokens, numbers, numbers))
def test_terms_survive_the_wire(terms: RestoreTerms) -> None:
    text = RestoreTermsMessage.of(terms).model_dump_json()
    assert RestoreTermsMessage.model_validate_json(text).to_terms() == terms


@settings(max_examples=50)
@given(numbers, st.none() | tokens, st.dictionaries(sources, epochs, max_size=5))
def test_a_consent_survives_the_wire(
    highest: int, heard: str | None, found: dict[SourceId, Epoch]
) -> None:
    consent = RestoreConsent(highest, heard, found)
    text = RestoreConsentMessage.of(consent).model_dump_json()
    assert RestoreConsentMessage.model_validate_json(text).to_consent() == consent


def test_the_largest_consent_fits_the_body() -> None:
    many = {SourceId(f"{n:03d}" + "s" * 29): Epoch(2**32 - 1) for n in range(256)}
    text = RestoreConsentMessage.of(RestoreConsent(2**34 - 1, "f" * 32, many)).model_dump_json()
    assert len(text) < MAX_BODY_BYTES


@pytest.mark.parametrize(
    "incarnation", ["", "0" * 31, "0" * 33, "F" * 32, "0" * 31 + "\n", 7, None, "../" * 10 + "00"]
)
def test_an_incarnation_is_32_digits(incarnation: object) -> None:
    with pytest.raises(ValidationError):
        RestoreQuestionMessage.model_validate({"incarnation": incarnation})


@pytest.mark.parametrize(
    ("epochs", "error"),
    [
        ([{"source": "link", "epoch": 1}, {"source": "link", "epoch": 2}], InputError),
        ([{"source": "../link", "epoch": 1}], IdentifierError),
    ],
)
def test_what_cannot_be_is_refused(epochs: list[Any], error: type[Exception]) -> None:
    message = RestoreConsentMessage.model_validate({"highest": 1, "heard": None, "epochs": epochs})
    with pytest.raises(error):
        message.to_consent()


@pytest.mark.parametrize(
    "change",
    [
        {"highest": -1},
        {"highest": 2**34},
        {"heard": ""},
        {"epochs": [{"source": "link", "epoch": 2**32}]},
        {"epochs": [{"source": "link", "epoch": -1}]},
        {"epochs": [{"source": "link", "epoch": 1, "more": 1}]},
        {"epochs": [{"source": "s" * 64, "epoch": 1}]},
        {"more": 1},
    ],
)
def test_what_is_out_of_range_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        RestoreConsentMessage.model_validate({"highest": 1, "heard": None, "epochs": []} | change)
