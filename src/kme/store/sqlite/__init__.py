"""sqlite - the embedded default store: WAL, one writer with group commit, sealed key bytes."""

from kme.store.sqlite.masterkey import create_master_key, read_master_key
from kme.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore", "create_master_key", "read_master_key"]
