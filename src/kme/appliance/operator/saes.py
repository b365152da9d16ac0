"""saes - a name in; a registered SAE with key and certificate out, or all of it revoked."""

import re
import secrets
import shutil
from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from kme.appliance.operator.settings import OperatorSettings
from kme.clock import SystemClock
from kme.errors import InputError, RequestError, StoreUnavailableError
from kme.files import write_whole
from kme.ids import SaeId
from kme.pki.bundle import Credential, CredentialFiles, write_credential, write_pkcs12
from kme.pki.identity import SAE_PREFIX, uri_identity
from kme.registry.saes import SaeRegistry
from kme.secret import Secret
from kme.vault.documents import Documents
from kme.vault.pki import Pki
from kme.vault.session import VaultSession

MOUNT: Final = "pki-sae"
ROLE: Final = "sae"

_FOLDER_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+=-]{0,63}")
_PASSWORD_BYTES: Final = 18


class SaeOffice:
    """Issues and revokes what SAEs show to this KME.

    Parameters
    ----------
    settings
        Who this KME is, and where things lie.
    session
        With Vault, as ``admin``.
    """

    def __init__(self, settings: OperatorSettings, session: VaultSession) -> None:
        self._settings = settings
        self._session = session
        self._pki = Pki(session, MOUNT)
        self._registry = SaeRegistry(
            settings.kme, Documents(session), SystemClock(), settings.hold_s
        )

    @property
    def registry(self) -> SaeRegistry:
        """Which SAEs there are."""
        return self._registry

    async def add(self, sae: SaeId, *, renews: bool) -> Path:
        """Make a key, have it certified, register the SAE; return the folder of its files.

        The private key never leaves this process but into that folder.

        Raises
        ------
        RequestError
            If the id is taken, held, or not one that this can be done for.
        InputError
            If the files cannot be written.
        StoreUnavailableError
            If Vault can't be asked.
        """
        # The name of a folder, of a subject and of a URI: stricter than an id has to be.
        if not _FOLDER_NAME.fullmatch(sae):
            raise RequestError(
                f"{str(sae)!r}: certificates are issued to ids of 1 to 64 letters, digits and"
                " ._@+=- that begin with a letter or digit"
            )
        folder = self._settings.issued / sae
        if folder.exists() and not renews:
            raise RequestError(f"{folder} is there already: fetch and remove it first")
        await self._registry.check_free(sae, self._settings.peers, renews=renews)
        credential = await self._certify(sae)
        serial = credential.certificate.serial_number.to_bytes(20).hex(":")
        await self._registry.add(sae, serial, renews=renews)
        self._write(sae, folder, credential)
        return folder

    async def revoke(self, sae: SaeId) -> int:
        """Remove an SAE and revoke all its certificates; return how many.

        Its registration goes first: from then on nothing is given to it, whatever
        it shows. It may be repeated.

        Raises
        ------
        RequestError
            If there never was such an SAE here.
        StoreUnavailableError
            If Vault can't be asked; some may be revoked.
        """
        serials = await self._registry.remove(sae)
        for serial in serials:
            await self._pki.revoke(int(serial.replace(":", ""), 16))
        shutil.rmtree(self._settings.issued / sae, ignore_errors=True)
        return len(serials)

    async def _certify(self, sae: SaeId) -> Credential:
        key = ec.generate_private_key(ec.SECP256R1())
        uri = SAE_PREFIX + sae
        request = (
            x509.CertificateSigningRequestBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, sae)]))
            # Named here and beside the request: the role says which of the two counts.
            .add_extension(
                x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), critical=False
            )
            .sign(key, hashes.SHA256())
        )
        csr = request.public_bytes(Encoding.PEM).decode()
        pems = await self._pki.sign(ROLE, csr, sae, [uri])
        chain = tuple(x509.load_pem_x509_certificate(pem.encode()) for pem in pems)
        is_ours = chain[0].public_key() == key.public_key()
        if not is_ours or uri_identity(chain[0], SAE_PREFIX) != sae:
            raise StoreUnavailableError("Vault signed something else than it was asked to")
        return Credential(chain, key)

    def _write(self, sae: SaeId, folder: Path, credential: Credential) -> None:
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            root = self._settings.vault.ca.read_bytes()
        except OSError as error:
            raise InputError(f"{error.filename}: {error.strerror}") from error
        files = CredentialFiles(folder / "sae.pem", folder / "sae-key.pem")
        write_credential(credential, files)
        files.certificate.chmod(0o600)
        password = Secret(secrets.token_urlsafe(_PASSWORD_BYTES).encode())
        write_pkcs12(credential, sae, password, folder / "sae.p12")
        write_whole(folder / "password", password.reveal() + b"\n", 0o600)
        write_whole(folder / "root.pem", root, 0o600)
