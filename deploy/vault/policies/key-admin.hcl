# afdp-key-admin: new versions of keys, and the end of a subject's data keys. It signs nothing and opens nothing.

# New versions. Not of a log's key, which is part of the log's identity.
path "afdp-transit/keys/+/rotate" { capabilities = ["update"] }
path "afdp-transit/keys/afdp-log-key/rotate" { capabilities = ["deny"] }
path "afdp-transit/keys/afdp-log-of-*" { capabilities = ["deny"] }
path "afdp-transit/keys/+" { capabilities = ["read"] }

# A subject's key is destroyed: `config` with deletion_allowed, then it is deleted, then one that can only sign is made in
# its place, so that nothing is encrypted for the subject any more.
path "afdp-transit/keys/afdp-data-*" { capabilities = ["create", "read", "update", "delete"] }

# Its own token
path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self" { capabilities = ["update"] }
path "auth/token/revoke-self" { capabilities = ["update"] }
