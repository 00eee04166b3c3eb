# What the signer's token may do: sign with the two keys, read their public halves, and keep itself alive.
path "afdp-transit/sign/afdp-notary-key" { capabilities = ["update"] }
path "afdp-transit/sign/afdp-notary-key/*" { capabilities = ["update"] }
path "afdp-transit/keys/afdp-notary-key" { capabilities = ["read"] }

path "afdp-transit/sign/afdp-log-key" { capabilities = ["update"] }
path "afdp-transit/sign/afdp-log-key/*" { capabilities = ["update"] }
path "afdp-transit/keys/afdp-log-key" { capabilities = ["read"] }

path "auth/token/lookup-self" { capabilities = ["read"] }
path "auth/token/renew-self" { capabilities = ["update"] }
