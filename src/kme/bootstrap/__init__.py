"""bootstrap - the first start: the PKI made, Vault initialised, set up and unsealed."""
