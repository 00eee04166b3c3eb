# What deploy/vault/setup.py may do once the server is initialised and the root token is gone.
path "sys/mounts" { capabilities = ["read"] }
path "sys/mounts/afdp-transit" { capabilities = ["create", "read", "update"] }
path "sys/policies/acl/afdp-signer" { capabilities = ["create", "read", "update"] }
path "afdp-transit/keys/*" { capabilities = ["create", "read", "update", "list"] }
path "auth/token/roles/afdp-signer" { capabilities = ["create", "read", "update"] }
path "auth/token/create/afdp-signer" { capabilities = ["create", "update"] }
path "auth/token/renew" { capabilities = ["update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
