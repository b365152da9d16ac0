# inspect is what an operator may look at: counts, digests and states, never a key's bytes.

path "kme/metadata/*" {
  capabilities = ["list", "read"]
}
path "kme/data/index/*" {
  capabilities = ["read"]
}
path "kme/data/pairs/*" {
  capabilities = ["read"]
}
path "kme/data/room/*" {
  capabilities = ["read"]
}
path "kme/data/ledgers/*" {
  capabilities = ["read"]
}
path "kme/data/expiry/*" {
  capabilities = ["read"]
}
path "kme/data/registry/*" {
  capabilities = ["read"]
}
path "kme/data/incidents" {
  capabilities = ["read"]
}
path "kme/data/incidents/*" {
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
