# One Vault: raft storage on a volume, one listener, both sides of it with a certificate.
# Its certificates are certauth's (/vault/tls); its audit log is enabled through the API by
# vault_init (/vault/audit/audit.log).

storage "raft" {
  path    = "/vault/data"
  node_id = "vault"

  # The only node waits for no other: it leads a second after it was unsealed, not ten.
  performance_multiplier = 1
}

listener "tcp" {
  address = "0.0.0.0:8200"

  # Raft's own port: there is no second node, so nobody else may reach it.
  cluster_address = "127.0.0.1:8201"

  tls_min_version   = "tls13"
  tls_cert_file     = "/vault/tls/server.pem"
  tls_key_file      = "/vault/tls/server-key.pem"

  # Only the services' authority: no certificate of an SAE or a KME is accepted here.
  tls_client_ca_file                 = "/vault/tls/client-ca.pem"
  tls_require_and_verify_client_cert = true

  # The largest document is a key block of 64 KiB in base64.
  max_request_size = 2097152
}

api_addr     = "https://vault:8200"
cluster_addr = "https://127.0.0.1:8201"

# The container has no capability to lock memory, and raft maps its whole database: so the host
# must have no swap, or an encrypted one.
disable_mlock = true

ui         = false
log_level  = "info"
log_format = "json"

# A client gives up after 5 s; its request shall not go on for long behind its back.
default_max_request_duration = "15s"

# Nothing is counted or told to anyone.
telemetry {
  usage_gauge_period        = "none"
  prometheus_retention_time = "0s"
  disable_hostname          = true
}
