"""site - a set of KMEs and SAEs in, one folder with all their certificates out.

::

    DIR/root-ca/ca.pem, ca.key                the root
    DIR/{service,kme,sae}-ca/ca.pem, ca.key   issuing authorities
    DIR/{service,kme,sae}-ca/crl.pem          what they revoked
    DIR/kme/<KME id>/service.pem, .key        what SAEs see
    DIR/kme/<KME id>/peer.pem, .key           what other KMEs see
    DIR/sae/<SAE id>/sae.pem, .key            what a KME sees of an SAE

Making it again makes only what is missing, spoilt or nearly expired.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import quote

from cryptography import x509

from kme.errors import CredentialError
from kme.ids import KmeId, SaeId
from kme.pki.authority import (
    Authority,
    Leaf,
    TlsRole,
    Validity,
    list_number,
    revoked_serials,
)
from kme.pki.bundle import (
    CredentialFiles,
    load_credential,
    load_revocation_list,
    write_credential,
    write_revocation_list,
)
from kme.pki.identity import KME_PREFIX, SAE_PREFIX

ROOT_LIFETIME: Final = timedelta(days=3650)
ISSUER_LIFETIME: Final = timedelta(days=1825)
LEAF_LIFETIME: Final = timedelta(days=397)
RENEW_BEFORE: Final = timedelta(days=30)
"""What ends sooner than this is made again."""

_ROOT: Final = "root-ca"
_LONGEST_FILE_NAME: Final = 100


class Issuer(StrEnum):
    """The three issuing authorities; each believes nothing of what another issued."""

    SERVICE = "service-ca"
    KME = "kme-ca"
    SAE = "sae-ca"


_ROLES: Final = {
    Issuer.SERVICE: TlsRole.SERVER,
    Issuer.KME: TlsRole.SERVER | TlsRole.CLIENT,
    Issuer.SAE: TlsRole.CLIENT,
}


@dataclass(frozen=True, slots=True)
class SitePki:
    """Where everything lies.

    Parameters
    ----------
    root_ca
        The root's certificate: as trust anchor it suits TLS clients of any make.
    service_ca, kme_ca, sae_ca
        The issuing authorities' certificates: anchors that believe no sister.
    kme_crl, sae_crl
        Revocation lists of the last two.
    service_certificates
        For each KME what it shows to SAEs.
    kme_certificates
        For each KME what it shows to other KMEs, as server and as client.
    sae_certificates
        For each SAE what it shows to its KME.
    """

    root_ca: Path
    service_ca: Path
    kme_ca: Path
    sae_ca: Path
    kme_crl: Path
    sae_crl: Path
    service_certificates: Mapping[KmeId, CredentialFiles]
    kme_certificates: Mapping[KmeId, CredentialFiles]
    sae_certificates: Mapping[SaeId, CredentialFiles]


def make_pki(
    directory: Path,
    kmes: Sequence[KmeId],
    saes: Iterable[SaeId],
    hosts: Sequence[str],
    now: datetime | None = None,
) -> SitePki:
    """Make, or complete, the certificates of some KMEs and SAEs in one folder.

    Parameters
    ----------
    directory
        Where they lie; made if it is missing.
    kmes
        Each gets one certificate for its SAE port and one for its peers.
    saes
        Each gets one client certificate.
    hosts
        DNS names and IP addresses that the KMEs are reached by.
    now
        The present moment; the machine's if None.

    Raises
    ------
    CredentialError
        If an authority that is there cannot be read, or a file cannot be
        written. Authorities are never replaced because they look damaged.
    """
    return _Site(directory, now or datetime.now(UTC)).make(kmes, saes, tuple(hosts))


def revoke(
    directory: Path, issuer: Issuer, certificate: x509.Certificate, now: datetime | None = None
) -> None:
    """Add a certificate to its issuer's revocation list.

    Servers read the list when they start.

    Raises
    ------
    CredentialError
        If the issuer is not in this folder, or did not issue the certificate.
    """
    site = _Site(directory, now or datetime.now(UTC))
    authority = site.load_authority(issuer)
    if not authority.has_issued(certificate):
        raise CredentialError(f"{directory}: {issuer} did not issue this certificate")
    site.extend_revocations(issuer, authority, {certificate.serial_number: site.now})


class _Site:
    """One folder of certificates at one moment."""

    def __init__(self, directory: Path, now: datetime) -> None:
        self._directory = directory
        self.now = now.replace(microsecond=0)

    def make(self, kmes: Sequence[KmeId], saes: Iterable[SaeId], hosts: tuple[str, ...]) -> SitePki:
        root = self._root()
        issuers = {issuer: self._issuer(root, issuer) for issuer in Issuer}
        for issuer, authority in issuers.items():
            self._keep_revocations(issuer, authority)
        return SitePki(
            root_ca=self._ca_files(_ROOT).certificate,
            service_ca=self._ca_files(Issuer.SERVICE).certificate,
            kme_ca=self._ca_files(Issuer.KME).certificate,
            sae_ca=self._ca_files(Issuer.SAE).certificate,
            kme_crl=self._crl_path(Issuer.KME),
            sae_crl=self._crl_path(Issuer.SAE),
            service_certificates={
                kme: self._leaf(
                    f"kme/{kme}/service",
                    issuers[Issuer.SERVICE],
                    Leaf(kme, _ROLES[Issuer.SERVICE], (KME_PREFIX + kme,), hosts),
                )
                for kme in kmes
            },
            kme_certificates={
                kme: self._leaf(
                    f"kme/{kme}/peer",
                    issuers[Issuer.KME],
                    Leaf(kme, _ROLES[Issuer.KME], (KME_PREFIX + kme,), hosts),
                )
                for kme in kmes
            },
            sae_certificates={
                sae: self._leaf(
                    f"sae/{_file_name(sae)}/sae",
                    issuers[Issuer.SAE],
                    Leaf(sae, _ROLES[Issuer.SAE], (SAE_PREFIX + sae,)),
                )
                for sae in saes
            },
        )

    def load_authority(self, name: str) -> Authority:
        """Read an authority that must be there."""
        return Authority(load_credential(self._ca_files(name), self.now))

    def extend_revocations(
        self, issuer: Issuer, authority: Authority, more: Mapping[int, datetime]
    ) -> None:
        path = self._crl_path(issuer)
        revoked, number = dict(more), 1
        if path.exists():
            old = load_revocation_list(path, None)
            if old.is_signature_valid(authority.credential.key.public_key()):
                revoked = {**more, **revoked_serials(old)}
            number = list_number(old) + 1
        validity = Validity.lasting(LEAF_LIFETIME, self.now)
        write_revocation_list(authority.revocation_list(revoked, number, validity), path)

    def _root(self) -> Authority:
        kept = self._kept_authority(_ROOT, above=None)
        if kept is not None:
            return kept
        made = Authority.root("QKD key management root", self._lasting(ROOT_LIFETIME))
        return self._write_authority(_ROOT, made)

    def _issuer(self, root: Authority, issuer: Issuer) -> Authority:
        kept = self._kept_authority(issuer, above=root)
        if kept is not None:
            return kept
        name, validity = f"QKD key management {issuer}", self._lasting(ISSUER_LIFETIME)
        return self._write_authority(issuer, root.issue_authority(name, _ROLES[issuer], validity))

    def _kept_authority(self, name: str, above: Authority | None) -> Authority | None:
        """Return the authority that is there, or None if one has to be made."""
        files = self._ca_files(name)
        if not (files.certificate.exists() and files.key.exists()):
            return None
        kept = Authority(load_credential(files, None))
        if above is not None and not above.has_issued(kept.credential.certificate):
            return None
        return None if self._ends_soon(kept.credential.certificate) else kept

    def _write_authority(self, name: str, authority: Authority) -> Authority:
        write_credential(authority.credential, self._ca_files(name))
        return authority

    def _leaf(self, stem: str, authority: Authority, leaf: Leaf) -> CredentialFiles:
        """Keep an end certificate, or make it; return where it lies."""
        files = CredentialFiles(self._directory / f"{stem}.pem", self._directory / f"{stem}.key")
        if not self._is_current(files, authority, leaf):
            write_credential(authority.issue(leaf, self._lasting(LEAF_LIFETIME)), files)
        return files

    def _is_current(self, files: CredentialFiles, authority: Authority, leaf: Leaf) -> bool:
        try:
            certificate = load_credential(files, self.now).certificate
        except CredentialError:
            return False  # absent, expired or half-written: a leaf is simply made again
        return (
            leaf.describes(certificate)
            and authority.has_issued(certificate)
            and not self._ends_soon(certificate)
        )

    def _keep_revocations(self, issuer: Issuer, authority: Authority) -> None:
        path = self._crl_path(issuer)
        if path.exists():
            kept = load_revocation_list(path, None)
            due = kept.next_update_utc
            is_own = kept.is_signature_valid(authority.credential.key.public_key())
            if is_own and due is not None and due > self.now + RENEW_BEFORE:
                return
        self.extend_revocations(issuer, authority, {})

    def _ends_soon(self, certificate: x509.Certificate) -> bool:
        return certificate.not_valid_after_utc < self.now + RENEW_BEFORE

    def _lasting(self, duration: timedelta) -> Validity:
        return Validity.lasting(duration, self.now)

    def _ca_files(self, name: str) -> CredentialFiles:
        folder = self._directory / name
        return CredentialFiles(folder / "ca.pem", folder / "ca.key")

    def _crl_path(self, issuer: Issuer) -> Path:
        return self._directory / issuer / "crl.pem"


def _file_name(sae: SaeId) -> str:
    """Return a folder's name for an SAE id, which may hold any visible character."""
    name = quote(sae, safe="")
    if name.strip(".") and len(name) <= _LONGEST_FILE_NAME:
        return name
    return "sha256-" + hashlib.sha256(sae.encode()).hexdigest()
