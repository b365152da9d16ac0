"""vault - the appliance's store: documents of HashiCorp Vault under check-and-set."""

from kme.store.vault.store import VaultStore

__all__ = ["VaultStore"]
