"""params - scenario files: source, channel, detectors, clock and run, every value with its unit."""

import dataclasses
import difflib
import math
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Final, NamedTuple, Self, TypeVar, get_args, get_type_hints

from qkd_sim.errors import ScenarioError

__all__ = ["Channel", "Clock", "Detectors", "Eavesdropper", "Run", "Scenario", "Side", "Source"]

SPEED_OF_LIGHT_M_PER_S: Final = 299_792_458.0
MAX_FILE_BYTES: Final = 1 << 20
"""A scenario is a page of text; what is larger isn't one."""


class _Range(NamedTuple):
    """Values that a field may take, ends included."""

    low: float
    high: float


_Probability = Annotated[float, _Range(0.0, 1.0)]


class _Table:
    """One table of a scenario file; its fields are checked whenever it is made."""

    def __post_init__(self) -> None:
        """Check every field against its annotated range.

        Raises
        ------
        ScenarioError
            If a value is out of range or not a finite number.
        """
        for name, hint in get_type_hints(type(self), include_extras=True).items():
            allowed = _allowed(hint)
            value = getattr(self, name)
            if allowed is None or value is None:
                continue
            low, high = allowed
            if not (math.isfinite(value) and low <= value <= high):
                raise ScenarioError(f"{name} is {value:g}, must be in {low:g}..{high:g}")


@dataclass(frozen=True, slots=True)
class Source(_Table):
    """Source of polarisation-entangled, anti-correlated photon pairs.

    Parameters
    ----------
    pair_rate_hz
        Mean number of pairs emitted per second.
    visibility_hv
        Visibility of the correlation in the basis H/V; the error rate there
        is ``(1 - visibility) / 2``.
    visibility_diagonal
        The same in the basis +/-.
    is_uniform
        Pairs at equal distances in time instead of a Poisson process.
    """

    pair_rate_hz: Annotated[float, _Range(1e-3, 1e9)]
    visibility_hv: _Probability = 1.0
    visibility_diagonal: _Probability = 1.0
    is_uniform: bool = False


@dataclass(frozen=True, slots=True)
class Channel(_Table):
    """Way of a photon from the source to one side's analyser.

    Parameters
    ----------
    loss_db
        Losses that don't depend on length: couplers, filters, connectors.
    transmission
        The same as a fraction of photons; give one of the two, not both.
    length_km
        Length of fibre.
    attenuation_db_per_km
        Attenuation of this fibre.
    group_index
        Group index of this fibre, for the delay.
    """

    loss_db: Annotated[float, _Range(0.0, 100.0)] | None = None
    transmission: Annotated[float, _Range(1e-10, 1.0)] | None = None
    length_km: Annotated[float, _Range(0.0, 1000.0)] = 0.0
    attenuation_db_per_km: Annotated[float, _Range(0.0, 100.0)] = 0.2
    group_index: Annotated[float, _Range(1.0, 5.0)] = 1.468

    def __post_init__(self) -> None:
        _Table.__post_init__(self)
        if self.loss_db is not None and self.transmission is not None:
            raise ScenarioError("loss_db and transmission say the same thing: give only one")

    @property
    def total_transmission(self) -> float:
        """Probability that a photon arrives."""
        fixed = 10 ** (-(self.loss_db or 0.0) / 10)
        if self.transmission is not None:
            fixed = self.transmission
        return fixed * 10 ** (-self.attenuation_db_per_km * self.length_km / 10)

    @property
    def delay_ns(self) -> float:
        """Time that a photon takes through the fibre, in nanoseconds."""
        return self.length_km * 1e12 * self.group_index / SPEED_OF_LIGHT_M_PER_S


@dataclass(frozen=True, slots=True)
class Detectors(_Table):
    """The four single-photon detectors of one side and its time tagger.

    Parameters
    ----------
    efficiency
        Probability that a photon that arrives makes a detector click.
    jitter_fwhm_ps
        Full width at half maximum of the Gaussian timing jitter.
    dark_rate_hz
        Clicks per second and detector without light.
    dead_time_ns
        After a click, the time in which the same detector stays blind.
    afterpulse_probability
        Probability that a click is followed by a spurious one.
    afterpulse_decay_ns
        Mean time between the end of the dead time and such a click.
    merge_window_ns
        Clicks of different detectors closer than this become one event with
        several bits in its pattern.
    """

    efficiency: _Probability = 1.0
    jitter_fwhm_ps: Annotated[float, _Range(0.0, 1e6)] = 0.0
    dark_rate_hz: Annotated[float, _Range(0.0, 1e8)] = 0.0
    dead_time_ns: Annotated[float, _Range(0.0, 1e9)] = 0.0
    afterpulse_probability: Annotated[float, _Range(0.0, 0.9)] = 0.0
    afterpulse_decay_ns: Annotated[float, _Range(0.0, 1e9)] = 100.0
    merge_window_ns: Annotated[float, _Range(0.0, 1e6)] = 0.0


@dataclass(frozen=True, slots=True)
class Clock(_Table):
    """Clock of the low-count side, as the high-count side's clock sees it.

    Parameters
    ----------
    offset_ns
        How far it is ahead at the start.
    drift_ppb
        How much faster it runs, in parts per 10^9.
    """

    offset_ns: Annotated[float, _Range(-1e10, 1e10)] = 0.0
    drift_ppb: Annotated[float, _Range(-1e6, 1e6)] = 0.0


@dataclass(frozen=True, slots=True)
class Eavesdropper(_Table):
    """Somebody who intercepts photons on their way to the low-count side and resends them.

    Parameters
    ----------
    intercepted_fraction
        Fraction of the photons that are measured in a random basis and
        replaced; a quarter of it becomes errors.
    """

    intercepted_fraction: _Probability = 0.0


@dataclass(frozen=True, slots=True)
class Run(_Table):
    """Extent of one simulation.

    Parameters
    ----------
    duration_s
        Simulated time.
    """

    duration_s: Annotated[float, _Range(1e-6, 1e7)]


@dataclass(frozen=True, slots=True)
class Side(_Table):
    """What lies between the source and one side's event file."""

    channel: Channel = field(default_factory=Channel)
    detectors: Detectors = field(default_factory=Detectors)

    @property
    def detection_probability(self) -> float:
        """Probability that a photon of a pair makes a click on this side (dead time aside)."""
        return self.channel.total_transmission * self.detectors.efficiency


@dataclass(frozen=True, slots=True)
class Scenario(_Table):
    """Everything that the event simulator needs to know, except seed and start time.

    Examples
    --------
    >>> scenario = Scenario(source=Source(pair_rate_hz=1e5), run=Run(duration_s=2.0))
    >>> scenario.hec.detection_probability
    1.0
    """

    source: Source
    run: Run
    hec: Side = field(default_factory=Side)
    lec: Side = field(default_factory=Side)
    clock: Clock = field(default_factory=Clock)
    eavesdropper: Eavesdropper = field(default_factory=Eavesdropper)

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a scenario file.

        Parameters
        ----------
        path
            A TOML file with the tables of this class and the names of their fields.

        Raises
        ------
        ScenarioError
            If the file cannot be read, is not TOML, or names an unknown table or
            field, a wrong unit, a wrong type, or a value out of range.
        """
        try:
            if path.stat().st_size > MAX_FILE_BYTES:
                raise ScenarioError(f"{path}: larger than {MAX_FILE_BYTES} bytes, no scenario")
            text = path.read_bytes().decode()
        except OSError as error:
            raise ScenarioError(f"{path}: cannot be read: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ScenarioError(f"{path}: byte {error.start}: not UTF-8 text") from error
        return cls.parse(text, str(path))

    @classmethod
    def parse(cls, text: str, name: str) -> Self:
        """Read a scenario from TOML text; `name` says in errors where it is from.

        Raises
        ------
        ScenarioError
            See `read`.
        """
        try:
            content = tomllib.loads(text)
        except (ValueError, RecursionError) as error:
            raise ScenarioError(f"{name}: not TOML: {error}") from error
        try:
            return _table(cls, content, "")
        except ScenarioError as error:
            raise ScenarioError(f"{name}: {error.message}") from error


_T = TypeVar("_T", bound=_Table)


def _allowed(hint: object) -> _Range | None:
    """Return the range in a field's annotation, also behind ``| None``."""
    for item in get_args(hint):
        found = item if isinstance(item, _Range) else _allowed(item)
        if found is not None:
            return found
    return None


def _table(kind: type[_T], content: dict[str, object], place: str) -> _T:
    """Make one table, and those inside it, from what TOML says."""
    hints = get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(kind)}  # type: ignore[arg-type]
    where = f"[{place}] " if place else ""
    values = {}
    for name, value in content.items():
        if name not in fields:
            shown = name if name.isidentifier() else repr(name[:40])
            raise ScenarioError(f"{where}{shown} is unknown{_suggestion(name, fields)}")
        values[name] = _value(hints[name], value, f"{place}.{name}" if place else name)
    for name, item in fields.items():
        has_default = (item.default, item.default_factory) != (dataclasses.MISSING,) * 2
        if name not in values and not has_default:
            raise ScenarioError(f"{where}{name} is missing")
    try:
        return kind(**values)
    except ScenarioError as error:
        raise ScenarioError(f"{where}{error.message}") from error


def _value(hint: object, value: object, place: str) -> object:
    """Check one value's type; a whole number is a fine float, a truth value is no number."""
    if isinstance(hint, type) and issubclass(hint, _Table):
        if not isinstance(value, dict):
            raise ScenarioError(f"{place} must be a table, as in [{place}]")
        return _table(hint, value, place)
    if hint is bool:
        if not isinstance(value, bool):
            raise ScenarioError(f"{place} must be true or false")
        return value
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ScenarioError(f"{place} must be a number")
    try:
        return float(value)
    except OverflowError as error:
        raise ScenarioError(f"{place} is too large a number") from error


def _suggestion(name: str, known: dict[str, dataclasses.Field[object]]) -> str:
    """Return the field that was meant: the same quantity in another unit, or a similar name."""
    stem = name.rpartition("_")[0]
    same_quantity = [other for other in known if stem and other.rpartition("_")[0] == stem]
    similar = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    for other in (*same_quantity, *similar):
        return f" (did you mean {other}?)"
    return f" (known here: {', '.join(known)})"
