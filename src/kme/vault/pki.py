"""pki - certificate requests in, certificates signed by an authority inside Vault out."""

import ipaddress
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import hvac
from cryptography import x509

from kme.errors import StoreUnavailableError
from kme.vault.failures import member_of
from kme.vault.session import VaultSession


class Pki:
    """One certificate authority inside Vault.

    Its key never leaves Vault, and the keys of what it signs never come here.

    Parameters
    ----------
    session
        Where requests go through.
    mount
        Name of the authority's mount, such as ``pki-sae``.
    """

    def __init__(self, session: VaultSession, mount: str) -> None:
        self._session = session
        self._mount = mount

    async def sign(
        self,
        role: str,
        csr_pem: str,
        common_name: str,
        uri_sans: Sequence[str] = (),
        hosts: Sequence[str] = (),
        ttl: timedelta | None = None,
    ) -> tuple[str, ...]:
        """Sign a certificate request, and return the chain.

        Parameters
        ----------
        role
            The authority's role; it decides whether the certificate may say
            what is asked for here.
        csr_pem
            The request (PKCS #10), PEM; only its public key counts.
        common_name
            For people to read.
        uri_sans
            Identities: ``sae-id:...``, ``kme-id:...`` or ``service-id:...``.
        hosts
            DNS names and IP addresses that a server is reached by.
        ttl
            How long it is to be valid; None for what the role says.

        Returns
        -------
        tuple of str
            The certificate and its issuers, each PEM; the root is left out.

        Raises
        ------
        InputError
            If the role does not allow it, or the request cannot be read.
        StoreUnavailableError
            If Vault cannot be asked, or this session may not ask it.
        """
        addresses = [host for host in hosts if _is_address(host)]
        names = [host for host in hosts if not _is_address(host)]
        wanted: dict[str, object] = {
            # A list: an SAE's id may hold a comma, and must not become two names.
            "uri_sans": list(uri_sans),
            "alt_names": ",".join(names),
            "ip_sans": addresses,
            # The name in the subject is for people: no host name.
            "exclude_cn_from_sans": True,
        }
        if ttl is not None:
            wanted["ttl"] = f"{int(ttl.total_seconds())}s"
        answer = await self._session.call(
            lambda client: client.secrets.pki.sign_certificate(
                role, csr_pem, common_name, extra_params=wanted, mount_point=self._mount
            )
        )
        data = member_of(answer, "data")
        issuers = data.get("ca_chain") or [data["issuing_ca"]]
        return (_whole(data["certificate"]), *(_whole(pem) for pem in issuers if _hangs(pem)))

    async def revoke(self, serial: int) -> None:
        """Revoke a certificate that this authority signed, and have the list say so at once.

        Doing it again does no harm.

        Raises
        ------
        InputError
            If there is none of that serial number.
        StoreUnavailableError
            If it may or may not have been revoked, or listed: do it again.
        """
        digits = f"{serial:x}"
        octets = bytes.fromhex(digits.zfill(len(digits) + len(digits) % 2)).hex(":")
        await self._session.call(
            lambda client: client.secrets.pki.revoke_certificate(octets, mount_point=self._mount)
        )
        # An authority that renews its list by itself would say so only at the next renewal.
        await self._session.call(
            lambda client: client.secrets.pki.rotate_crl(mount_point=self._mount)
        )

    async def crl(self) -> str:
        """Return the authority's revocation list, complete, PEM.

        Raises
        ------
        StoreUnavailableError
            If there is none (yet), or Vault cannot be asked.
        """
        return await self._session.call(lambda client: self._pem(client, "crl/pem"))

    async def issuer(self) -> str:
        """Return the authority's own certificate, PEM.

        Raises
        ------
        StoreUnavailableError
            If there is none (yet), or Vault cannot be asked.
        """
        return await self._session.call(lambda client: self._pem(client, "ca/pem"))

    def _pem(self, client: hvac.Client, name: str) -> str:
        answer: Any = client.adapter.get(f"/v1/{self._mount}/{name}")
        text = getattr(answer, "text", "")
        if "-----BEGIN" not in text:
            raise StoreUnavailableError(
                f"the authority {self._mount} of Vault has no certificate yet: run vault_init"
            )
        return _whole(text)


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _whole(pem: str) -> str:
    """Return PEM that ends with its line, so that pieces can be put one after another."""
    return f"{pem.strip()}\n"


def _hangs(pem: str) -> bool:
    """Return whether a certificate hangs under another: is no root."""
    certificate = x509.load_pem_x509_certificate(pem.encode())
    return certificate.subject != certificate.issuer
