-- Logs that others run and that our entries go to.

-- Every shard that was ever met: what a receipt of it is verified with, for as long as there are receipts.
CREATE TABLE external_log (
    -- `logId.keyId`.
    log_id      bytea       NOT NULL PRIMARY KEY CHECK (octet_length(log_id) = 32),
    name        text        NOT NULL,
    api_version smallint    NOT NULL CHECK (api_version IN (1, 2)),
    origin      text        NOT NULL,
    url         text        NOT NULL,
    read_url    text        NOT NULL,
    spki        bytea       NOT NULL,
    valid_from  timestamptz NOT NULL,
    met_at      timestamptz NOT NULL DEFAULT statement_timestamp(),
    -- Why nothing goes there, until an operator says so; null where nothing is wrong.
    refused     text,
    refused_at  timestamptz
);

-- The largest tree that was seen of each log; a Rekor v1 may have several trees.
CREATE TABLE external_tree (
    log_id  bytea       NOT NULL,
    origin  text        NOT NULL,
    size    bigint      NOT NULL CHECK (size >= 0),
    root    bytea       NOT NULL CHECK (octet_length(root) = 32),
    note    text        NOT NULL,
    seen_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (log_id, origin)
);

-- What a log was refused for: the note that was known, and the one that cannot be of the same growing tree. Never deleted.
CREATE TABLE external_evidence (
    id           bigint      NOT NULL GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    log_id       bytea       NOT NULL,
    reason       text        NOT NULL,
    known_note   text        NOT NULL,
    refused_note text        NOT NULL,
    found_at     timestamptz NOT NULL DEFAULT statement_timestamp()
);
