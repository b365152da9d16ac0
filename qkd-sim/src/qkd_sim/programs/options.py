"""options - what all stage programs share: reading options, and errors as one line."""

import argparse
import os
import sys
from collections.abc import Callable

from kme.errors import IdentifierError, KmeError
from kme.ids import Epoch


def epoch(text: str) -> Epoch:
    """Read an epoch as the C programs do: decimal, or hexadecimal behind ``0x``.

    Raises
    ------
    argparse.ArgumentTypeError
        If it is no number, or too large for an epoch.
    """
    try:
        return Epoch(int(text, 0))
    except (ValueError, IdentifierError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is not an epoch: a number below 2^32, hexadecimal behind 0x"
        ) from None


def integer(lowest: int, highest: int | None = None) -> Callable[[str], int]:
    """Return a reader of whole numbers within limits; hexadecimal ones behind ``0x``.

    Parameters
    ----------
    lowest, highest
        The limits, both allowed themselves; None for no upper one.
    """
    limits = f"{lowest} or more" if highest is None else f"{lowest}..{highest}"

    def read(text: str) -> int:
        try:
            value = int(text, 0)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if value < lowest or (highest is not None and value > highest):
            raise argparse.ArgumentTypeError(f"{value} is not {limits}")
        return value

    return read


def parser(name: str, translation: str) -> argparse.ArgumentParser:
    """Make a program's option parser.

    Parameters
    ----------
    name
        The program's name, as in the C chain.
    translation
        What it does, in one line.
    """
    return argparse.ArgumentParser(
        prog=name,
        description=translation,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def run(name: str, work: Callable[[], None]) -> None:
    """Run a program's work; what a user can cause ends in one line and exit code 1."""
    try:
        work()
        sys.stdout.flush()
    except KmeError as error:
        print(f"{name}: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(1) from error
    except BrokenPipeError:
        # nobody reads any more; what is still buffered must not fail again at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(1) from None
    except OSError as error:
        print(f"{name}: {error.filename or 'file'}: {error.strerror}", file=sys.stderr)  # noqa: T201
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None
