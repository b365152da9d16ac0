# restore puts Vault back to an older snapshot of itself. Vault checks that it is one: nobody
# may use snapshot-force, which takes another Vault's, too, and destroys what is here.

path "sys/storage/raft/snapshot" {
  capabilities = ["update"]
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
