"""The stages from the source to sifted keys at both sides, one after another."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from photon_chain import chopped
from program_runs import run
from qkd_sim.costream import CostreamSettings, sift
from qkd_sim.errors import OffsetNotFoundError
from qkd_sim.esim import simulate
from qkd_sim.packets import Type3
from qkd_sim.params import Eavesdropper, Run, Scenario, Source
from qkd_sim.pfind import ClockOffset, find_offset
from qkd_sim.programs import chopper, chopper2, costream, esim, pfind, splicer
from qkd_sim.sifted import Summary
from qkd_sim.splicer import splice

SCENARIOS = Path(__file__).parents[2] / "qkd-sim" / "scenarios"
START_NS = 1587318692304817123
EPOCH_TICKS = 1 << 32


class Sifted:
    """Both sides' keys of a scenario, and what the stages found on the way."""

    def __init__(self, scenario: Scenario, seed: int, tracking_constant: int = -200_000) -> None:
        packets = chopped(*simulate(scenario, START_NS, seed))
        self.offset: ClockOffset = find_offset(packets.hec[:4], packets.lec[:4])
        settings = CostreamSettings(
            offset_ticks=self.offset.offset_ticks,
            window_ticks=16,
            tracking_window_ticks=30,
            tracking_constant=tracking_constant,
            width_filter=5,
        )
        self.summary = Summary()
        hec_parts: list[NDArray[np.uint8]] = []
        lec_parts: list[NDArray[np.uint8]] = []
        sifted = sift(packets.hec, packets.lec, settings)
        for epoch, results in zip(sifted, packets.results, strict=True):
            self.summary.add(epoch)
            hec_parts.append(epoch.key.values)
            lec_parts.append(splice(results, epoch.indices, 1).key.values)
            assert hec_parts[-1].size == lec_parts[-1].size
        self.hec, self.lec = np.concatenate(hec_parts), np.concatenate(lec_parts)

    @property
    def qber(self) -> float:
        """Fraction of the keys' bits that differ."""
        return float(np.mean(self.hec != self.lec))


def lab(duration_s: float = 1.3) -> Scenario:
    """Return the laboratory, but shorter."""
    return replace(Scenario.read(SCENARIOS / "lab.toml"), run=Run(duration_s))


def true_offset_ticks(scenario: Scenario) -> float:
    """Return the clocks' offset when the run begins."""
    return (scenario.clock.offset_ns + scenario.lec.channel.delay_ns) * 8


def expected_qber(scenario: Scenario, summary: Summary) -> float:
    """Return the QBER of source and eavesdropper, with the accidentals that were measured."""
    source, eve = scenario.source, scenario.eavesdropper.intercepted_fraction
    error = 0.5 - (source.visibility_hv + source.visibility_diagonal) / 4
    error = eve / 4 + (1 - eve / 2) * error
    # half of the accidentals in the window are sifted like all others, and half of these wrong
    accidental = summary.n_accidentals / summary.n_coincidences
    return (1 - accidental) * error + accidental / 2


@pytest.mark.parametrize("seed", [1, 2])
def test_both_sides_of_the_laboratory_get_keys_that_differ_by_its_qber(seed: int) -> None:
    scenario = lab()
    link = Sifted(scenario, seed)
    # 0.35 ticks of rounding; four deviations of a fit to about 1e5 pairs are far less
    assert link.offset.start_ticks == pytest.approx(true_offset_ticks(scenario), abs=0.35)
    assert link.offset.drift == pytest.approx(1e-9, abs=2e-10)
    expected = expected_qber(scenario, link.summary)
    assert 0.025 < expected < 0.035
    assert abs(link.qber - expected) < 4 * math.sqrt(expected / link.hec.size) + 0.0005
    rate_hz = 2e6 * scenario.hec.detection_probability * scenario.lec.detection_probability / 2
    # dead time, multiple clicks and greedy pairing cost a few per cent
    assert 0.93 < link.hec.size / (1.3 * rate_hz) < 1.0
    for key in (link.hec, link.lec):
        assert abs(float(np.mean(key)) - 0.5) < 4 / math.sqrt(4 * key.size)


def test_an_eavesdropper_adds_a_quarter_of_what_is_intercepted() -> None:
    scenario = replace(lab(0.7), eavesdropper=Eavesdropper(0.6))
    link = Sifted(scenario, 3)
    expected = expected_qber(scenario, link.summary)
    assert expected > 0.16
    assert abs(link.qber - expected) < 4 * math.sqrt(expected / link.hec.size) + 0.001


def test_the_eavesdropper_s_scenario_is_beyond_any_key() -> None:
    scenario = Scenario.read(SCENARIOS / "intercept-resend.toml")
    assert scenario.clock == lab().clock
    link = Sifted(replace(scenario, run=Run(0.7)), 3)
    assert link.qber > 0.13


def test_twenty_five_kilometres_give_a_key_too() -> None:
    scenario = replace(Scenario.read(SCENARIOS / "metro-25km.toml"), run=Run(4.0))
    link = Sifted(scenario, 4)
    assert link.offset.start_ticks == pytest.approx(true_offset_ticks(scenario), abs=0.5)
    expected = expected_qber(scenario, link.summary)
    assert expected < 0.03
    assert link.hec.size > 20_000
    assert abs(link.qber - expected) < 4 * math.sqrt(expected / link.hec.size) + 0.0005


@pytest.mark.parametrize("drift_ppb", [-20.0, 20.0])
def test_a_drift_is_followed_over_many_epochs(drift_ppb: float) -> None:
    scenario = lab(2.5)
    scenario = replace(
        scenario,
        source=Source(5e5, 0.97, 0.97),
        clock=replace(scenario.clock, drift_ppb=drift_ppb),
    )
    link = Sifted(scenario, 5, tracking_constant=-20_000)
    assert link.summary.shift_ticks == pytest.approx(-drift_ppb * 1e-9 * 2.5 * 8e9, abs=8)
    rate_hz = 5e5 * scenario.hec.detection_probability * scenario.lec.detection_probability / 2
    assert link.hec.size > 0.95 * 2.5 * rate_hz
    assert link.qber < 0.025


def test_two_sources_that_have_nothing_in_common_are_refused() -> None:
    hec = simulate(lab(0.6), START_NS, 6).hec
    lec = simulate(lab(0.6), START_NS, 7).lec
    packets = chopped(hec, lec)
    with pytest.raises(OffsetNotFoundError):
        find_offset(packets.hec, packets.lec)


def test_the_programs_do_the_same_on_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("t1", "t2", "t3", "t4", "hec", "lec"):
        (tmp_path / name).mkdir()
    raw = {side: tmp_path / f"events.{side}" for side in ("hec", "lec")}
    scenario = ("--scenario", SCENARIOS / "lab.toml", "--duration-s", "1.0")
    run(esim.main, *scenario, "-F", raw["hec"], "-f", raw["lec"], "-r", "-q")
    keep = ("--keep-last", "-V-1")
    run(chopper2.main, "-i", raw["hec"], "-D", tmp_path / "t1", *keep)
    run(chopper.main, "-i", raw["lec"], "-D", tmp_path / "t2", "-d", tmp_path / "t3", *keep)
    inputs = ("-D", tmp_path / "t1", "-d", tmp_path / "t2", "-e", "0x4f86")
    run(pfind.main, *inputs, "-n", "2")
    offset = capsys.readouterr().out.strip()
    outputs = ("-f", tmp_path / "hec", "-F", tmp_path / "t4", "-V-1")
    run(costream.main, *inputs, *outputs, "-t", offset, "-w16", "-u30", "-Q-200000", "-R5", "-T2")
    run(
        splicer.main,
        *("-d", tmp_path / "t3", "-D", tmp_path / "t4", "-f", tmp_path / "lec", "-e", "0x4f86"),
    )
    keys = [
        np.concatenate([Type3.read(path).values for path in sorted((tmp_path / side).iterdir())])
        for side in ("hec", "lec")
    ]
    assert keys[0].size == keys[1].size > 60_000
    assert 0.02 < float(np.mean(keys[0] != keys[1])) < 0.04
