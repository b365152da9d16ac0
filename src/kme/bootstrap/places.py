"""places - where vault_init finds and leaves files: one home for each name."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Places:
    """The folders of vault_init.

    Parameters
    ----------
    exchange
        Shared with certauth; nothing in it is secret.
    state
        Its own.
    policies
        ``<role>.hcl`` of every role that logs in.
    out
        One folder for each service that is served.
    """

    exchange: Path
    state: Path
    policies: Path
    out: Path

    @property
    def unsealer_shares(self) -> Path:
        """Enough shares to unseal."""
        return self.out / "unsealer" / "shares.json"

    @property
    def offline_shares(self) -> Path:
        """The other shares; an operator takes them away."""
        return self.out / "shares" / "offline-shares.json"

    @property
    def initialising(self) -> Path:
        """There while Vault is being initialised and its shares are not written yet."""
        return self.state / "initialising"

    @property
    def writable(self) -> tuple[Path, ...]:
        """Every folder that vault_init writes to."""
        return (self.exchange, self.state, self.out)
