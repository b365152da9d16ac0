"""revoked - an authority's revocation lists in, as they appear; is a certificate revoked out."""

from datetime import UTC, datetime

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from kme.clock import Clock
from kme.errors import CredentialError, IdentityError, UnavailableError


class RevocationMemory:
    """The newest revocation list of one authority, in memory.

    It never goes back to an older list, and without a current one nobody is
    let in.

    Parameters
    ----------
    authority
        Whose lists.
    clock
        The present time.
    """

    def __init__(self, authority: x509.Certificate, clock: Clock) -> None:
        self._authority = authority
        self._clock = clock
        self._number = -1
        self._until_s = 0.0
        self._serials: frozenset[int] = frozenset()
        self._text = b""

    @property
    def is_current(self) -> bool:
        """Whether there is a list, and its time has not run out."""
        return self._clock.now_s() < self._until_s

    def learn(self, pem: bytes) -> None:
        """Take a list in; one that is older than what is known is left aside.

        Raises
        ------
        CredentialError
            If it is not a complete list of this authority, or out of date;
            what is known stays.
        """
        if pem == self._text and self.is_current:
            return
        found = self._verified(pem)
        number = found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
        due = found.next_update_utc
        assert due is not None, "a list without an end was refused"
        if number < self._number:
            return
        self._serials = frozenset(entry.serial_number for entry in found)
        self._number, self._until_s, self._text = number, due.timestamp(), pem

    def require_good(self, certificate: x509.Certificate) -> None:
        """Return if a certificate of this authority is not revoked.

        Raises
        ------
        IdentityError
            If it is.
        UnavailableError
            If there is no current list to look at.
        """
        if not self.is_current:
            raise UnavailableError("the list of revoked certificates is not at hand: try later")
        if certificate.serial_number in self._serials:
            raise IdentityError("the client certificate is revoked")

    def _verified(self, pem: bytes) -> x509.CertificateRevocationList:
        try:
            found = x509.load_pem_x509_crl(pem)
            is_genuine = found.issuer == self._authority.subject and found.is_signature_valid(
                self._authority.public_key()  # type: ignore[arg-type]  # a key that can't sign: TypeError
            )
            _require_complete(found)
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.ExtensionNotFound) as error:
            raise CredentialError("this is no revocation list of the authority") from error
        if not is_genuine:
            raise CredentialError("the revocation list is not signed by the authority")
        due = found.next_update_utc
        if due is None or due <= datetime.fromtimestamp(self._clock.now_s(), UTC):
            raise CredentialError("the revocation list is out of date: is the clock right?")
        return found


def _require_complete(found: x509.CertificateRevocationList) -> None:
    """Refuse lists that are parts of one, or need more than their number understood."""
    for extension in found.extensions:
        if extension.critical and extension.oid != x509.CRLNumber.oid:
            msg = "a critical extension is not understood"
            raise ValueError(msg)
    found.extensions.get_extension_for_class(x509.CRLNumber)
