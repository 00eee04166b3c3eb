# One node on one machine, as compose.yaml starts it. It opens itself after a restart with the key beside its storage:
# whoever can read this volume can use the keys in it. Where that is not enough, let `seal` name a key management
# service or a hardware module, and take a storage of several nodes.
storage "raft" {
  path    = "/var/lib/afdp/raft"
  node_id = "afdp"

  # A single node waits for nobody.
  performance_multiplier = 1
}

seal "static" {
  current_key_id = "1"
  current_key    = "file:///var/lib/afdp/seal-key"
}

listener "tcp" {
  address         = "0.0.0.0:8200"
  cluster_address = "127.0.0.1:8201"
  tls_cert_file   = "/run/tls/cert.pem"
  tls_key_file    = "/run/tls/key.pem"
  tls_min_version = "tls13"
}

api_addr     = "https://vault:8200"
cluster_addr = "https://127.0.0.1:8201"
log_level    = "warn"
