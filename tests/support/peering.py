"""peering - KME certificates made on the spot, and a peer handler that a test can read."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.serialization import Encoding

from kme.errors import KmeError
from kme.ids import Epoch, KmeId, SourceId
from kme.pairing.ports import (
    BlockTag,
    Comparison,
    Heartbeat,
    HeartbeatAnswer,
    HeartbeatOutcome,
    PairStock,
    RestoreChallenge,
    RestoreConsent,
    RestoreTerms,
)
from kme.pki.authority import Authority, Leaf, TlsRole, Validity
from kme.pki.bundle import Credential, CredentialFiles, write_certificates, write_credential
from kme.registry.records import SaeList
from kme.store.records import FinalKeyRef, Proposal, Verdict

BOTH_ROLES = TlsRole.SERVER | TlsRole.CLIENT


@dataclass
class RecordingHandler:
    """A `PeerHandler` that remembers what it was asked and may refuse to answer."""

    error: KmeError | Exception | None = None
    calls: list[tuple[KmeId, object]] = field(default_factory=list)

    async def on_heartbeat(self, peer: KmeId, heartbeat: Heartbeat) -> HeartbeatAnswer:
        self._note(peer, heartbeat)
        return HeartbeatAnswer(HeartbeatOutcome.CHALLENGED, "c" * 32, 7, 4096)

    async def on_held(self, peer: KmeId, refs: Sequence[FinalKeyRef]) -> list[FinalKeyRef]:
        self._note(peer, list(refs))
        return list(refs)[::2]

    async def on_propose(self, peer: KmeId, proposal: Proposal) -> Verdict:
        self._note(peer, proposal)
        return Verdict.UNEQUAL

    async def on_ask_restore(self, peer: KmeId, incarnation: str) -> RestoreChallenge:
        self._note(peer, incarnation)
        return RestoreChallenge("d" * 32, is_restoring=True)

    async def on_agree_restore(self, peer: KmeId, terms: RestoreTerms) -> RestoreConsent:
        self._note(peer, terms)
        return RestoreConsent(terms.highest + 2, "e" * 32, {SourceId("link"): Epoch(77)})

    def _note(self, peer: KmeId, what: object) -> None:
        self.calls.append((peer, what))
        if self.error is not None:
            raise self.error


OPERATOR_STOCK = PairStock(highest=9, settled=8, n_blocks=3, n_bytes=4096, n_keys=128)


@dataclass
class OperatedHandler:
    """An `OperatorHandler` that remembers what it was asked and may refuse to answer."""

    error: KmeError | None = None
    calls: list[tuple[KmeId, object]] = field(default_factory=list)

    async def on_saes(self, peer: KmeId, told: SaeList) -> None:
        self._note(peer, told)

    async def on_stock(self, peer: KmeId, key_bytes: int) -> PairStock:
        self._note(peer, key_bytes)
        return OPERATOR_STOCK

    async def on_compare(self, peer: KmeId, tags: Sequence[BlockTag]) -> list[Comparison]:
        self._note(peer, list(tags))
        return [Comparison.EQUAL if tag.number % 2 else Comparison.ABSENT for tag in tags]

    async def on_clear(self, peer: KmeId, highest: int) -> int:
        self._note(peer, highest)
        return highest + 2

    def _note(self, peer: KmeId, what: object) -> None:
        self.calls.append((peer, what))
        if self.error is not None:
            raise self.error


class KmeAuthority:
    """The CA of the KMEs."""

    def __init__(self) -> None:
        validity = Validity.lasting(timedelta(days=1), datetime.now(UTC))
        self._validity = validity
        root = Authority.root("root of a test", validity)
        self._issuer = root.issue_authority("KMEs of a test", BOTH_ROLES, validity)

    def issue(self, name: str, *uris: str) -> Credential:
        """Make a certificate for a KME on this host."""
        leaf = Leaf(name, BOTH_ROLES, uris or (f"kme-id:{name}",), ("127.0.0.1", "localhost"))
        return self._issuer.issue(leaf, self._validity)

    def pem(self, name: str, *uris: str) -> str:
        """Make one and return its certificate, PEM."""
        return self.issue(name, *uris).certificate.public_bytes(Encoding.PEM).decode()

    def write(self, directory: Path, name: str, *uris: str) -> CredentialFiles:
        """Make one and write it to files."""
        files = CredentialFiles(directory / f"{name}.crt", directory / f"{name}.key")
        write_credential(self.issue(name, *uris), files)
        return files

    def write_trust(self, directory: Path) -> Path:
        """Write what members of this CA trust."""
        path = directory / "kme-ca.crt"
        write_certificates([self._issuer.credential.certificate], path)
        return path
