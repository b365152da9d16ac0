"""qkd_sim.scenarios: the scenario files that come along are there and can be read."""

import pytest

from qkd_sim.params import Scenario
from qkd_sim.scenarios import FOLDER, LAB


@pytest.mark.parametrize("name", ["lab", "metro-25km", "intercept-resend"])
def test_a_scenario_that_comes_along_is_read(name: str) -> None:
    scenario = Scenario.read(FOLDER / f"{name}.toml")
    assert scenario.clock.offset_ns != 0
    assert (scenario.eavesdropper.intercepted_fraction > 0) == (name == "intercept-resend")


def test_the_laboratory_has_an_offset_of_several_microseconds_and_three_per_cent_errors() -> None:
    scenario = Scenario.read(LAB)
    assert 2_000 < abs(scenario.clock.offset_ns) < 50_000
    source = scenario.source
    assert 0.02 < 0.5 - (source.visibility_hv + source.visibility_diagonal) / 4 < 0.035
