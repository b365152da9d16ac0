"""scripts/transfer-keys over a real sshd: whole files arrive, and go from here only then."""

import fcntl
import getpass
import hashlib
import os
import re
import shutil
import socket
import stat
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "transfer-keys"

pytestmark = pytest.mark.skipif(
    not (shutil.which("sshd") or Path("/usr/sbin/sshd").exists()) or not shutil.which("rsync"),
    reason="needs openssh-server and rsync",
)


@dataclass
class Host:
    """The other KME's host: a real sshd on this one."""

    folder: Path
    port: int

    @property
    def options(self) -> list[str]:
        given = {
            "Port": self.port,
            "IdentityFile": f'"{self.folder / "key"}"',
            "IdentitiesOnly": "yes",
            "UserKnownHostsFile": f'"{self.folder / "known_hosts"}"',
            "GlobalKnownHostsFile": "/dev/null",
        }
        return ["-F", "none", *(word for item in given.items() for word in _option(*item))]


def _option(name: str, value: object) -> list[str]:
    return ["-o", f"{name}={value}"]


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    folder = tmp_path_factory.mktemp("ssh d")  # paths with spaces all the way
    for name in ("host_key", "key", "stranger"):
        subprocess.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", folder / name], check=True
        )
    shutil.copy(folder / "key.pub", folder / "authorized_keys")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    public = (folder / "host_key.pub").read_text().split()
    (folder / "known_hosts").write_text(f"[127.0.0.1]:{port} {public[0]} {public[1]}\n")
    (folder / "config").write_text(
        f'Port {port}\nListenAddress 127.0.0.1\nHostKey "{folder / "host_key"}"\n'
        f'AuthorizedKeysFile "{folder / "authorized_keys"}"\nStrictModes no\nUsePAM no\n'
        "PasswordAuthentication no\nKbdInteractiveAuthentication no\nPidFile none\n"
        "PermitRootLogin prohibit-password\n"
    )
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    sshd = shutil.which("sshd") or "/usr/sbin/sshd"
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen([sshd, "-D", "-e", "-f", folder / "config"], stderr=log)
    try:
        _wait_for(port, server, folder / "log")
        yield Host(folder, port)
    finally:
        server.terminate()
        server.wait(10)


def _wait_for(port: int, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline_s = time.monotonic() + 10
    while time.monotonic() < deadline_s:
        if server.poll() is not None:
            pytest.fail(f"sshd ended: {log.read_text()}")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            time.sleep(0.05)
        else:
            return
    pytest.fail("sshd does not listen")


@dataclass
class Site:
    """Both ends of a transfer."""

    host: Host
    out: Path
    there: Path

    def put(self, *epochs: int, n_bytes: int = 2000) -> dict[str, str]:
        """Write files as qkd does; return their digests."""
        digests = {}
        for epoch in epochs:
            path = self.out / f"{epoch:08x}"
            path.write_bytes(os.urandom(n_bytes))
            path.chmod(0o660)
            digests[path.name] = _digest(path)
        return digests

    def command(self, target: str | None = None, options: list[str] | None = None) -> list[str]:
        target = target or f"{getpass.getuser()}@127.0.0.1:{self.there}"
        words = self.host.options if options is None else options
        return [str(SCRIPT), str(self.out), target, "--", *words]

    def transfer(
        self, target: str | None = None, options: list[str] | None = None, **environment: str
    ) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            self.command(target, options),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
            env={**os.environ, **environment},
        )

    def refused(self, **changed: object) -> str:
        """Transfer in vain: all files stay, and what to do is said."""
        before = {path.name: _digest(path) for path in self.out.iterdir() if path.is_file()}
        done = self.transfer(**changed)  # type: ignore[arg-type]
        assert done.returncode == 1, done.stdout
        assert {p.name: _digest(p) for p in self.out.iterdir() if p.is_file()} == before
        return done.stderr


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline_s, "waited too long"
        time.sleep(0.05)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _files(folder: Path) -> dict[str, str]:
    return {path.name: _digest(path) for path in folder.iterdir()}


@pytest.fixture
def site(host: Host, tmp_path: Path) -> Site:
    out = tmp_path / "epochs out" / "kme-2" / "qkd-1"
    there = tmp_path / "the other's site" / "epochs" / "in" / "kme-1" / "qkd-1"
    for folder in (out, there):
        folder.mkdir(parents=True)
        folder.chmod(0o2770)
    return Site(host, out, there)


def test_files_arrive_equal_for_the_group_and_are_gone_here(site: Site) -> None:
    digests = site.put(*range(20))
    done = site.transfer()
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("20 final key files are at ")
    assert _files(site.there) == digests
    assert list(site.out.iterdir()) == []
    modes = {stat.S_IMODE(path.stat().st_mode) for path in site.there.iterdir()}
    assert modes == {0o660}
    assert stat.S_IMODE(site.there.stat().st_mode) == 0o2770


def test_nothing_to_transfer_is_fine_and_disturbs_nobody(site: Site) -> None:
    done = site.transfer("nobody@no-such-host.invalid:/x")
    assert (done.returncode, done.stderr) == (0, "")
    assert "No final keys wait" in done.stdout


def test_only_finished_epoch_files_go(site: Site) -> None:
    digests = site.put(1)
    (site.out / ".partial-00000002-ab").write_bytes(b"half")
    (site.out / "0000000G").write_bytes(b"x")
    (site.out / "aside").mkdir()
    (site.out / "aside" / "00000003").write_bytes(b"x")
    (site.out / "00000004").symlink_to("/etc/passwd")
    assert site.transfer().returncode == 0
    assert _files(site.there) == digests
    left = {path.name for path in site.out.iterdir()}
    assert left == {".partial-00000002-ab", "0000000G", "aside", "00000004"}


def test_a_folder_that_is_not_there_yet_is_made_for_the_group(site: Site) -> None:
    digests = site.put(1)
    site.there.rmdir()
    assert site.transfer().returncode == 0
    assert _files(site.there) == digests
    assert stat.S_IMODE(site.there.stat().st_mode) == 0o2770


def test_what_arrived_before_an_interruption_is_not_sent_again_and_goes_from_here(
    site: Site,
) -> None:
    digests = site.put(1, 2, 3)
    shutil.copy(site.out / "00000002", site.there / "00000002")
    there = (site.there / "00000002").stat()
    assert site.transfer().returncode == 0
    assert _files(site.there) == digests
    assert (site.there / "00000002").stat().st_ino == there.st_ino
    assert list(site.out.iterdir()) == []


def test_what_differs_there_is_replaced_by_what_is_here(site: Site) -> None:
    digests = site.put(1)
    (site.there / "00000001").write_bytes(os.urandom(2000))
    os.utime(site.there / "00000001", (1, 1))
    os.utime(site.out / "00000001", (1, 1))  # same size, same time: only bytes tell
    assert site.transfer().returncode == 0
    assert _files(site.there) == digests


def test_half_a_file_never_bears_its_name_and_a_killed_transfer_is_taken_up(site: Site) -> None:
    digests = site.put(*range(6), n_bytes=3_000_000)
    process = subprocess.Popen(
        site.command(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
        env={**os.environ, "PATH": f"{_slow_rsync(site)}:{os.environ['PATH']}"},
    )
    seen: set[str] = set()
    deadline_s = time.monotonic() + 30
    while len(seen) < 2 and time.monotonic() < deadline_s:
        for path in site.there.iterdir():
            if not path.name.startswith("."):
                assert _digest(path) == digests[path.name]
                seen.add(path.name)
        time.sleep(0.01)
    os.killpg(process.pid, 9)
    process.wait(10)
    assert list(site.out.iterdir()) != []
    # The other end sees it, and leaves nothing half-written behind.
    _wait_until(lambda: {path.name for path in site.there.iterdir()} <= digests.keys())
    assert {**_files(site.out), **_files(site.there)} == digests
    done = site.transfer()
    assert done.returncode == 0, done.stderr
    assert _files(site.there) == digests
    assert list(site.out.iterdir()) == []


def _slow_rsync(site: Site) -> Path:
    """Return a folder with an rsync that sends 3 MB/s."""
    folder = site.out.parents[2] / "bin"
    folder.mkdir()
    program = folder / "rsync"
    program.write_text(f'#!/bin/sh\nexec {shutil.which("rsync")} --bwlimit=3000 "$@"\n')
    program.chmod(0o755)
    return folder


def test_a_second_transfer_at_the_same_time_is_refused(site: Site) -> None:
    site.put(1)
    descriptor = os.open(site.out, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        assert "another transfer is under way" in site.refused()
    finally:
        os.close(descriptor)
    assert site.transfer().returncode == 0


def test_a_host_that_cannot_be_reached_or_found_is_said(site: Site) -> None:
    site.put(1)
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        options = ["-o", f"Port={closed.getsockname()[1]}", *site.host.options]
        assert "cannot be reached: is it up" in site.refused(options=options)
    said = site.refused(target="x@no-such-host.invalid:/x")
    assert "no such host: is HOST right?" in said


def test_a_key_that_is_refused_is_said(site: Site) -> None:
    site.put(1)
    stranger = f'IdentityFile="{site.host.folder / "stranger"}"'
    options = [stranger if w.startswith("IdentityFile") else w for w in site.host.options]
    said = site.refused(options=options)
    assert "refuses the ssh key: is it in authorized_keys there?" in said
    assert "run this again" in said


def test_a_host_key_that_is_unknown_is_said_and_not_believed(site: Site) -> None:
    site.put(1)
    options = [
        "UserKnownHostsFile=/dev/null" if word.startswith("UserKnownHostsFile") else word
        for word in site.host.options
    ]
    assert "the host key is unknown or changed" in site.refused(options=options)


def test_a_missing_folder_there_is_said(site: Site) -> None:
    site.put(1)
    said = site.refused(target=f"{getpass.getuser()}@127.0.0.1:{site.there}/a/b/c")
    assert re.search("such (?:a )?folder.*make init at the other KME", said)


def test_a_full_disk_there_is_said_and_what_arrived_is_gone_here(
    site: Site, tmp_path: Path
) -> None:
    if os.geteuid() != 0:
        pytest.skip("a small file system can be mounted by root only")
    small = tmp_path / "small"
    small.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "kme-test", small],
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip("no file system can be mounted here")
    try:
        digests = site.put(*range(8), n_bytes=300_000)
        done = site.transfer(f"{getpass.getuser()}@127.0.0.1:{small}")
        assert done.returncode == 1
        assert re.search("disk is full: make room there|is its disk full", done.stderr)
        arrived = {name: d for name, d in _files(small).items() if not name.startswith(".")}
        assert 0 < len(arrived) < 8
        assert {**arrived, **_files(site.out)} == digests
    finally:
        _wait_until(lambda: subprocess.run(["umount", small], check=False).returncode == 0)


@pytest.mark.parametrize("target", ["host", "/local/folder", "host:", "-oProxyCommand=x:y", "h::m"])
def test_what_is_no_target_is_refused(site: Site, target: str) -> None:
    site.put(1)
    assert "must be USER@HOST:DIR" in site.refused(target=target)


def test_a_folder_that_is_not_there_is_said(site: Site) -> None:
    shutil.rmtree(site.out)
    done = site.transfer()
    assert done.returncode == 1
    assert "no such folder; make init makes it" in done.stderr


def test_too_few_words_show_how_to_use_it() -> None:
    done = subprocess.run([SCRIPT, "only"], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("usage: transfer-keys OUT_DIR USER@HOST:DIR")
