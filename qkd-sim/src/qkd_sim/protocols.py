"""protocols - what a detector pattern says, what is told about it, and what becomes key.

One table for all stages. Detectors are named by the bits of the pattern: 1 is
V, 2 is "-", 4 is H, 8 is "+"; patterns 3 and 6 are the two diagonals between
them where six detectors share four lines. The pair of photons is taken as
anti-correlated: the partner of 1, 2, 4, 8 is 4, 8, 1, 2.

=======  =================  ==================================================
number   name               the chopper tells / keeps; key
=======  =================  ==================================================
0        service            everything / everything; both patterns
1        BB84               basis / bit; bit where the bases agree
2        rich BB84          basis or flaw / bit or flaw; cannot be sifted
3        six detectors      Bell or key event / pattern; cannot be sifted
4        four detectors     single click or not / pattern; bit, or a Bell test
5        BC                 nothing / basis and bit; both, unsifted
=======  =================  ==================================================
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from kme.errors import InputError

N_PATTERNS: Final = 16
PATTERN_MASK: Final = N_PATTERNS - 1
"""The lowest four bits of an event; the others are not about detectors."""

SERVICE: Final = 0
BB84: Final = 1

_SINGLE_CLICKS: Final = (1, 2, 4, 8)


def _table(
    values: Mapping[int, int], size: int = N_PATTERNS, default: int = 0
) -> NDArray[np.uint8]:
    """Return a read-only table with these values and a default everywhere else."""
    table = np.full(size, default, np.uint8)
    for index, value in values.items():
        table[index] = value
    table.flags.writeable = False
    return table


@dataclass(frozen=True, eq=False)
class Decision:
    """What becomes of a coincidence, by what is known about it on one side.

    Each table is read at ``own | other << own_bits``: `own` is this side's
    detector pattern (costream) or type-3 entry (splicer), `other` what came
    from the other side with type 2 or type 4.

    Parameters
    ----------
    own_bits, other_bits
        How many bits of each make up an index.
    is_key, is_test : (2**(own_bits + other_bits),) ndarray of bool
        Whether the coincidence gives key, or a test event of the Bell
        inequality; neither means that it is dropped. Never both.
    value : same shape, ndarray of uint8
        The key entry or the test entry.
    answer : same shape, ndarray of uint8
        What type 4 says about it (costream only).
    """

    own_bits: int
    other_bits: int
    is_key: NDArray[np.bool_]
    is_test: NDArray[np.bool_]
    value: NDArray[np.uint8]
    answer: NDArray[np.uint8]

    def index(self, own: NDArray[np.uint8], other: NDArray[np.uint8]) -> NDArray[np.intp]:
        """Return where to look for coincidences of these patterns.

        Parameters
        ----------
        own, other : (n,) ndarray of uint8
            What this side has and what the other side told, bits above
            `own_bits` and `other_bits` zero.

        Returns
        -------
        (n,) ndarray of intp
            Indices into the tables.
        """
        return own.astype(np.intp) | other.astype(np.intp) << self.own_bits


@dataclass(frozen=True, slots=True)
class _Outcome:
    """One line of a decision: this combination gives that."""

    own: int
    other: int
    value: int
    answer: int = 0
    is_test: bool = False


def _decision(own_bits: int, other_bits: int, outcomes: Iterator[_Outcome]) -> Decision:
    """Fill a decision's tables; what isn't named is dropped."""
    size = 1 << own_bits + other_bits
    lines = {line.own | line.other << own_bits: line for line in outcomes}
    return Decision(
        own_bits,
        other_bits,
        _table({at: not line.is_test for at, line in lines.items()}, size).astype(np.bool_),
        _table({at: line.is_test for at, line in lines.items()}, size).astype(np.bool_),
        _table({at: line.value for at, line in lines.items()}, size),
        _table({at: line.answer for at, line in lines.items()}, size),
    )


@dataclass(frozen=True, eq=False)
class Sifting:
    """How coincidences become key on both sides.

    Parameters
    ----------
    key_bits
        Bits of a key entry (type 3).
    answer_bits
        Bits of data beside each index in type 4.
    high, low
        What the high-count side (costream: own pattern, told basis) and the
        low-count side (splicer: kept result, told answer) make of one.
    high_test_bits, low_test_bits
        Bits of a test entry on either side; 0 if there are none.
    """

    key_bits: int
    answer_bits: int
    high: Decision
    low: Decision
    high_test_bits: int = 0
    low_test_bits: int = 0


@dataclass(frozen=True, eq=False)
class Protocol:
    """One row of the table above.

    Parameters
    ----------
    number, name
        How it is called.
    basis_bits, result_bits
        Bits per event that the chopper tells (type 2) and keeps (type 3).
    bases, results : (16,) ndarray of uint8
        What it tells and keeps, by detector pattern.
    n_detectors
        How many detectors the low-count side has, for counting.
    sifting
        How coincidences become key, or None if nobody ever defined it.
    """

    number: int
    name: str
    basis_bits: int
    bases: NDArray[np.uint8]
    result_bits: int
    results: NDArray[np.uint8]
    n_detectors: int = 4
    sifting: Sifting | None = None


_EVERYTHING: Final = _table({pattern: pattern for pattern in range(N_PATTERNS)})
_BC_RESULTS: Final = _table({1: 0, 2: 2, 4: 1, 8: 3})


def _service() -> Sifting:
    """Keep both patterns on both sides: the low side's in the upper half."""
    pairs = [(high, low) for high in range(N_PATTERNS) for low in range(N_PATTERNS)]
    return Sifting(
        key_bits=8,
        answer_bits=4,
        high=_decision(4, 4, (_Outcome(h, b, b << 4 | h, answer=h) for h, b in pairs)),
        low=_decision(4, 4, (_Outcome(b, h, b << 4 | h) for h, b in pairs)),
    )


def _bb84() -> Sifting:
    """Keep single clicks of the high side in the basis that the low side names."""
    of_basis = ((1, 0, 1), (4, 0, 0), (2, 1, 1), (8, 1, 0))
    return Sifting(
        key_bits=1,
        answer_bits=0,
        high=_decision(4, 1, (_Outcome(own, basis, bit) for own, basis, bit in of_basis)),
        low=_decision(1, 0, (_Outcome(bit, 0, bit) for bit in range(2))),
    )


def _four_detectors() -> Sifting:
    """Keep diagonals as key and single clicks as Bell tests."""
    is_key = 4  # the answer that isn't a detector's number

    def high() -> Iterator[_Outcome]:
        for number, pattern in enumerate(_SINGLE_CLICKS):
            yield _Outcome(pattern, 1, number, answer=number, is_test=True)
        yield _Outcome(3, 1, 0, answer=is_key)
        yield _Outcome(6, 1, 1, answer=is_key)

    def low() -> Iterator[_Outcome]:
        for number, pattern in enumerate(_SINGLE_CLICKS):
            for remote in range(4):
                yield _Outcome(pattern, remote, number << 2 | remote, is_test=True)
        yield _Outcome(2, is_key, 0)
        yield _Outcome(1, is_key, 1)

    return Sifting(
        key_bits=1,
        answer_bits=3,
        high=_decision(4, 1, high()),
        low=_decision(4, 3, low()),
        high_test_bits=2,
        low_test_bits=4,
    )


def _bc() -> Sifting:
    """Keep every single click of the high side, whatever the basis."""
    return Sifting(
        key_bits=2,
        answer_bits=0,
        high=_decision(4, 0, (_Outcome(p, 0, int(_BC_RESULTS[p])) for p in _SINGLE_CLICKS)),
        low=_decision(2, 0, (_Outcome(result, 0, result) for result in range(4))),
    )


PROTOCOLS: Final[tuple[Protocol, ...]] = (
    Protocol(0, "service", 4, _EVERYTHING, 4, _EVERYTHING, sifting=_service()),
    Protocol(1, "BB84", 1, _table({2: 1, 8: 1}), 1, _table({4: 1, 8: 1}), sifting=_bb84()),
    Protocol(
        2,
        "rich BB84",
        2,
        _table(dict(enumerate((3, 0, 1, 2, 0, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 3)))),
        2,
        _table(dict(enumerate((3, 0, 0, 2, 1, 2, 2, 3, 1, 2, 2, 3, 2, 3, 3, 3)))),
    ),
    Protocol(
        3,
        "six detectors",
        3,
        _table({1: 0, 2: 1, 4: 2, 8: 3, 3: 4, 6: 4}, default=5),
        4,
        _EVERYTHING,
        n_detectors=6,
    ),
    Protocol(
        4,
        "four detectors",
        1,
        _table(dict.fromkeys(_SINGLE_CLICKS, 1)),
        4,
        _EVERYTHING,
        sifting=_four_detectors(),
    ),
    Protocol(5, "BC", 0, _table({}), 2, _BC_RESULTS, sifting=_bc()),
)


def protocol(number: int) -> Protocol:
    """Return the protocol of this number.

    Raises
    ------
    InputError
        If there is none.
    """
    if not 0 <= number < len(PROTOCOLS):
        raise InputError(f"there is no protocol {number}; there are 0 to {len(PROTOCOLS) - 1}")
    return PROTOCOLS[number]


def sifting(number: int) -> tuple[Protocol, Sifting]:
    """Return a protocol that makes key, and how.

    Raises
    ------
    InputError
        If there is no such protocol, or it makes none.
    """
    found = protocol(number)
    if found.sifting is None:
        makes_key = ", ".join(str(row.number) for row in PROTOCOLS if row.sifting)
        raise InputError(
            f"protocol {number} ({found.name}) defines no sifting; use one of {makes_key}"
        )
    return found, found.sifting
