"""Two KMEs are connected by their operators, on a real Vault."""

import json
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from bundles import NOW, Kme, lasting
from kme.appliance.connect import read_bundle
from kme.registry.peers import PeerSite
from kme.registry.saes import PEERS_PATH
from operator_site import PEER, OperatorSite

OTHER = Kme.make(str(PEER))
THIRD = Kme.make("kme-3")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    path = tmp_path / "kme-2.json"
    path.write_text(OTHER.bundle().to_json())
    return path


def trusted(site: OperatorSite) -> list[x509.Certificate]:
    data = (site.traefik / "peers-ca.pem").read_bytes()
    return x509.load_pem_x509_certificates(data)


def kept(site: OperatorSite) -> PeerSite | None:
    async def read(documents: object) -> PeerSite | None:
        from kme.registry.peers import read_site

        return await read_site(documents, PEER)  # type: ignore[arg-type]

    return site.as_service("rest", read)


def test_this_kmes_bundle_is_what_the_other_one_can_check(site: OperatorSite) -> None:
    code, out, err = site.run("bundle")
    assert code == 0
    own = read_bundle(out.encode())
    assert (own.kme, own.site) == ("kme-1", "Site one")
    assert own.peer_url == "https://kme-1.example.org:9443"
    assert own.sae_url == "https://kme-1.example.org:8443"
    own.authority.verify_directly_issued_by(x509.load_pem_x509_certificate(own.root.encode()))
    assert own.fingerprint() in err
    assert "PRIVATE" not in out


def test_a_bundle_is_shown_and_changes_nothing(site: OperatorSite, bundle: Path) -> None:
    shown = site.do("connect", "--show", "-", given=bundle.read_text())
    for expected in (PEER, OTHER.bundle().fingerprint(), "https://kme-2.example:9443", "KME CA"):
        assert expected in shown
    assert kept(site) is None


def test_a_kme_is_connected_and_disconnected(site: OperatorSite, bundle: Path) -> None:
    nobody = x509.load_pem_x509_certificate((site.traefik / "nobody-ca.pem").read_bytes())
    assert trusted(site) == [nobody]
    shown = site.do("connect", str(bundle), "--fingerprint", OTHER.bundle().fingerprint())
    assert "kme-2 is connected" in shown
    found = kept(site)
    assert found is not None
    assert (found.peer_url, found.ca) == (OTHER.bundle().peer_url, OTHER.bundle().ca)
    assert trusted(site) == [OTHER.ca.credential.certificate]
    site.do("connect", "--yes", "-", given=bundle.read_text())
    site.do("connect", "--yes", "-", given=THIRD.bundle().to_json())
    assert set(trusted(site)) == {k.ca.credential.certificate for k in (OTHER, THIRD)}
    site.do("disconnect", PEER)
    assert trusted(site) == [THIRD.ca.credential.certificate]
    site.do("disconnect", "kme-3")
    assert trusted(site) == [nobody]
    assert kept(site) is None
    assert "not connected" in site.refuses("disconnect", PEER)


def test_a_kme_that_was_set_up_anew_is_believed_only_if_that_was_said(
    site: OperatorSite, bundle: Path
) -> None:
    site.do("connect", "--yes", str(bundle))
    site.as_service(
        "rest", lambda d: d.write(f"{PEERS_PATH}/{PEER}", {"counter": 9, "saes": {}}, 0)
    )
    site.do("connect", "--yes", str(bundle))
    assert site.as_service("rest", lambda d: d.read(f"{PEERS_PATH}/{PEER}")) is not None
    anew = Kme.make(str(PEER)).bundle()
    bundle.write_text(anew.to_json())
    assert "REPLACE=yes" in site.refuses("connect", "--yes", str(bundle))
    site.do("connect", "--yes", "--replace", str(bundle))
    found = kept(site)
    assert found is not None
    assert found.ca == anew.ca
    assert site.as_service("rest", lambda d: d.read(f"{PEERS_PATH}/{PEER}")) is None
    site.do("disconnect", PEER)


class TestWhatIsNotBelieved:
    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "no bundle"),
            ("garbage", "no bundle"),
            (Kme.make("kme-9").bundle().to_json(), "KME_LINKS"),
            (OTHER.bundle(ca=THIRD.bundle().ca).to_json(), "does not hang under"),
            (
                Kme.make(str(PEER), lasting(1, NOW - timedelta(days=9))).bundle().to_json(),
                "ca ended on",
            ),
        ],
        ids=["nothing", "garbage", "unknown", "another root", "expired"],
    )
    def test_a_bad_bundle(self, site: OperatorSite, text: str, says: str) -> None:
        for how in ("--show", "--yes"):
            assert says in site.refuses("connect", how, "-", given=text)
        assert kept(site) is None

    def test_our_own(self, site: OperatorSite) -> None:
        own = site.do("bundle")
        assert "of KME kme-1 itself" in site.refuses("connect", "--yes", "-", given=own)
        pretended = json.dumps(json.loads(own) | {"kme": PEER})
        assert "this KME's own" in site.refuses("connect", "--yes", "-", given=pretended)

    def test_another_fingerprint(self, site: OperatorSite, bundle: Path) -> None:
        wrong = THIRD.bundle().fingerprint()
        assert "do not connect" in site.refuses("connect", str(bundle), "--fingerprint", wrong)
        assert kept(site) is None

    def test_without_a_word_about_the_fingerprint(self, site: OperatorSite, bundle: Path) -> None:
        code, _, _ = site.run("connect", str(bundle), given="n\n")
        assert code == 1
        assert "--fingerprint" in site.refuses("connect", "-", given=bundle.read_text())
        assert kept(site) is None

    def test_a_file_that_is_not_there(self, site: OperatorSite) -> None:
        assert "cannot be read" in site.refuses("connect", "/nowhere/x.json")
