"""daemon - commands and offers in, final key files out: one side of errcd, block after block.

Whoever is given a command for a block is Alice for it; whoever is offered one
is Bob.
"""

import logging
import select
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from kme.epochs.finalkey import FinalKeyFile, write_final_key
from kme.files import set_aside
from kme.ids import Epoch
from qkd_sim.errcd.assemble import SiftedBlock, raw_key_paths, read_block
from qkd_sim.errcd.channel import FramedChannel
from qkd_sim.errcd.commands import Command, CommandSource, parse_command
from qkd_sim.errcd.randomness import Randomness
from qkd_sim.errcd.report import (
    Notifier,
    as_json,
    notification,
    refusal_as_json,
    refusal_notification,
)
from qkd_sim.errcd.result import FinishedBlock
from qkd_sim.errcd.session import Session
from qkd_sim.errcd.terms import Conduct, Terms
from qkd_sim.errors import BlockRefusedError, ChannelError, EpochFileError, InputError

_logger = logging.getLogger(__name__)

DIE_ON_ANY_ERROR: Final = 0
"""Tolerance: what is wrong with a command or its raw keys ends the program."""


@dataclass(frozen=True)
class Duties:
    """What one side reads, writes and forgives.

    Parameters
    ----------
    raw_keys, final_keys
        Folders of type-3 files to read and of type-7 files to write.
    notifier
        Is told of every block.
    line_format
        In which format.
    is_raw_deleted
        Remove the raw keys of a block once its final key is written.
    tolerance
        `DIE_ON_ANY_ERROR`, or greater to go on with the next block.
    """

    raw_keys: Path
    final_keys: Path
    notifier: Notifier | None = None
    line_format: int = 0
    is_raw_deleted: bool = False
    tolerance: int = DIE_ON_ANY_ERROR


@dataclass(frozen=True)
class Rules:
    """How blocks are worked on.

    Parameters
    ----------
    terms
        What both sides agreed on.
    conduct
        What this side chooses.
    randomness
        Gives each block, by its start epoch, its source of randomness.
    """

    terms: Terms
    conduct: Conduct
    randomness: Callable[[Epoch], Randomness]


@dataclass
class Daemon:
    """One side of errcd at work.

    Parameters
    ----------
    channel
        The way to the other side.
    duties
        What to read, write and forgive.
    rules
        How blocks are worked on.

    Attributes
    ----------
    blocks
        The figures of all blocks so far, in JSON's words.
    n_keys
        How many of them gave a key.
    """

    channel: FramedChannel
    duties: Duties
    rules: Rules
    blocks: list[dict[str, object]] = field(default_factory=list)
    n_keys: int = 0

    def offer_all(self, commands: list[Command]) -> None:
        """Work on these blocks as Alice, then say goodbye.

        Raises
        ------
        InputError
            If the channel fails, or what `tolerance` doesn't forgive.
        """
        for command in commands:
            self._offer(command)
        self._session(Epoch(0)).say_goodbye()

    def accept_all(self) -> None:
        """Work on what is offered as Bob, until the other side says goodbye.

        Raises
        ------
        InputError
            If the channel fails, or what `tolerance` doesn't forgive.
        """
        while self._accept():
            pass

    def serve(self, source: CommandSource, descriptor: int) -> None:
        """Work on commands as Alice and on offers as Bob, until either ends.

        Parameters
        ----------
        source
            Commands.
        descriptor
            Becomes readable when the other side speaks.

        Raises
        ------
        InputError
            If the channel fails, or what `tolerance` doesn't forgive.
        """
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        poll.register(source.descriptor, select.POLLIN)
        while True:
            while (line := source.next_line()) is not None:
                self._obey(line)
            if source.is_at_end:
                self._session(Epoch(0)).say_goodbye()
                return
            ready = {ready for ready, _ in poll.poll()}
            if (self.channel.has_arrivals or descriptor in ready) and not self._accept():
                return

    def _obey(self, line: str) -> None:
        if not line:
            return
        try:
            command = parse_command(line)
        except InputError as error:
            self._forgive(error)
        else:
            self._offer(command)

    def _offer(self, command: Command) -> None:
        try:
            block = read_block(self.duties.raw_keys, command.start_epoch, command.n_epochs)
        except InputError as error:
            self._forgive(error)
            return
        conduct = self.rules.conduct
        if command.expected_qber is not None:
            conduct = replace(conduct, expected_qber=command.expected_qber)
        session = self._session(command.start_epoch, conduct)
        self._conclude(lambda: session.offer(block))

    def _accept(self) -> bool:
        """Work on the next offer; return False if it is a goodbye."""
        timeout_s, self.channel.timeout_s = self.channel.timeout_s, None

        def load(start_epoch: Epoch, n_epochs: int) -> SiftedBlock:
            self.channel.timeout_s = timeout_s
            return read_block(self.duties.raw_keys, start_epoch, n_epochs)

        session = self._session(Epoch(0))
        try:
            return self._conclude(lambda: session.accept(load))
        finally:
            self.channel.timeout_s = timeout_s

    def _conclude(self, work: Callable[[], FinishedBlock | None]) -> bool:
        """Do a block's work and write what it gives; return False if there was none."""
        try:
            finished = work()
        except ChannelError:
            raise
        except BlockRefusedError as error:
            self._tell_refusal(error)
            return True
        except InputError as error:
            self._forgive(error)
            return True
        if finished is None:
            return False
        self._keep(finished)
        return True

    def _keep(self, finished: FinishedBlock) -> None:
        result = finished.result
        final = FinalKeyFile(result.start_epoch, result.n_epochs, result.final_bits, finished.key)
        write_final_key(self.duties.final_keys, final)
        self.n_keys += 1
        self.blocks.append(as_json(result))
        if self.duties.is_raw_deleted:
            for path in raw_key_paths(self.duties.raw_keys, result.start_epoch, result.n_epochs):
                path.unlink(missing_ok=True)
        self._notify(notification(result, self.duties.line_format))

    def _tell_refusal(self, error: BlockRefusedError) -> None:
        _logger.warning("block refused: %s", error)
        self.blocks.append(refusal_as_json(error))
        self._notify(refusal_notification(error, self.duties.line_format))

    def _forgive(self, error: InputError) -> None:
        """Go on after what is wrong with one block, if that is tolerated."""
        if isinstance(error, EpochFileError) and Path(error.path).is_file():
            set_aside(Path(error.path))
        if self.duties.tolerance == DIE_ON_ANY_ERROR:
            raise error
        _logger.warning("%s", error)

    def _notify(self, line: str | None) -> None:
        if self.duties.notifier and line is not None:
            self.duties.notifier.write(line)

    def _session(self, start_epoch: Epoch, conduct: Conduct | None = None) -> Session:
        return Session(
            self.channel,
            self.rules.randomness(start_epoch),
            self.rules.terms,
            conduct or self.rules.conduct,
        )
