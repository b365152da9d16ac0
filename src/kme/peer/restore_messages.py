"""restore_messages - the JSON bodies by which two KMEs agree on a restore, with their names."""

from typing import Annotated, Final, Self

from pydantic import Field

from kme.errors import InputError
from kme.ids import Epoch, KeyId, SourceId
from kme.pairing.ports import RestoreChallenge, RestoreConsent, RestoreTerms
from kme.peer.messages import Message

ASK_RESTORE_PATH: Final = "/kme/v1/pairs/{kme}/restore/ask"
AGREE_RESTORE_PATH: Final = "/kme/v1/pairs/{kme}/restore/agree"

_MAX_SOURCES: Final = 256

_Token = Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]
_Number = Annotated[int, Field(ge=0, lt=1 << KeyId.NUMBER_BITS)]


class RestoreQuestionMessage(Message):
    """A KME was restored, and says so."""

    incarnation: _Token


class RestoreChallengeMessage(Message):
    """The answer to that."""

    challenge: _Token
    is_restoring: bool

    @classmethod
    def of(cls, challenge: RestoreChallenge) -> Self:
        """Write a challenge."""
        return cls(challenge=challenge.challenge, is_restoring=challenge.is_restoring)

    def to_challenge(self) -> RestoreChallenge:
        """Read it."""
        return RestoreChallenge(self.challenge, self.is_restoring)


class RestoreTermsMessage(Message):
    """What a restored KME offers."""

    incarnation: _Token
    challenge: _Token
    nonce: _Token
    highest: _Number
    settled: _Number

    @classmethod
    def of(cls, terms: RestoreTerms) -> Self:
        """Write the terms."""
        return cls(
            incarnation=terms.incarnation,
            challenge=terms.challenge,
            nonce=terms.nonce,
            highest=terms.highest,
            settled=terms.settled,
        )

    def to_terms(self) -> RestoreTerms:
        """Read them."""
        return RestoreTerms(
            self.incarnation, self.challenge, self.nonce, self.highest, self.settled
        )


class SourceEpochMessage(Message):
    """The highest epoch of one source."""

    source: Annotated[str, Field(max_length=63)]
    epoch: Annotated[int, Field(ge=0, lt=1 << Epoch.BITS)]


class RestoreConsentMessage(Message):
    """What was accepted."""

    highest: _Number
    heard: _Token | None
    epochs: Annotated[list[SourceEpochMessage], Field(max_length=_MAX_SOURCES)]

    @classmethod
    def of(cls, consent: RestoreConsent) -> Self:
        """Write the consent."""
        return cls(
            highest=consent.highest,
            heard=consent.heard,
            epochs=[
                SourceEpochMessage(source=str(source), epoch=epoch.number)
                for source, epoch in sorted(consent.epochs.items())
            ],
        )

    def to_consent(self) -> RestoreConsent:
        """Read it.

        Raises
        ------
        IdentifierError
            If a source's name is not one.
        InputError
            If a source stands there twice.
        """
        epochs = {SourceId(one.source): Epoch(one.epoch) for one in self.epochs}
        if len(epochs) != len(self.epochs):
            raise InputError("a source stands twice in what a restore is agreed on")
        return RestoreConsent(self.highest, self.heard, epochs)
