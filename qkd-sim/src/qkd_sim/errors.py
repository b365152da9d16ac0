"""errors - what can go wrong in the simulated link, as branches of kme's tree."""

from kme.errors import EpochFileError, InputError, KmeError, StageError

__all__ = [
    "BlockRefusedError",
    "ChannelError",
    "EpochFileError",
    "EventOrderError",
    "InputError",
    "KeyLengthError",
    "OffsetNotFoundError",
    "ScenarioError",
    "StageError",
    "StoppedError",
]


class ScenarioError(InputError):
    """A scenario file names an unknown parameter, a wrong unit or a value out of range."""

    code = "scenario"


class EventOrderError(EpochFileError):
    """Events run backwards in time or jump too far, more often than is tolerated."""

    code = "event_order"


class OffsetNotFoundError(InputError):
    """No significant peak: the two streams share no coincidences at any offset searched."""

    code = "offset_not_found"


class ChannelError(InputError):
    """The classical channel broke off, or the peer says what the protocol doesn't allow."""

    code = "channel"


class BlockRefusedError(InputError):
    """A block of sifted key yields no final key: too many errors, or too short."""

    code = "block_refused"


class KeyLengthError(InputError):
    """A key, a seed or a requested length doesn't fit the others."""

    code = "key_length"


class StoppedError(KmeError):
    """Somebody asked the link to stop in the middle of its work."""

    code = "stopped"
