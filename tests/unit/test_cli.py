"""kme.cli: every command's error is one line on standard error, exit code 1, no traceback."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

import kme
from kme.cli import main
from kme.epochs.finalkey import FinalKeyFile, write_final_key
from kme.ids import Epoch, KmeId, SourceId
from kme.pair import DEFAULT_SAES, PairPlan, lay_out
from kme.secret import Secret
from kme.store.records import SourceClass
from kme.store.sqlite import SqliteStore, create_master_key

COMMANDS = ("demo", "serve", "run", "backup", "restore", "check-config", "show-epoch", "status")


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    # Error texts of click are boxed or coloured otherwise on some terminals.
    monkeypatch.setenv("TERM", "dumb")


def kme_exits(monkeypatch: pytest.MonkeyPatch, *arguments: str | Path) -> int:
    """Run the command in this process and return its exit code."""
    monkeypatch.setattr(sys, "argv", ["kme", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    code = ended.value.code
    assert isinstance(code, int)
    return code


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("serve --sae alice", "--sae alice: write NAME@KME with KME one of kme-a, kme-b"),
        ("serve --sae alice@", "--sae alice@: write NAME@KME with KME one of kme-a, kme-b"),
        ("serve --sae a@kme-c", "--sae a@kme-c: write NAME@KME with KME one of kme-a, kme-b"),
        ("serve --sae @kme-a", "--sae @kme-a: '' is not a SAE id: 1 to 128 visible ASCII"),
        ("serve --sae b\xf6b@kme-a", "--sae b\xf6b@kme-a: 'b\xf6b' is not a SAE id"),
        (f"serve --sae {129 * 'x'}@kme-a", "is not a SAE id: 1 to 128 visible ASCII"),
        (
            "serve --sae alice@kme-a --sae alice@kme-b",
            "--sae alice@kme-b: this name was given before",
        ),
        ("serve --source laser", "--source laser: must be link or random"),
        ("serve --source sim", "--source sim: must be link or random"),
        ("serve --base-port 70000", "--base-port 70000: must be in 1..65532"),
        ("serve --base-port 0", "--base-port 0: must be in 1..65532"),
        ("serve --log-level LOUD", "--log-level LOUD: must be one of DEBUG, INFO, WARNING, ERROR"),
        ("serve --scenario nowhere.toml", "--scenario nowhere.toml: is no file"),
        ("serve --dir /dev/null/pair", "/dev/null/pair: Not a directory"),
        ("demo --scenario .", "--scenario .: is no file"),
        ("demo --log-level debug", "--log-level debug: must be one of DEBUG, INFO, WARNING, ERROR"),
        ("demo --out /dev/null", "/dev/null: Not a directory"),
        ("run --config nowhere.toml", "nowhere.toml: cannot be read: No such file or directory"),
        ("backup --config nowhere.toml --out x", "nowhere.toml: cannot be read: No such file"),
        ("restore --config nowhere.toml --in-place", "nowhere.toml: cannot be read: No such file"),
        ("restore --config nowhere.toml", "give either --from FILE or --in-place"),
        ("restore --config x --from y --in-place", "give either --from FILE or --in-place"),
        ("run --config .", ".: cannot be read: Is a directory"),
        ("check-config", "name a configuration file, or give --describe"),
        ("check-config nowhere.toml", "nowhere.toml: cannot be read: No such file or directory"),
        ("show-epoch c74e4f86", "c74e4f86: byte 0: cannot be read: No such file or directory"),
        ("status --dir nowhere", "nowhere/pair.json: cannot be read: No such file or directory"),
    ],
)
def test_what_a_user_can_cause_ends_in_one_line(
    arguments: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kme_exits(monkeypatch, *arguments.split()) == 1
    said = capsys.readouterr()
    assert said.err.startswith("kme: ")
    assert words in said.err
    assert said.err.count("\n") == 1
    assert said.out == ""
    assert not list(Path.cwd().iterdir()), "something was made before the options were checked"


def test_a_name_of_several_lines_is_still_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kme_exits(monkeypatch, "serve", "--sae", "a\nTraceback\nb@kme-a") == 1
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ("", "Usage: kme"),
        ("laser", "No such command 'laser'"),
        ("--nonsense", "No such option"),
        ("run", "Missing option '--config'"),
        ("show-epoch", "Missing argument 'FILE"),
        ("serve --base-port high", "Invalid value for '--base-port'"),
        ("serve --seed 7", "No such option"),
        ("run --config x --seed 7", "No such option"),
        ("demo --seed -1", "Invalid value for '--seed'"),
        ("demo --seed 9223372036854775808", "Invalid value for '--seed'"),
    ],
)
def test_what_is_no_command_line_is_answered_with_the_usage(
    arguments: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kme_exits(monkeypatch, *arguments.split()) == 2
    said = capsys.readouterr()
    assert words in said.err + said.out
    assert "Traceback" not in said.err


def test_the_version_is_the_package_s(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kme_exits(monkeypatch, "--version") == 0
    assert capsys.readouterr().out == f"kme {kme.__version__}\n"


def test_help_lists_every_command_and_each_explains_itself(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kme_exits(monkeypatch, "--help") == 0
    listed = capsys.readouterr().out
    for command in COMMANDS:
        assert f"\n  {command} " in listed
        assert kme_exits(monkeypatch, command, "--help") == 0
        assert capsys.readouterr().out.startswith(f"Usage: kme {command} ")


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["demo", "--help"], ["run"]])
def test_help_is_there_before_anything_heavy_is_imported(arguments: list[str]) -> None:
    program = (
        "import sys\nfrom kme.cli import main\n"
        f"sys.argv = ['kme', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'fastapi', 'cryptography', 'httpx', 'uvicorn', 'sqlite3', 'numpy', 'numba',"
        " 'qkd_sim', 'kme.settings'}\n"
        "sys.exit(', '.join(sorted(heavy & set(sys.modules))) or 0)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_the_module_is_the_program(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "kme", "check-config", "no such file"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "kme: no such file: cannot be read: No such file or directory\n"


def test_an_error_without_a_file_name_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("kme.settings.load_settings", full)
    assert kme_exits(monkeypatch, "check-config", "x") == 1
    assert capsys.readouterr().err == "kme: No space left on device\n"


# check-config


def test_a_good_configuration_is_said_to_be_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = PairPlan(
        tmp_path / "a pair", [1, 2, 3, 4], DEFAULT_SAES, SourceId("sim"), SourceClass.QKD
    )
    config = lay_out(plan).kmes[1].config
    assert kme_exits(monkeypatch, "check-config", config) == 0
    assert capsys.readouterr().out == f"{config}: KME kme-b, all settings hold\n"
    config.write_text(config.read_text().replace("port = 3", "port = 70000\nprot = 3"))
    assert kme_exits(monkeypatch, "check-config", config) == 1
    said = capsys.readouterr().err
    assert said.startswith(f"kme: {config}: sae_interface.port: ")
    assert "sae_interface.prot: Extra inputs are not permitted" in said
    assert said.count("\n") == 1


def test_a_store_is_copied_and_put_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = PairPlan(
        tmp_path / "pair",
        (1, 2, 3, 4),
        DEFAULT_SAES,
        SourceId("random"),
        SourceClass.RANDOM,
    )
    place = lay_out(plan).kmes[0]
    path, copy = place.folder / "store.db", tmp_path / "copy.db"
    master_key = create_master_key(place.folder / "master.key")

    async def mark() -> str | None:
        store = await SqliteStore.open(place.id, path, master_key)
        marked = await store.restoring(KmeId("kme-b"))
        await store.close()
        return marked

    assert asyncio.run(mark()) is None
    assert kme_exits(monkeypatch, "backup", "--config", place.config, "--out", copy) == 0
    assert "the store of KME kme-a" in capsys.readouterr().out
    assert kme_exits(monkeypatch, "restore", "--config", place.config, "--from", copy) == 0
    assert f"restored from {copy}" in capsys.readouterr().out
    first = asyncio.run(mark())
    assert kme_exits(monkeypatch, "restore", "--config", place.config, "--in-place") == 0
    assert "marked as an older copy" in capsys.readouterr().out
    assert asyncio.run(mark()) not in {None, first}


def test_every_setting_is_explained(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert kme_exits(monkeypatch, "check-config", "--describe") == 0
    page = capsys.readouterr().out
    assert page.startswith("# ")
    assert "gather_s" in page


# show-epoch

KEY = bytes(range(100, 132))


def test_an_epoch_file_is_shown_without_a_bit_of_its_key(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write_final_key(tmp_path, FinalKeyFile(Epoch(0xC74E4F86), 10, 256, Secret(KEY)))
    assert kme_exits(monkeypatch, "show-epoch", path) == 0
    said = capsys.readouterr()
    assert said.out == f"{path}: start epoch c74e4f86, epochs 10, bits 256\n"
    assert_shows_nothing_of_the_key(said.out + said.err, path.read_bytes())


@pytest.mark.parametrize("n_bytes", [0, 7, 20, 47, 49])
def test_a_bad_epoch_file_is_refused_where_it_is_bad(
    n_bytes: int,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    good = write_final_key(tmp_path, FinalKeyFile(Epoch(0xC74E4F86), 10, 256, Secret(KEY)))
    data = good.read_bytes()
    assert len(data) == 48
    bad = tmp_path / "bad" / good.name
    bad.parent.mkdir()
    bad.write_bytes((data + b"x")[:n_bytes])
    assert kme_exits(monkeypatch, "show-epoch", good, bad) == 1
    said = capsys.readouterr()
    assert said.out.startswith(f"{good}: start epoch c74e4f86")
    assert said.err.startswith(f"kme: {bad}: byte {min(n_bytes, 48)}: ")
    assert said.err.count("\n") == 1
    assert_shows_nothing_of_the_key(said.out + said.err, data)


def assert_shows_nothing_of_the_key(said: str, file: bytes) -> None:
    """Hold that no eight bytes of the key stand there, raw, swapped as on disk, or in hex."""
    shown = said.encode().lower()
    for key in (KEY, file[16:]):
        for begin in range(len(key) - 7):
            part = key[begin : begin + 8]
            assert part not in shown
            assert part.hex().encode() not in shown
