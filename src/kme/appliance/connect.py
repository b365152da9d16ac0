"""connect - what two operators exchange so that their KMEs believe each other: made and checked."""

import json
from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import urlsplit

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding

from kme.encoding import encode_fields
from kme.errors import IdentifierError, InputError
from kme.ids import KmeId
from kme.registry.peers import PeerSite

FORMAT: Final = "kme connect 1"

MAX_BUNDLE_BYTES: Final = 64 * 1024
MAX_SITE_CHARACTERS: Final = 80

_MAX_URL_CHARACTERS: Final = 300
_GROUP: Final = 4


@dataclass(frozen=True, slots=True)
class Bundle:
    """What one KME's operator gives to the other's; nothing in it is secret.

    Parameters
    ----------
    kme
        Whose it is.
    site
        The name of its site, for people.
    peer_url
        Where its peer interface is: ``https://host:port``.
    sae_url
        Where its SAEs find it.
    ca
        PEM of the authority that issues this KME's certificates only.
    root
        PEM of the root above it.
    """

    kme: KmeId
    site: str
    peer_url: str
    sae_url: str
    ca: str
    root: str

    def to_json(self) -> str:
        """Write it as the file that goes to the other operator."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"

    @property
    def authority(self) -> x509.Certificate:
        """The certificate in `ca`."""
        return _certificate("ca", self.ca)

    def fingerprint(self) -> str:
        """Return SHA-256 over all of it, as 16 groups of 4 hexadecimal digits.

        It doesn't depend on how the file is laid out. Whoever reads it to the
        other operator over the phone has compared the whole bundle.
        """
        digest = hashes.Hash(hashes.SHA256())
        texts = (FORMAT, self.kme, self.site, self.peer_url, self.sae_url)
        digest.update(encode_fields(*(text.encode() for text in texts)))
        certificates = (self.authority, _certificate("root", self.root))
        digest.update(encode_fields(*(c.fingerprint(hashes.SHA256()) for c in certificates)))
        return grouped(digest.finalize().hex())

    def to_site(self, now_s: float) -> PeerSite:
        """Return what is kept once it is believed."""
        return PeerSite(
            kme=self.kme,
            site=self.site,
            peer_url=self.peer_url,
            sae_url=self.sae_url,
            ca=self.ca,
            chain=self.root,
            fingerprint=self.fingerprint(),
            since_s=now_s,
        )


def read_bundle(data: bytes) -> Bundle:
    """Read a bundle that came from outside.

    Raises
    ------
    InputError
        If it is none; the message says what is wrong with it.
    """
    if len(data) > MAX_BUNDLE_BYTES:
        raise InputError(f"a bundle has at most {MAX_BUNDLE_BYTES} bytes: this is something else")
    try:
        members = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise InputError("this is no bundle: `make connect` at the other KME writes one") from error
    if not isinstance(members, dict) or members.get("format") != FORMAT:
        raise InputError(f"this is no bundle of the kind {FORMAT!r}: are both KMEs of one version?")
    names = ("kme", "site", "peer_url", "sae_url", "ca", "root")
    if set(members) != {"format", *names} or not all(isinstance(members[n], str) for n in names):
        raise InputError(f"a bundle has just these members, all text: {', '.join(names)}")
    try:
        kme = KmeId(members["kme"])
    except IdentifierError as error:
        raise InputError(f"the bundle's kme: {error.message}") from error
    texts = {name: members[name] for name in names if name != "kme"}
    bundle = Bundle(kme=kme, **texts)
    _check_texts(bundle)
    return _normal(bundle)


def check_bundle(bundle: Bundle, local: KmeId, peers: Collection[KmeId], now: datetime) -> None:
    """Return if a bundle can be of a peer of this KME.

    Raises
    ------
    InputError
        If it is this KME's own, or of one that no link leads to, or its
        authority is none, hangs under another root or is not valid now.
    """
    if bundle.kme == local:
        raise InputError(
            f"this is the bundle of KME {local} itself: take that of the other KME, and give"
            " this one to its operator"
        )
    if bundle.kme not in peers:
        raise InputError(
            f"KME {bundle.kme} is none that this KME has a link with"
            f" ({', '.join(sorted(peers))}): add it to KME_LINKS in .env, or ask for the right"
            " bundle"
        )
    authority, root = bundle.authority, _certificate("root", bundle.root)
    for name, certificate, length in (("ca", authority, 0), ("root", root, None)):
        _check_authority(name, certificate, length, now)
    try:
        authority.verify_directly_issued_by(root)
    except (ValueError, TypeError, InvalidSignature) as error:
        raise InputError("the bundle's ca does not hang under its root") from error


def check_against_known(
    bundle: Bundle, own_ca: str, sites: Sequence[PeerSite], *, replaces: bool
) -> None:
    """Return if a bundle goes with what is connected already.

    Raises
    ------
    InputError
        If its authority is this KME's own or another peer's, so that one could
        pass for the other; or if the same KME is connected with another
        authority and `replaces` is false.
    """
    key = bundle.authority.public_key()
    if _certificate("own ca", own_ca).public_key() == key:
        raise InputError("the bundle's ca is this KME's own: the other KME needs one of its own")
    for site in sites:
        has_same_key = _certificate(f"ca of {site.kme}", site.ca).public_key() == key
        if site.kme != bundle.kme and has_same_key:
            raise InputError(f"the bundle's ca is that of KME {site.kme} already")
        if site.kme == bundle.kme and not has_same_key and not replaces:
            raise InputError(
                f"KME {site.kme} is connected with another authority. If it was set up anew, and"
                " its operator confirms that, repeat this with REPLACE=yes"
            )


def grouped(digits: str) -> str:
    """Return digits in groups, as people read them aloud."""
    return " ".join(digits[at : at + _GROUP] for at in range(0, len(digits), _GROUP))


def same_fingerprint(one: str, other: str) -> bool:
    """Return whether two fingerprints are the same, however they are spaced."""

    def digits(text: str) -> str:
        return "".join(text.replace(":", " ").replace("-", " ").split()).lower()

    return digits(one) == digits(other)


def shown_subject(certificate: x509.Certificate) -> str:
    """Return a certificate's subject as text that a terminal can show safely."""
    text = certificate.subject.rfc4514_string()
    return "".join(letter if letter.isprintable() else "?" for letter in text)[:200]


def _check_texts(bundle: Bundle) -> None:
    if not 1 <= len(bundle.site) <= MAX_SITE_CHARACTERS or not bundle.site.isprintable():
        raise InputError(f"the bundle's site is no name of 1 to {MAX_SITE_CHARACTERS} characters")
    for name, url in (("peer_url", bundle.peer_url), ("sae_url", bundle.sae_url)):
        if not _is_url(url):
            raise InputError(f"the bundle's {name} must be https://HOST:PORT and nothing more")


def _is_url(text: str) -> bool:
    if len(text) > _MAX_URL_CHARACTERS or not text.isascii() or not text.isprintable():
        return False
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError:
        return False
    host = parts.hostname or ""
    return (
        text.lower() == f"https://{host}:{port}" and bool(host) and bool(port) and " " not in text
    )


def _normal(bundle: Bundle) -> Bundle:
    """Return the bundle with its certificates, and nothing else, in their texts."""
    values: dict[str, Any] = asdict(bundle)
    for name in ("ca", "root"):
        values[name] = _pem(_certificate(name, values[name]))
    return Bundle(**values)


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(Encoding.PEM).decode()


def _certificate(name: str, pem: str) -> x509.Certificate:
    try:
        certificates = x509.load_pem_x509_certificates(pem.encode())
    except ValueError as error:
        raise InputError(f"{name}: no certificate can be read") from error
    if len(certificates) != 1:
        raise InputError(f"{name}: one certificate is expected, not {len(certificates)}")
    return certificates[0]


def _check_authority(
    name: str, certificate: x509.Certificate, length: int | None, now: datetime
) -> None:
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
        usage = certificate.extensions.get_extension_for_class(x509.KeyUsage).value
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError) as error:
        raise InputError(f"the bundle's {name} is no authority") from error
    if not basic.ca or not usage.key_cert_sign:
        raise InputError(f"the bundle's {name} is no authority")
    if length is not None and basic.path_length != length:
        raise InputError(f"the bundle's {name} could make further authorities: it must not")
    if now > certificate.not_valid_after_utc:
        raise InputError(f"the bundle's {name} ended on {_day(certificate.not_valid_after_utc)}")
    if now < certificate.not_valid_before_utc:
        begin = _day(certificate.not_valid_before_utc)
        raise InputError(f"the bundle's {name} begins on {begin}: are both clocks right?")


def _day(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
