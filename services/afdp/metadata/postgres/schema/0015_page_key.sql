-- What page tokens are sealed under: one key for all who serve from this database, made where it is. Who has it can read
-- positions out of tokens, and make some; a token grants nothing, for each query is confined to its tenant.
CREATE TABLE page_key (
    is_one boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (is_one),
    key    bytea   NOT NULL CHECK (octet_length(key) = 32)
);
-- Two random UUIDs have 244 random bits.
INSERT INTO page_key (key) VALUES (sha256(uuid_send(gen_random_uuid()) || uuid_send(gen_random_uuid())));
GRANT SELECT ON page_key TO afdp_metadata_writer;
