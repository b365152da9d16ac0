"""start - a service of the appliance starts: settings checked, log set up, errors in one line."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from pydantic import ValidationError

from kme.appliance.settings import ServiceSettings
from kme.clock import pause
from kme.errors import KmeError, SettingsError
from kme.log import set_up_logging
from kme.runtime import run

_Settings = TypeVar("_Settings", bound=ServiceSettings)

ALIVE_INTERVAL_S: Final = 5.0
"""So often a service touches its file; a health check takes it for dead after three times that."""


def load(kind: type[_Settings]) -> _Settings:
    """Read a service's settings from the environment.

    Raises
    ------
    SettingsError
        If one is absent or wrong: each is named, with its rule.
    """
    values: dict[str, Any] = {}  # all of them stand in the environment
    try:
        return kind(**values)
    except ValidationError as error:
        faults = "; ".join(
            f"{_variable(fault['loc'])}: {fault['msg']}"
            for fault in error.errors(include_input=False, include_url=False)
        )
        raise SettingsError(f"{faults}; see .env.example") from error


def _variable(place: tuple[int | str, ...]) -> str:
    return "KME_" + "__".join(str(step) for step in place).upper()


@contextmanager
def one_line_errors(name: str) -> Iterator[None]:
    """Turn an error into one line on standard error and exit code 1."""
    try:
        yield
    except KmeError as error:
        sys.stderr.write(f"{name}: {error}\n")
        raise SystemExit(1) from error


def serve(
    name: str,
    kind: type[_Settings],
    work: Callable[[_Settings, asyncio.Event], Awaitable[None]],
) -> None:
    """Run a service in an event loop until it ends or a signal asks it to.

    Parameters
    ----------
    name
        What it is called in front of its last error.
    kind
        Its settings.
    work
        What it does with them; the event asks it to end.
    """
    with one_line_errors(name):
        settings = load(kind)
        set_up_logging(settings.log.level, settings.log.format)
        run(lambda stop: work(settings, stop))


async def stay_alive(path: Path, is_well: Callable[[], bool], stop: asyncio.Event) -> None:
    """Touch the file that a health check looks at, as long as the service is well.

    Raises
    ------
    SettingsError
        If the file cannot be written.
    """
    while not stop.is_set():
        try:
            if is_well():
                await asyncio.to_thread(path.touch)
        except OSError as error:
            raise SettingsError(f"{path}: cannot be written: {error.strerror}") from error
        await pause(stop, ALIVE_INTERVAL_S)
