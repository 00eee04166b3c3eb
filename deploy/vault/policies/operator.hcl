# afdp-operator: what setup.py may do once the server is initialised and the root token is gone. Who can write policies
# and logins can give himself any right here: keep its AppRole as you would keep a root token.
path "sys/mounts" { capabilities = ["read"] }
path "sys/mounts/afdp-transit" { capabilities = ["create", "read", "update"] }
path "afdp-transit/keys/*" { capabilities = ["create", "read", "update", "list"] }
path "sys/policies/acl/afdp-*" { capabilities = ["create", "read", "update"] }

# Logins
path "sys/auth" { capabilities = ["read"] }
path "sys/auth/approle" { capabilities = ["create", "read", "update", "sudo"] }
path "sys/auth/kubernetes" { capabilities = ["create", "read", "update", "sudo"] }
path "sys/auth/cert" { capabilities = ["create", "read", "update", "sudo"] }
path "auth/approle/role/afdp-*" { capabilities = ["create", "read", "update", "list"] }
path "auth/kubernetes/config" { capabilities = ["create", "read", "update"] }
path "auth/kubernetes/role/afdp-*" { capabilities = ["create", "read", "update"] }
path "auth/cert/certs/afdp-*" { capabilities = ["create", "read", "update"] }
path "auth/token/roles/afdp-*" { capabilities = ["create", "read", "update"] }
path "auth/token/create/afdp-*" { capabilities = ["create", "update"] }

# Tokens that it made, and its own
path "auth/token/renew" { capabilities = ["update"] }
path "auth/token/revoke" { capabilities = ["update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
