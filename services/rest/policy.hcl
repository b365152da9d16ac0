# rest makes key blocks of final keys and keys of key blocks: it reads, writes and uses up.

path "kme/data/inbox/*" {
  capabilities = ["create", "read", "update"]
}
path "kme/data/index/*" {
  capabilities = ["create", "read", "update"]
}
path "kme/data/pairs/*" {
  capabilities = ["create", "read", "update"]
}
path "kme/data/room/*" {
  capabilities = ["create", "read", "update"]
}
path "kme/data/blocks/*" {
  capabilities = ["create", "read", "update"]
}
path "kme/data/ledgers/*" {
  capabilities = ["create", "read", "update"]
}
path "kme/data/expiry/*" {
  capabilities = ["create", "read", "update"]
}
path "kme/data/grants/*" {
  capabilities = ["create", "read", "update"]
}
path "kme/data/heartbeats/*" {
  capabilities = ["create", "read", "update"]
}
path "kme/data/incidents" {
  capabilities = ["create", "read", "update"]
}
path "kme/data/incidents/*" {
  capabilities = ["create", "read", "update"]
}
path "kme/data/lease" {
  capabilities = ["create", "read", "update"]
}
path "kme/data/registry/*" {
  capabilities = ["create", "read", "update"]
}

# Who the peers are, and the key of digests: an operator or vault_init writes that.
path "kme/data/site/*" {
  capabilities = ["read"]
}

# Which documents there are.
path "kme/metadata/*" {
  capabilities = ["list"]
}

# What is used up goes for good: all versions and their metadata.
path "kme/metadata/inbox/*" {
  capabilities = ["list", "delete"]
}
path "kme/metadata/index/*" {
  capabilities = ["list", "delete"]
}
path "kme/metadata/blocks/*" {
  capabilities = ["list", "delete"]
}
path "kme/metadata/ledgers/*" {
  capabilities = ["list", "delete"]
}
path "kme/metadata/grants/*" {
  capabilities = ["list", "delete"]
}
path "kme/metadata/room/*" {
  capabilities = ["list", "delete"]
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
