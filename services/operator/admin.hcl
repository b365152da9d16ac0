# admin issues and revokes certificates of SAEs, registers them, and connects other KMEs.

path "pki-sae/sign/sae" {
  capabilities = ["update"]
}
path "pki-sae/revoke" {
  capabilities = ["update"]
}
# A revocation counts once it stands in the list, which this makes anew.
path "pki-sae/crl/rotate" {
  capabilities = ["read"]
}
path "pki-sae/certs" {
  capabilities = ["list"]
}

path "kme/data/registry/*" {
  capabilities = ["create", "read", "update"]
}
path "kme/metadata/registry/*" {
  capabilities = ["list", "read", "delete"]
}
path "kme/data/site/peers/*" {
  capabilities = ["create", "read", "update"]
}
path "kme/metadata/site/peers/*" {
  capabilities = ["list", "read", "delete"]
}

# That the volumes were put back to an older copy: make restored.
path "kme/data/site/restore" {
  capabilities = ["create", "read", "update"]
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
