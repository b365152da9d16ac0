import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qkd_sim.errors import ScenarioError
from qkd_sim.params import Channel, Clock, Detectors, Run, Scenario, Side, Source

SCENARIOS = Path(__file__).parents[2] / "qkd-sim" / "scenarios"
LEAST = "[source]\npair_rate_hz = 1e5\n[run]\nduration_s = 2\n"


def test_a_scenario_says_everything_and_the_rest_is_ideal() -> None:
    scenario = Scenario.parse(LEAST, "text")
    assert scenario == Scenario(Source(1e5), Run(2.0))
    assert scenario.hec == Side(Channel(), Detectors())
    assert scenario.lec.detection_probability == 1.0
    assert scenario.clock == Clock(0.0, 0.0)


def test_every_table_is_read() -> None:
    text = LEAST + (
        "[lec.channel]\nlength_km = 25\nattenuation_db_per_km = 0.4\ntransmission = 0.5\n"
        "[lec.detectors]\nefficiency = 0.25\ndead_time_ns = 10000\n"
        "[clock]\noffset_ns = -12.5\ndrift_ppb = 3\n"
        "[eavesdropper]\nintercepted_fraction = 0.5\n"
    )
    scenario = Scenario.parse(text, "text")
    assert scenario.lec.channel.total_transmission == pytest.approx(0.5 * 10**-1)
    assert scenario.lec.detection_probability == pytest.approx(0.0125)
    assert scenario.lec.detectors.dead_time_ns == 10000.0
    assert scenario.clock == Clock(-12.5, 3.0)
    assert scenario.eavesdropper.intercepted_fraction == 0.5


def test_a_loss_in_decibels_is_a_transmission() -> None:
    assert Channel(loss_db=3.0).total_transmission == pytest.approx(0.501187, rel=1e-6)
    assert Channel(loss_db=10.0, length_km=50.0).total_transmission == pytest.approx(0.01)


def test_light_takes_five_microseconds_a_kilometre() -> None:
    assert Channel(length_km=25.0).delay_ns == pytest.approx(25e3 * 1.468 / 299792458 * 1e9)
    assert Channel(length_km=1.0, group_index=1.0).delay_ns == pytest.approx(3335.64, abs=0.01)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[source]\npair_rate_khz = 3",
            ("[source] pair_rate_khz is unknown (did you mean pair_rate_hz?)"),
        ),
        (
            "[source]\nvisibilty_hv = 1",
            ("[source] visibilty_hv is unknown (did you mean visibility_hv?)"),
        ),
        (
            LEAST + "[clock]\noffset_us = 3",
            "[clock] offset_us is unknown (did you mean offset_ns?)",
        ),
        (
            LEAST + "[lec.detectors]\ndead_time_us = 3",
            ("[lec.detectors] dead_time_us is unknown (did you mean dead_time_ns?)"),
        ),
        (LEAST + "[clok]\noffset_ns = 3", "clok is unknown (did you mean clock?)"),
        (LEAST + "[clock]\nxyz = 3", "[clock] xyz is unknown (known here: offset_ns, drift_ppb)"),
        ('"a\\nb" = 1', "'a\\nb' is unknown"),
        ("[run]\nduration_s = 1", "source is missing"),
        ("[run]\n[source]\npair_rate_hz = 1", "[run] duration_s is missing"),
        ("source = 3", "source must be a table, as in [source]"),
        ("[source]\npair_rate_hz = '1e5'", "source.pair_rate_hz must be a number"),
        ("[source]\npair_rate_hz = true", "source.pair_rate_hz must be a number"),
        ("[source]\npair_rate_hz = 1\nis_uniform = 1", "source.is_uniform must be true or false"),
        ("[source]\npair_rate_hz = 1" + "0" * 400, "source.pair_rate_hz is too large a number"),
        (
            "[source]\npair_rate_hz = 1e10",
            "[source] pair_rate_hz is 1e+10, must be in 0.001..1e+09",
        ),
        ("[source]\npair_rate_hz = nan", "[source] pair_rate_hz is nan, must be in 0.001..1e+09"),
        (LEAST + "[hec.channel]\nloss_db = -1", "[hec.channel] loss_db is -1, must be in 0..100"),
        (LEAST + "[hec.channel]\nloss_db = inf", "[hec.channel] loss_db is inf, must be in 0..100"),
        (
            LEAST + "[hec.channel]\nloss_db = 1\ntransmission = 1",
            ("[hec.channel] loss_db and transmission say the same thing: give only one"),
        ),
        ("[source", "not TOML: "),
        ("a = " + "[" * 5000, "not TOML: "),
    ],
)
def test_a_wrong_scenario_is_refused_with_file_and_field(text: str, message: str) -> None:
    with pytest.raises(ScenarioError) as caught:
        Scenario.parse(text, "x.toml")
    assert str(caught.value).startswith(f"x.toml: {message}")
    assert "\n" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"gone.toml: cannot be read: No such file"):
        Scenario.read(tmp_path / "gone.toml")
    with pytest.raises(ScenarioError, match="cannot be read: Is a directory"):
        Scenario.read(tmp_path)
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"ab\xff")
    with pytest.raises(ScenarioError, match=r"binary.toml: byte 2: not UTF-8 text"):
        Scenario.read(binary)
    binary.write_bytes(b"#" * ((1 << 20) + 1))
    with pytest.raises(ScenarioError, match="larger than 1048576 bytes"):
        Scenario.read(binary)


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=200))
def test_no_text_makes_anything_but_a_scenario_or_an_error(text: str) -> None:
    try:
        scenario = Scenario.parse(text, "text")
    except ScenarioError as error:
        assert str(error).startswith("text: ")  # noqa: PT017 - either outcome is right
    else:
        assert math.isfinite(scenario.source.pair_rate_hz)


@pytest.mark.parametrize("name", ["lab", "metro-25km", "intercept-resend"])
def test_the_scenarios_that_come_with_it_can_be_read(name: str) -> None:
    path = SCENARIOS / f"{name}.toml"
    scenario = Scenario.read(path)
    assert 1e-3 < scenario.lec.detection_probability < scenario.hec.detection_probability < 1
    assert abs(scenario.clock.offset_ns) > 1000
    stated = [line for line in path.read_text().splitlines() if " = " in line]
    first = dict.fromkeys(line.split(" = ")[0] for line in stated)
    explained = {line.split(" = ")[0] for line in stated if "#" in line}
    assert explained == set(first), "every parameter is explained where it stands first"
