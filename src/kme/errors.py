"""errors - every exception of kme, drawn as one tree.

::

    KmeError
    ├── InputError                  something given to us is wrong; nothing was lost
    │   ├── EpochFileError          an epoch or packet file: which file, where in it
    │   ├── SettingsError           a setting or a configuration file
    │   ├── CredentialError         a certificate or a key file
    │   └── IdentifierError         an id that is not one
    ├── StageError                  a stage of the flow could not do its work
    ├── RefusedError                a caller asks for what it may not have
    │   ├── IdentityError           who calls is absent or unclear
    │   │   └── HandshakeError      TLS ended before a request could be made
    │   ├── NotEntitledError        the key exists and is somebody else's
    │   ├── KeyNotFoundError        no such key for this caller, or already given out
    │   │   └── OverlapError        part of the key was given out under another id
    │   └── RequestError            the request itself cannot be met, now or later
    │       └── RequestFieldError   and these members of it are why
    ├── ConflictError               somebody else wrote first: read again, then decide
    ├── UnavailableError            not now: try again
    │   ├── OutOfKeysError          too few bytes in stock
    │   ├── PeerUnavailableError    the other KME was not heard within its lease
    │   ├── StoreUnavailableError   the store does not answer
    │   └── InboxFullError          too many final keys wait to be paired
    └── IntegrityError              what must never happen did: fail closed, raise an alarm
        ├── SealError               sealed bytes do not open
        ├── PairingError            a proposal breaks the rules of pairing
        └── RollbackError           a KME shows an older state than one that was seen

Messages are fit for strangers: they say what to do and never hold key bytes.
What only the operator may see goes into `diagnostics`.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar


class KmeError(Exception):
    """Root of all errors that this system raises on purpose.

    Parameters
    ----------
    message
        What is wrong and what to do about it, fit for strangers.
    details
        Facts for the operator's log; never key material.
    """

    code: ClassVar[str] = "error"

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self._details = details

    def diagnostics(self) -> dict[str, object]:
        """Return what the operator should see beside the message."""
        return {"code": self.code, "message": self.message, **self._details}


class InputError(KmeError):
    """Something given to us is wrong."""

    code = "input"


class EpochFileError(InputError):
    """An epoch file or packet file breaks its format.

    Parameters
    ----------
    path
        The file, or the name of the stream.
    offset_bytes
        Where in the file the rule is broken.
    message
        The rule that is broken.
    """

    code = "epoch_file"

    def __init__(self, path: Path | str, offset_bytes: int, message: str) -> None:
        super().__init__(message, path=str(path), offset_bytes=offset_bytes)
        self.path = path
        self.offset_bytes = offset_bytes

    def __str__(self) -> str:
        return f"{self.path}: byte {self.offset_bytes}: {self.message}"


class SettingsError(InputError):
    """A setting is absent or wrong."""

    code = "settings"


class CredentialError(InputError):
    """A certificate or a key file cannot be used."""

    code = "credential"


class IdentifierError(InputError):
    """A text is not the identifier that it should be."""

    code = "identifier"


class StageError(KmeError):
    """A stage of the flow could not do its work.

    Parameters
    ----------
    stage
        The stage's name, as in the summary.
    message
        What was wrong, and what to try.
    """

    code = "stage"

    def __init__(self, stage: str, message: str) -> None:
        super().__init__(message, stage=stage)
        self.stage = stage

    def __str__(self) -> str:
        return f"{self.stage}: {self.message}"


class RefusedError(KmeError):
    """A caller asks for what it may not have."""

    code = "refused"


class IdentityError(RefusedError):
    """Who calls is absent or unclear."""

    code = "identity"


class HandshakeError(IdentityError):
    """One end of a TLS connection did not believe the other's certificate."""

    code = "handshake"


class NotEntitledError(RefusedError):
    """The key exists and belongs to somebody else."""

    code = "not_entitled"


class KeyNotFoundError(RefusedError):
    """There is no such key for this caller, or it was given out already."""

    code = "key_not_found"


class OverlapError(KeyNotFoundError):
    """Part of the key was given out under another id: refused, and an alarm."""

    code = "overlap"


class RequestError(RefusedError):
    """The request itself cannot be met.

    Parameters
    ----------
    message
        Which rule it breaks.
    """

    code = "request"


class RequestFieldError(RequestError):
    """Some members of a request cannot be met.

    Parameters
    ----------
    message
        Which rule they break.
    fields
        For each of them its name and what is wrong, fit for strangers.
    """

    code = "request_field"

    def __init__(self, message: str, fields: Sequence[Mapping[str, str]]) -> None:
        super().__init__(message, fields=fields)
        self.fields = tuple(fields)


class ConflictError(KmeError):
    """Somebody else wrote first, and this write surely did not happen: read again, then decide."""

    code = "conflict"


class UnavailableError(KmeError):
    """Not now; the same request may succeed later."""

    code = "unavailable"


class OutOfKeysError(UnavailableError):
    """Too few key bytes are in stock for this pair."""

    code = "out_of_keys"


class PeerUnavailableError(UnavailableError):
    """The other KME was not heard within its lease."""

    code = "peer_unavailable"


class StoreUnavailableError(UnavailableError):
    """The store does not answer."""

    code = "store_unavailable"


class InboxFullError(UnavailableError):
    """Too many final keys wait to be paired; more are taken in later."""

    code = "inbox_full"


class IntegrityError(KmeError):
    """What must never happen did: nothing is given out, and an alarm is due."""

    code = "integrity"


class SealError(IntegrityError):
    """Sealed bytes do not open under this master key."""

    code = "seal"


class PairingError(IntegrityError):
    """A proposal breaks the rules of pairing."""

    code = "pairing"


class RollbackError(IntegrityError):
    """A KME shows an older state than one that was seen before."""

    code = "rollback"
