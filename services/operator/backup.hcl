# backup takes a snapshot of all that Vault holds, as it lies on Vault's disk: encrypted.

path "sys/storage/raft/snapshot" {
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
