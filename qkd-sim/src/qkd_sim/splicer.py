"""splicer - low-count side: type-3 results and type-4 indices to sifted key."""

from dataclasses import dataclass

import numpy as np

from kme.errors import InputError
from qkd_sim.packets import Type3, Type4
from qkd_sim.protocols import sifting


@dataclass(frozen=True, slots=True)
class Spliced:
    """What comes of one epoch.

    Parameters
    ----------
    key
        The sifted key.
    tests
        Events of the Bell test, in the protocols that have one.
    """

    key: Type3
    tests: Type3 | None


def splice(results: Type3, kept: Type4, protocol: int) -> Spliced:
    """Pick the results that the other side kept.

    Parameters
    ----------
    results
        What this side kept of the epoch's events.
    kept
        Which of them the other side kept too, and what it says about them.
    protocol
        Number of the protocol, see `qkd_sim.protocols`.

    Returns
    -------
    Spliced
        As many entries of key as there are indices, less those that the
        protocol uses for tests or drops; the epoch is counted as in `kept`.

    Raises
    ------
    InputError
        If the packets are of different epochs or another protocol, or an index
        points behind the results.
    """
    rules, sift = sifting(protocol)
    epoch = kept.epoch
    if results.epoch != epoch:
        raise InputError(f"type 3 is of epoch {results.epoch}, type 4 of epoch {epoch}")
    if results.bits_per_entry != rules.result_bits or kept.base_bits != sift.answer_bits:
        raise InputError(
            f"epoch {epoch}: {results.bits_per_entry} bits per result and {kept.base_bits} per"
            f" index; protocol {protocol} has {rules.result_bits} and {sift.answer_bits}"
        )
    n_results = int(results.values.size)
    if kept.indices.size and int(kept.indices[-1]) >= n_results:
        at = int(np.argmax(kept.indices >= n_results))
        raise InputError(
            f"epoch {epoch}: type-4 entry {at} has index {int(kept.indices[at])},"
            f" but there are {n_results} type-3 entries"
        )
    decision = sift.low
    at_table = decision.index(results.values[kept.indices], kept.data)
    values = decision.value[at_table]
    key = Type3(epoch, values[decision.is_key[at_table]], sift.key_bits, kept.is_universal)
    if not sift.low_test_bits:
        return Spliced(key, None)
    tests = values[decision.is_test[at_table]]
    return Spliced(key, Type3(epoch, tests, sift.low_test_bits, kept.is_universal))


def log_line(spliced: Spliced, verbosity: int) -> str:
    """Describe an epoch as the C program's ``-V`` does.

    Parameters
    ----------
    spliced
        The epoch.
    verbosity
        0: epoch; 1: and number of key entries; 2: in words.
    """
    epoch, n_entries = spliced.key.epoch, int(spliced.key.values.size)
    if verbosity == 0:
        return f"{epoch}"
    if verbosity == 1:
        return f"{epoch}\t{n_entries}"
    return f"epoch: {epoch}, final events: {n_entries}"
