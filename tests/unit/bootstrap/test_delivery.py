from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509

from kme.bootstrap.delivery import (
    anchor_steps,
    anchors,
    nobody_steps,
    sweep_partial_files,
    wanted_certificates,
)
from kme.bootstrap.exchange import SiteAuthorities
from kme.bootstrap.roles import Site
from kme.bootstrap.steps import run_steps
from kme.ids import KmeId, SaeId
from kme.pki.authority import Authority, Validity

NOW = datetime.now(UTC).replace(microsecond=0)
YEARS = Validity.lasting(timedelta(days=3650), NOW)
SITE = Site(KmeId("kme-1"), "kme-1.example.org", SaeId("sae-1"), "https://vault:8200")


def certificate(name: str) -> x509.Certificate:
    return Authority.root(name, YEARS).credential.certificate


AUTHORITIES = SiteAuthorities(
    *(certificate(name) for name in ("root", "intermediate", "services", "kme", "sae"))
)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for name in ("unsealer", "watcher", "rest", "traefik", "operator", "metrics"):
        (tmp_path / name).mkdir()
    return tmp_path


def test_every_service_gets_the_files_that_it_looks_for(out: Path) -> None:
    wanted = wanted_certificates(SITE, AUTHORITIES, out)
    names = {str(one.files.certificate.relative_to(out)) for one in wanted}
    assert names == {
        *(f"{name}/client.pem" for name in ("unsealer", "watcher", "rest", "operator", "metrics")),
        *("traefik/hop.pem", "traefik/kme.pem"),
        *("rest/server.pem", "rest/kme.pem"),
    }
    for one in wanted:
        assert one.files.key.name == one.files.certificate.name.replace(".pem", "-key.pem")


def test_no_service_gets_an_anchor_that_it_must_not_believe(out: Path) -> None:
    found = {str(path.relative_to(out)): one for path, one in anchors(AUTHORITIES, out).items()}
    assert found["rest/sae-ca.pem"] == AUTHORITIES.sae
    assert found["traefik/sae-ca.pem"] == AUTHORITIES.sae
    assert found["traefik/rest-ca.pem"] == AUTHORITIES.services
    assert all(
        name.endswith("/vault-ca.pem")
        for name, one in found.items()
        if one in {AUTHORITIES.root, AUTHORITIES.services_intermediate}
    )


def test_anchors_are_written_once(out: Path) -> None:
    steps = anchor_steps(AUTHORITIES, out)
    assert run_steps(steps) == len(steps)
    assert run_steps(steps) == 0
    (out / "rest/sae-ca.pem").write_bytes(b"something else")
    assert run_steps(steps) == 1


class TestTheAuthorityOfNobody:
    def test_is_made_once_and_stands_for_peers_too(self, out: Path) -> None:
        assert run_steps(nobody_steps(out)) == 2
        made = (out / "traefik/nobody-ca.pem").read_bytes()
        assert (out / "traefik/peers-ca.pem").read_bytes() == made
        assert run_steps(nobody_steps(out)) == 0
        assert (out / "traefik/nobody-ca.pem").read_bytes() == made

    def test_leaves_no_key_anywhere(self, out: Path) -> None:
        run_steps(nobody_steps(out))
        assert not any(b"PRIVATE" in path.read_bytes() for path in out.rglob("*.pem"))

    def test_does_not_push_out_connected_peers(self, out: Path) -> None:
        (out / "traefik/peers-ca.pem").write_bytes(b"connected")
        run_steps(nobody_steps(out))
        assert (out / "traefik/peers-ca.pem").read_bytes() == b"connected"

    def test_is_made_again_when_it_is_spoilt(self, out: Path) -> None:
        run_steps(nobody_steps(out))
        (out / "traefik/nobody-ca.pem").write_bytes(b"")
        assert run_steps(nobody_steps(out)) == 1


def test_what_a_killed_run_left_half_written_is_swept_away(out: Path) -> None:
    half, whole = out / "rest/.partial-client-key.pem-00", out / "rest/client-key.pem"
    half.write_bytes(b"half a key")
    whole.write_bytes(b"a key")
    sweep_partial_files([out, out / "absent"])
    assert not half.exists()
    assert whole.exists()
