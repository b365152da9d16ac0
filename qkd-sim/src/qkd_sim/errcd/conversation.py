"""conversation - messages over a channel: what is due, what is not, and refusals."""

from typing import NoReturn, TypeVar, overload

from qkd_sim.errcd.channel import Channel
from qkd_sim.errcd.messages import Message, Reason, Refusal, unpack
from qkd_sim.errors import BlockRefusedError, ChannelError

_First = TypeVar("_First", bound=Message)
_Second = TypeVar("_Second", bound=Message)


class Conversation:
    """One party's half of the talk about blocks.

    Parameters
    ----------
    channel
        Carries the messages.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def say(self, message: Message) -> None:
        """Send a message.

        Raises
        ------
        ChannelError
            If the channel broke off.
        """
        self._channel.send(message.pack())

    @overload
    def hear(self, due: type[_First], /) -> _First: ...
    @overload
    def hear(self, due: type[_First], other: type[_Second], /) -> _First | _Second: ...
    @overload
    def hear(self, *due: type[Message]) -> Message: ...
    def hear(self, *due: type[Message]) -> Message:
        """Wait for one of the messages that are due now.

        Raises
        ------
        BlockRefusedError
            If the peer refuses the block.
        ChannelError
            If anything else comes, or nothing.
        """
        message = unpack(self._channel.receive())
        if isinstance(message, due):
            return message
        if isinstance(message, Refusal):
            raise BlockRefusedError(f"the peer refuses the block: {Reason(message.reason).text}")
        names = " or ".join(kind.__name__ for kind in due)
        raise ChannelError(f"the peer says {type(message).__name__} where {names} is due")

    def refuse(self, reason: Reason) -> NoReturn:
        """Say that this block yields no key, and end it.

        Raises
        ------
        BlockRefusedError
            Always.
        """
        self.say(Refusal(reason))
        raise BlockRefusedError(reason.text)
