"""qkd_sim.chain: a scenario in, equal final keys at both sides out, figures that agree."""

import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from kme.epochs.finalkey import read_final_key
from kme.errors import StageError
from kme.ids import Epoch
from link_runs import FAINT, STAGES, LinkRun, parties_about, run_chain
from qkd_sim.chain import BLOCK_BITS, Chain, Side, Stretch, _Blocks, whole_epochs
from qkd_sim.errors import StoppedError
from qkd_sim.params import Channel, Detectors, Eavesdropper, Run, Scenario, Source
from qkd_sim.params import Side as Way
from qkd_sim.scenarios import FOLDER


def sides(work: Path) -> tuple[Side, Side]:
    hec, lec = (Side(work / side, work / side / "final") for side in ("hec", "lec"))
    return hec, lec


def final_files(run: LinkRun) -> tuple[list[Path], list[Path]]:
    hec, lec = (sorted((run.work / side / "final").iterdir()) for side in ("hec", "lec"))
    return hec, lec


# What comes out


def test_both_sides_have_the_same_final_keys(finished_run: LinkRun) -> None:
    hec, lec = final_files(finished_run)
    assert [path.name for path in hec] == [path.name for path in lec]
    keys = [[read_final_key(path) for path in side] for side in (hec, lec)]
    assert keys[0] == keys[1]
    assert sum(key.n_bits for key in keys[0]) == finished_run.number("errcd", "final_bits") > 5000
    epochs = {path.name for path in (finished_run.work / "hec" / "t1").iterdir()}
    assert {path.name for path in hec} <= epochs
    assert sum(key.n_epochs for key in keys[0]) == len(epochs)


def test_every_stage_reports_once_and_in_order(finished_run: LinkRun) -> None:
    assert tuple(report.stage for report in finished_run.reports) == STAGES
    assert all(report.duration_s > 0 for report in finished_run.reports)


def test_the_figures_agree_with_each_other(finished_run: LinkRun) -> None:
    number = finished_run.number
    sifted_bits = number("costream", "sifted_bits")
    assert sifted_bits == number("splicer", "sifted_bits")
    assert sifted_bits == number("errcd", "sample_bits") + number("errcd", "key_bits")
    assert number("costream", "coincidences") > sifted_bits
    for side in ("hec", "lec"):
        rate_hz = number("esim", f"{side}_events") / number("esim", "simulated_s")
        assert number("getrate", f"{side}_rate_hz") == pytest.approx(rate_hz, rel=0.01)
    assert number("errcd", "refused_blocks") == 0
    sacrificed_bits = number("errcd", "key_bits") - number("errcd", "final_bits")
    told_bits = number("errcd", "disclosed_bits") + number("errcd", "verification_bits")
    assert sacrificed_bits > told_bits
    assert number("errcd", "epsilon") == pytest.approx(1e-10, rel=0.01)


def test_the_offset_that_nobody_was_told_is_found(finished_run: LinkRun) -> None:
    scenario = finished_run.scenario
    true_ns = scenario.clock.offset_ns + scenario.lec.channel.delay_ns
    assert finished_run.number("pfind", "offset_ns") == pytest.approx(true_ns, abs=0.1)
    assert finished_run.number("pfind", "log10_p_value") < -1000


def test_the_qber_is_the_scenario_s_within_error_bars(finished_run: LinkRun) -> None:
    number, source = finished_run.number, finished_run.scenario.source
    error = 0.5 - (source.visibility_hv + source.visibility_diagonal) / 4
    accidental = number("costream", "accidentals") / number("costream", "coincidences")
    expected = (1 - accidental) * error + accidental / 2
    for errors, n_bits in (
        (number("errcd", "qber") * number("errcd", "sample_bits"), number("errcd", "sample_bits")),
        (number("errcd", "corrected_bits"), number("errcd", "key_bits")),
    ):
        # 4 standard deviations, and what two clicks at once add
        assert abs(errors / n_bits - expected) < 4 * math.sqrt(expected / n_bits) + 0.0005


def test_reconciliation_discloses_little_more_than_it_must(finished_run: LinkRun) -> None:
    number = finished_run.number
    efficiency = number("errcd", "efficiency")
    assert 1.0 < efficiency <= 1.10
    qber = number("errcd", "corrected_bits") / number("errcd", "key_bits")
    entropy = -qber * math.log2(qber) - (1 - qber) * math.log2(1 - qber)
    stated = number("errcd", "disclosed_bits") / (number("errcd", "key_bits") * entropy)
    assert efficiency == pytest.approx(stated, abs=1e-4)


def test_each_side_keeps_its_secrets_to_itself(finished_run: LinkRun) -> None:
    names = {side: {path.name for path in (finished_run.work / side).iterdir()}
             for side in ("hec", "lec")}  # fmt: skip
    assert names["hec"] == {"events.raw", "t1", "t4", "rawkey", "errcd", "final"}
    assert names["lec"] == {"events.raw", "t2", "t3", "rawkey", "errcd", "final"}
    for side in ("hec", "lec"):
        root = finished_run.work / side
        assert root.stat().st_mode & 0o077 == 0
        assert (root / "final").stat().st_mode & 0o077 == 0
        secret = [root / "events.raw", *(root / "rawkey").iterdir(), *(root / "final").iterdir()]
        assert all(path.stat().st_mode & 0o077 == 0 for path in secret)


# What is refused


def dark(scenario: Scenario, dark_rate_hz: float) -> Scenario:
    """Return the scenario with no light at all."""
    way = Way(Channel(loss_db=100.0), Detectors(dark_rate_hz=dark_rate_hz))
    return replace(scenario, hec=way, lec=way)


@pytest.mark.parametrize(
    ("scenario", "stage", "words"),
    [
        (dark(FAINT, 5000.0), "pfind", "try more epochs"),
        (dark(FAINT, 0.0), "getrate", "simulate longer"),
        (replace(FAINT, source=Source(10.0)), "pfind", "try more epochs"),
        (replace(FAINT, run=Run(0.3)), "getrate", "simulate longer"),
    ],
    ids=["no light", "no clicks", "too few pairs", "too short"],
)
def test_what_can_give_no_key_is_refused_by_its_stage_in_one_line(
    scenario: Scenario, stage: str, words: str, tmp_path: Path
) -> None:
    with pytest.raises(StageError) as refused:
        run_chain(tmp_path, scenario, 1)
    assert refused.value.stage == stage
    assert words in refused.value.message
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.glob("?ec/final/*"))


def test_an_eavesdropper_is_refused_with_the_reason_and_what_to_try(tmp_path: Path) -> None:
    scenario = Scenario.read(FOLDER / "intercept-resend.toml")
    assert scenario.eavesdropper == Eavesdropper(0.6)
    with pytest.raises(StageError) as refused:
        run_chain(tmp_path, replace(scenario, run=Run(0.7)), 1)
    assert str(refused.value).startswith(
        "errcd: no block gave a key: too many errors in the sample (QBER 1"
    )
    assert "try a scenario with higher visibilities and no eavesdropper" in str(refused.value)
    assert "\n" not in str(refused.value)
    assert not list(tmp_path.glob("?ec/final/*"))


# A disk that fails


@pytest.mark.parametrize(
    ("folder", "stage"),
    [
        ("hec/.partial-events.raw", "esim"),
        ("hec/t1/", "chopper2"),
        ("lec/t3/", "chopper"),
        ("hec/rawkey/", "costream"),
        ("lec/rawkey/", "splicer"),
    ],
)
def test_a_full_disk_is_said_by_the_stage_that_meets_it(
    folder: str, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync: Callable[[int], None] = os.fsync

    def full(descriptor: int) -> None:
        if folder in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StageError) as refused:
        run_chain(tmp_path, FAINT, 1)
    assert refused.value.stage == stage
    assert refused.value.message.endswith("cannot be written: No space left on device")
    assert str(tmp_path) in refused.value.message
    assert not list(tmp_path.rglob(".partial-*"))


@pytest.mark.parametrize(
    ("name", "stage"),
    [("hec", "esim"), ("lec/events.raw", "esim"), ("hec/t1", "chopper2"), ("lec/t2", "chopper")],
)
def test_something_else_in_a_file_s_place_is_said_by_its_stage(
    name: str, stage: str, tmp_path: Path
) -> None:
    way = tmp_path / name
    way.parent.mkdir(parents=True, exist_ok=True)
    if name.endswith("raw"):
        way.mkdir()
    else:
        way.write_text("in the way")
    with pytest.raises(StageError, match=rf"^{stage}: {tmp_path}/.*: ") as refused:
        Chain(*sides(tmp_path), lambda _: None).run(Stretch(FAINT, Epoch(0xC0000000), 1, 1))
    assert "\n" not in str(refused.value)


# Being stopped


@pytest.mark.parametrize("last", STAGES[:-1])
def test_a_stop_between_any_two_stages_is_heeded(last: str, tmp_path: Path) -> None:
    seen: list[str] = []
    chain = Chain(*sides(tmp_path), lambda report: seen.append(report.stage), lambda: last in seen)
    with pytest.raises(StoppedError):
        chain.run(Stretch(FAINT, Epoch(0xC0000000), 1, 1))
    assert seen[-1] == last
    assert not list(tmp_path.glob("?ec/final/*"))
    assert not list(parties_about(tmp_path))


def test_a_long_stage_is_left_at_once(tmp_path: Path) -> None:
    begins_s = time.monotonic()
    chain = Chain(*sides(tmp_path), lambda _: None, lambda: time.monotonic() > begins_s + 0.5)
    with pytest.raises(StoppedError):
        chain.run(Stretch(replace(FAINT, run=Run(1e6)), Epoch(0xC0000000), 1, 1))
    # a second is plenty even for a busy machine; the stage itself would take hours
    assert time.monotonic() < begins_s + 5
    assert not list(tmp_path.rglob("*events.raw"))


# Small rules


def test_a_stretch_is_as_long_as_its_epochs_and_the_broken_one() -> None:
    assert whole_epochs(replace(FAINT, run=Run(0.1))) == 2
    assert whole_epochs(replace(FAINT, run=Run(2**29 / 1e9))) == 2
    assert whole_epochs(replace(FAINT, run=Run(5.5))) == 12


@pytest.mark.parametrize(
    ("bits", "closed"),
    [
        ([], []),
        ([10], [(0, 1)]),
        ([10, 10, 10], [(0, 3)]),
        ([BLOCK_BITS, 10], [(0, 2)]),
        ([BLOCK_BITS, BLOCK_BITS // 2], [(0, 1), (1, 1)]),
        ([BLOCK_BITS // 2] * 4, [(0, 2), (2, 2)]),
        ([BLOCK_BITS // 2] * 5 + [1], [(0, 2), (2, 2), (4, 2)]),
        ([BLOCK_BITS - 1, 1, BLOCK_BITS, 1], [(0, 2), (2, 2)]),
    ],
)
def test_blocks_are_closed_when_they_are_long_enough(
    bits: list[int], closed: list[tuple[int, int]]
) -> None:
    blocks = _Blocks()
    for number, n_bits in enumerate(bits):
        blocks.add(Epoch(number), n_bits)
    assert [(epoch.number, n_epochs) for epoch, n_epochs in blocks.closed()] == closed
