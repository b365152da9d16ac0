"""kme.appliance.qkd: enough key for both KMEs, no raw key left, nothing lost by a crash."""

import asyncio
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from kme.appliance.qkd import QkdSettings, run_qkd
from kme.epochs import children
from kme.epochs.finalkey import read_final_key
from kme.epochs.qkde import LinkJob
from kme.epochs.used import UsedEpochs
from kme.errors import InputError, KmeError
from kme.runtime import first_error

RANDOM_BITS = 32 * 1024 * 8


class ScriptedDriver:
    """Runs a line of Python, which is given the two folders of final keys and the work folder."""

    def __init__(self, program: str) -> None:
        self.program = program

    def command(self, job: LinkJob) -> list[str]:
        return [sys.executable, "-c", self.program, *map(str, (*job.final_keys, job.work))]


class Site:
    """A KME's folders."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for name in ("in", "out", "work"):
            (root / name).mkdir()

    def settings(self, links: str = "kme-2/qkd-1", **qkd: object) -> QkdSettings:
        values: dict[str, object] = {
            "id": "kme-1", "links": links, "qkd": {"driver": "random", **qkd},
            "work": self.root / "work",
            "epochs_in": self.root / "in", "epochs_out": self.root / "out",
        }  # fmt: skip
        return QkdSettings(**values)  # type: ignore[arg-type]

    def run(self, settings: QkdSettings, stop_after_s: float | None = None) -> None:
        async def bounded() -> None:
            stop = asyncio.Event()
            if stop_after_s is not None:
                asyncio.get_running_loop().call_later(stop_after_s, stop.set)
            async with asyncio.timeout(30):
                await run_qkd(settings, stop)

        asyncio.run(bounded())

    def keys(self, side: str, link: str = "kme-2/qkd-1") -> dict[str, bytes]:
        folder = self.root / side / link
        return {path.name: read_final_key(path).key.reveal() for path in folder.iterdir()}

    @property
    def left_in_work(self) -> set[str]:
        return {path.name for path in (self.root / "work" / "kme-2" / "qkd-1").iterdir()}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    return Site(tmp_path)


@pytest.fixture
def scripted(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    def use(program: str) -> None:
        monkeypatch.setattr(children, "find_driver", lambda _name: ScriptedDriver(program))

    return use


def refused(site: Site, settings: QkdSettings) -> str:
    try:
        site.run(settings)
    except BaseExceptionGroup as group:
        error = first_error(group)
        assert isinstance(error, KmeError)
        return str(error)
    except KmeError as error:
        return str(error)
    pytest.fail("it was not refused")


def test_both_kmes_get_the_same_keys_in_files_that_their_group_may_use(site: Site) -> None:
    site.run(site.settings(min_bits=2 * RANDOM_BITS))
    keys = site.keys("in")
    assert len(keys) == 2
    assert site.keys("out") == keys
    for side in ("in", "out"):
        folder = site.root / side / "kme-2" / "qkd-1"
        assert stat.S_IMODE(folder.stat().st_mode) == 0o2770
        assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o660}
    assert site.left_in_work == {"last-epoch", "last-epoch.lock", "link.log", "service.lock"}


def test_so_many_rounds_are_run_at_least(site: Site) -> None:
    site.run(site.settings(rounds=3))
    assert len(site.keys("in")) == 3


def test_a_refill_never_uses_an_epoch_again(site: Site) -> None:
    site.run(site.settings())
    (first,) = site.keys("in")
    ahead = site.root / "work" / "kme-2" / "qkd-1" / "last-epoch"
    ahead.write_text(f"{int(first, 16) + 1000:08x}\n")  # the clock went back since
    site.run(site.settings())
    assert max(site.keys("out")) == f"{int(first, 16) + 1001:08x}"


def test_each_link_gets_its_own_keys(site: Site) -> None:
    links = "kme-2/qkd-1,kme-3/qkd-2"
    site.run(site.settings(links))
    assert site.keys("in", "kme-2/qkd-1") == site.keys("out", "kme-2/qkd-1")
    assert site.keys("in", "kme-3/qkd-2") == site.keys("out", "kme-3/qkd-2")
    assert site.keys("in", "kme-2/qkd-1") != site.keys("in", "kme-3/qkd-2")


def test_what_a_killed_run_left_is_handed_over_and_what_one_side_has_alone_is_not(
    site: Site,
) -> None:
    final = site.root / "work" / "kme-2" / "qkd-1" / "final"
    for side, names in (("hec", ("00000001", "00000002")), ("lec", ("00000002", "00000003"))):
        (final / side).mkdir(parents=True)
        for name in names:
            (final / side / name).write_bytes(b"left")
    (final.parent / "stretch").mkdir()
    (final.parent / "stretch" / "events.raw").write_bytes(b"raw key")
    site.run(site.settings())
    for side in ("in", "out"):
        folder = site.root / side / "kme-2" / "qkd-1"
        old = {path.name for path in folder.iterdir() if path.name.startswith("0")}
        assert old == {"00000002"}
    assert "final" not in site.left_in_work
    assert "stretch" not in site.left_in_work


def test_too_little_key_in_time_is_said_and_what_there_is_counts(site: Site) -> None:
    said = refused(site, site.settings(min_bits=10**9, timeout_s=2.0))
    assert "too little key within 2 s" in said
    assert len(site.keys("in")) >= 1
    assert site.keys("in") == site.keys("out")


def test_a_stage_that_fails_keeps_its_name_and_its_words(
    site: Site, scripted: Callable[[str], None]
) -> None:
    scripted("import sys; sys.exit('pfind: no correlation; simulate longer')")
    assert refused(site, site.settings()) == "pfind: no correlation; simulate longer"
    assert "final" not in site.left_in_work


def test_a_driver_that_ends_by_itself_is_said(site: Site, scripted: Callable[[str], None]) -> None:
    scripted("")
    assert "the driver ended by itself after 0 bits" in refused(site, site.settings())


def test_sigterm_ends_it_early_and_cleanly(site: Site, scripted: Callable[[str], None]) -> None:
    scripted("import sys; sys.stdin.read()")
    site.run(site.settings(), stop_after_s=0.5)
    assert "final" not in site.left_in_work


def test_two_at_once_in_one_folder_are_refused_and_the_first_is_not_disturbed(site: Site) -> None:
    work = site.root / "work" / "kme-2" / "qkd-1"
    (work / "stretch").mkdir(parents=True)
    with UsedEpochs(work / "service").alone():
        assert "makes key there: stop it first" in refused(site, site.settings())
    assert "stretch" in site.left_in_work


def test_a_full_disk_loses_no_key(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, data: bytes, mode: int) -> None:
        raise InputError(f"{path}: cannot be written: No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("kme.appliance.qkd.write_whole", full)
        assert "No space left on device" in refused(site, site.settings())
    assert "final" in site.left_in_work
    site.run(site.settings())
    assert len(site.keys("in")) == 2
    assert site.keys("in") == site.keys("out")


def test_numba_is_given_a_folder_to_write_to(
    site: Site, scripted: Callable[[str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripted("import os, sys; sys.exit('x: ' + os.environ['NUMBA_CACHE_DIR'])")
    assert refused(site, site.settings()) == f"x: {site.root / 'work' / 'kernels'}"
    monkeypatch.setenv("NUMBA_CACHE_DIR", "/elsewhere")
    assert refused(site, site.settings()) == "x: /elsewhere"


def test_folders_that_are_not_there_are_said_before_anything_runs(site: Site) -> None:
    (site.root / "out").rmdir()
    assert "KME_GID" in refused(site, site.settings())


def test_an_empty_scenario_means_the_laboratory(site: Site) -> None:
    assert site.settings(scenario="").qkd.scenario is None
    assert site.settings(scenario="/x.toml").qkd.scenario == Path("/x.toml")
