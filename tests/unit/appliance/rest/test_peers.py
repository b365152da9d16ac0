"""Each peer's certificates are of that peer's own authority."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from kme.appliance.rest.peers import authority_of_peers, config_of
from kme.appliance.rest.settings import RestSettings
from kme.appliance.settings import LinkName
from kme.errors import IdentityError
from kme.ids import KmeId, SourceId
from kme.pki.authority import Authority, Leaf, TlsRole, Validity
from kme.pki.issued import require_issued
from kme.registry.peers import PeerSite

DAY = Validity.lasting(timedelta(days=1), datetime.now(UTC))
BOTH = TlsRole.SERVER | TlsRole.CLIENT
ROOTS = {name: Authority.root(name, DAY) for name in ("kme-2", "kme-3")}
AUTHORITIES = {name: root.issue_authority(name, BOTH, DAY) for name, root in ROOTS.items()}


def site(name: str, ca: str | None = None) -> PeerSite:
    pem = AUTHORITIES[name].credential.certificate.public_bytes(Encoding.PEM).decode()
    url = f"https://{name}:9443"
    return PeerSite(KmeId(name), name, url, url, pem if ca is None else ca, "", "", 0.0)


def shown(kme: str, by: str) -> x509.Certificate:
    return AUTHORITIES[by].issue(Leaf("any", BOTH, (f"kme-id:{kme}",)), DAY).certificate


def test_a_peer_is_who_its_own_authority_says() -> None:
    authority_of = authority_of_peers([site("kme-2"), site("kme-3")])
    for name in AUTHORITIES:
        certificate = shown(name, by=name)
        require_issued(certificate, authority_of(certificate))


def test_no_peers_authority_vouches_for_another_peer() -> None:
    authority_of = authority_of_peers([site("kme-2"), site("kme-3")])
    forged = shown("kme-2", by="kme-3")
    with pytest.raises(IdentityError):
        require_issued(forged, authority_of(forged))


@pytest.mark.parametrize("name", ["kme-9", "no/kme"])
def test_who_is_not_connected_is_nobody(name: str) -> None:
    with pytest.raises(IdentityError):
        authority_of_peers([site("kme-2")])(shown(name, by="kme-2"))


def test_a_peer_whose_authority_cannot_be_read_is_nobody() -> None:
    with pytest.raises(IdentityError):
        authority_of_peers([site("kme-2", "no PEM")])(shown("kme-2", by="kme-2"))


def test_a_peer_has_all_sources_that_are_shared_with_it() -> None:
    links = tuple(LinkName.read(text) for text in ("kme-2/a", "kme-2/b", "kme-3/a"))
    settings = RestSettings(id="kme-1", links=links)
    config = config_of(KmeId("kme-2"), settings)
    assert set(config.sources) == {SourceId("a"), SourceId("b")}
    assert config.heartbeat_interval_s == 4.0
    assert config.lease_s == 10.0
