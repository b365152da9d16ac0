"""steps - a list of steps in, each done once: is it done? if not, do it."""

import logging
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import hvac

from kme.bootstrap.access import asking

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Step:
    """One thing that must be so.

    Parameters
    ----------
    name
        What will be so once it is done.
    is_done
        Looks, and changes nothing.
    do
        Makes it so; killed anywhere within, the next run does it again.
    """

    name: str
    is_done: Callable[[], bool]
    do: Callable[[], None]


def run_steps(steps: Iterable[Step]) -> int:
    """Do what is not done yet, in order; return how many steps that were.

    Raises
    ------
    StoreUnavailableError, BootstrapError
        If Vault does not answer or refuses; the message names the step.
    """
    n_done = 0
    for step in steps:
        with asking(step.name):
            if step.is_done():
                _logger.debug("step_was_done", extra={"step": step.name})
                continue
            step.do()
        _logger.info("step_done", extra={"step": step.name})
        n_done += 1
    return n_done


def settled(client: hvac.Client, path: str, values: Mapping[str, object]) -> Step:
    """Return the step after which a path of Vault reads as these values.

    Parameters
    ----------
    client
        With a token that may read and write it.
    path
        The path, for instance ``pki-sae/roles/sae``.
    values
        In the form in which Vault answers: durations of roles in seconds.
        Members that are not named here are left alone or to Vault's default.
    """

    def is_done() -> bool:
        answer = client.read(path)
        return answer is not None and holds(answer["data"], values)

    def do() -> None:
        client.write_data(path, data=dict(values))

    return Step(f"{path} is as it should be", is_done, do)


def holds(found: Mapping[str, object], wanted: Mapping[str, object]) -> bool:
    """Return whether every member of `wanted` is there with the same value."""
    return all(name in found and found[name] == value for name, value in wanted.items())
