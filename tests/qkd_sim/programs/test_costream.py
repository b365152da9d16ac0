import shutil
from pathlib import Path

import pytest

from photon_files import SET_A, files_of
from program_runs import refused, run, run_apart
from qkd_sim.packets import Type3, Type4
from qkd_sim.programs.costream import main

T1, T2 = SET_A / "hec" / "t1", SET_A / "lec" / "t2"
T4, KEYS = SET_A / "hec" / "t4", SET_A / "hec" / "rawkey"
SEARCH = ("-p1", "-w16", "-u30", "-Q-2000000", "-R5", "-T2", "-G3")
INPUTS = ("-D", T1, "-d", T2, "-e", "0x4f87", "-t", "8")


@pytest.fixture
def outputs(tmp_path: Path) -> tuple[str | Path, ...]:
    for name in ("t4", "key"):
        (tmp_path / name).mkdir()
    return ("-F", tmp_path / "t4", "-f", tmp_path / "key")


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def test_set_a_gives_the_files_and_the_log_of_the_c_program(
    tmp_path: Path, outputs: tuple[str | Path, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    logs = {letter: tmp_path / letter for letter in "lLmM"}
    options = [item for letter, path in logs.items() for item in (f"-{letter}", path)]
    run(main, *INPUTS, *outputs, *SEARCH, "-q", "16", "-V", "5", *options)
    assert contents(tmp_path / "t4") == contents(T4)
    assert contents(tmp_path / "key") == contents(KEYS)
    assert capsys.readouterr().out == (SET_A / "logs" / "costream_V5.log").read_text()
    epochs = [path.name for path in files_of(T4)]
    assert logs["l"].read_text().splitlines() == [*epochs, "00004f97"]
    for letter in "LmM":
        assert logs[letter].read_text().splitlines() == epochs


def test_without_a_number_it_goes_on_to_the_last_epoch(
    tmp_path: Path, outputs: tuple[str | Path, ...]
) -> None:
    ended = run_apart("-m", "qkd_sim.programs.costream", *INPUTS, *outputs, *SEARCH, "-V-1")
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, b"", b"")
    found = contents(tmp_path / "t4")
    assert len(found) == 17
    assert {name: found[name] for name in contents(T4)} == contents(T4)


def test_streams_give_streams(tmp_path: Path) -> None:
    for name, folder in (("1", T1), ("2", T2)):
        (tmp_path / name).write_bytes(b"".join(path.read_bytes() for path in files_of(folder)))
    run(
        main,
        *("-I", tmp_path / "1", "-i", tmp_path / "2", "-e", "0x4f87", "-t", "8", "-q", "16"),
        *("-O", tmp_path / "4", "-o", tmp_path / "key", *SEARCH, "-n", tmp_path / "log"),
    )
    assert (tmp_path / "4").read_bytes() == b"".join(contents(T4).values())
    assert (tmp_path / "key").read_bytes() == b"".join(contents(KEYS).values())
    assert len((tmp_path / "log").read_text().splitlines()) == 16


@pytest.mark.parametrize(("policy", "n_type4", "n_keys"), [(0, 0, 0), (1, 3, 0), (2, 3, 3)])
def test_an_epoch_without_coincidences_leaves_what_the_policy_says(
    policy: int, n_type4: int, n_keys: int, tmp_path: Path, outputs: tuple[str | Path, ...]
) -> None:
    far = ("-D", T1, "-d", T2, "-e", "0x4f87", "-t", "3000", "-q", "3", "-V-1")
    run(main, *far, *outputs, "-w1", "-T", str(policy))
    type4 = [Type4.read(path) for path in sorted((tmp_path / "t4").iterdir())]
    keys = [Type3.read(path) for path in sorted((tmp_path / "key").iterdir())]
    assert (len(type4), len(keys)) == (n_type4, n_keys)
    assert all(packet.indices.size == 0 for packet in type4)
    assert all(packet.values.size == 0 for packet in keys)


def test_files_are_deleted_when_their_epoch_is_done(
    tmp_path: Path, outputs: tuple[str | Path, ...]
) -> None:
    for name, folder in (("t1", T1), ("t2", T2)):
        shutil.copytree(folder, tmp_path / name)
    inputs = ("-D", tmp_path / "t1", "-d", tmp_path / "t2", "-e", "0x4f87", "-t", "8")
    run(main, *inputs, *outputs, *SEARCH, "-q", "3", "-k", "-K", "-V-1")
    for name in ("t1", "t2"):
        left = set(contents(tmp_path / name))
        assert left == {path.name for path in files_of(T1)} - {"00004f87", "00004f88", "00004f89"}


def test_totals_end_the_log_when_they_are_asked_for(
    outputs: tuple[str | Path, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    run(main, *INPUTS, *outputs, *SEARCH, "-q", "2", "--summary")
    assert capsys.readouterr().out.splitlines() == [
        "00004f87",
        "00004f88",
        (
            "epochs: 2, type-2 events: 1123, coincidences: 1123, accidental: 0,"
            " sifted bits: 582, tracked shift: 0 ticks"
        ),
    ]


def test_what_is_wrong_is_said_in_one_line(
    tmp_path: Path, outputs: tuple[str | Path, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert "which epochs?" in refused(main, capsys, "-D", T1, "-d", T2, "-t8", *outputs)
    assert "required: -t/--offset-ticks" in refused(
        main, capsys, "-D", T1, "-d", T2, *outputs, code=2
    )
    assert "window is 0" in refused(main, capsys, *INPUTS, *outputs, "-w0")
    assert "protocol 2" in refused(main, capsys, *INPUTS, *outputs, "-p2")
    shutil.copytree(T1, tmp_path / "t1")
    (tmp_path / "t1" / "00004f8a").unlink()
    said = refused(main, capsys, "-D", tmp_path / "t1", *INPUTS[2:], *outputs, "-V-1")
    assert said == "costream: the type-1 packets end before epoch 00004f8a"
    (tmp_path / "t1" / "00004f88").write_bytes(b"abc")
    said = refused(main, capsys, "-D", tmp_path / "t1", *INPUTS[2:], *outputs, "-V-1")
    assert said.endswith("t1/00004f88: byte 3: cut off within the header of 20 bytes")
