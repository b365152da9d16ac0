"""options - what all stage programs share: reading options, and errors as one line."""

import argparse
import sys
from collections.abc import Callable

from kme.errors import KmeError
from kme.ids import Epoch


def epoch(text: str) -> Epoch:
    """Read an epoch as the C programs do: decimal, or hexadecimal behind ``0x``."""
    return Epoch(int(text, 0))


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
    except KmeError as error:
        print(f"{name}: {error}", file=sys.stderr)  # noqa: T201
        raise SystemExit(1) from error
    except BrokenPipeError:
        raise SystemExit(1) from None
    except OSError as error:
        print(f"{name}: {error.filename or 'file'}: {error.strerror}", file=sys.stderr)  # noqa: T201
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None
