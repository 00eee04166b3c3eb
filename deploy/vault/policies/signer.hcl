# afdp-signer: what the signer may do. It signs with its keys, reads their public halves, wraps and unwraps data keys,
# and keeps its own token alive. It makes no key but a data key's, rotates none, deletes none, exports none.

# Signatures
path "afdp-transit/sign/afdp-notary-key" { capabilities = ["update"] }
path "afdp-transit/sign/afdp-log-key" { capabilities = ["update"] }
path "afdp-transit/sign/afdp-log-of-*" { capabilities = ["update"] }
path "afdp-transit/sign/afdp-timestamp-key" { capabilities = ["update"] }
path "afdp-transit/sign/afdp-trust-key" { capabilities = ["update"] }
path "afdp-transit/sign/afdp-tenant-*" { capabilities = ["update"] }

# Public keys
path "afdp-transit/keys/afdp-notary-key" { capabilities = ["read"] }
path "afdp-transit/keys/afdp-log-key" { capabilities = ["read"] }
path "afdp-transit/keys/afdp-log-of-*" { capabilities = ["read"] }
path "afdp-transit/keys/afdp-timestamp-key" { capabilities = ["read"] }
path "afdp-transit/keys/afdp-trust-key" { capabilities = ["read"] }
path "afdp-transit/keys/afdp-tenant-*" { capabilities = ["read"] }

# Data keys, wrapped under one key per subject, which `create` makes when it is first used. Its name is a hash of the
# subject, keyed with `afdp-subject-names`; reading it tells whether the subject's key was destroyed.
path "afdp-transit/encrypt/afdp-data-*" { capabilities = ["create", "update"] }
path "afdp-transit/decrypt/afdp-data-*" { capabilities = ["update"] }
path "afdp-transit/rewrap/afdp-data-*" { capabilities = ["update"] }
path "afdp-transit/keys/afdp-data-*" { capabilities = ["read"] }
path "afdp-transit/hmac/afdp-subject-names/sha2-256" { capabilities = ["update"] }

# Its own token
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self" { capabilities = ["update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
path "sys/capabilities-self" { capabilities = ["update"] }
