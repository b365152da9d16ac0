"""vault - HashiCorp Vault: sessions that log in by certificate, documents under check-and-set."""
