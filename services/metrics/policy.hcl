# metrics reads Vault's own numbers: requests, storage, seal; nothing that is stored.

path "sys/metrics" {
  capabilities = ["read"]
}

# Its own token, since it has not the default policy.
path "auth/token/lookup-self" {
  capabilities = ["read"]
}
path "auth/token/renew-self" {
  capabilities = ["update"]
}
path "auth/token/revoke-self" {
  capabilities = ["update"]
}
