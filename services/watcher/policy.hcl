# watcher puts final keys into the inbox. It may create them and never read them back.

path "kme/data/inbox/*" {
  capabilities = ["create"]
}

# Whether an entry is there already (its version and time, not its bytes): then it was written
# by a run that died before it took note of it.
path "kme/metadata/inbox/*" {
  capabilities = ["read"]
}

# What came in, and which epochs are used up: counts and digests, no key.
path "kme/data/index/*" {
  capabilities = ["create", "read", "update"]
}
path "kme/metadata/index/*" {
  capabilities = ["list"]
}

# Key of the digests that stand beside final keys.
path "kme/data/site/digest-key" {
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
