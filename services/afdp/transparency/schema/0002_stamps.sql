-- Checkpoints that an authority outside of the notary has stamped (RFC 3161): proof of when the log held its entries that
-- does not rest on any key of the notary's. Rows are written once and never changed.
CREATE TABLE stamped_checkpoint (
    log_id     smallint    NOT NULL,
    size       bigint      NOT NULL CHECK (size > 0),
    root       bytea       NOT NULL CHECK (octet_length(root) = 32),
    note       text        NOT NULL,
    -- TimeStampResp over the note's body, DER.
    timestamp  bytea       NOT NULL CHECK (octet_length(timestamp) > 0),
    authority  text        NOT NULL,
    -- As the authority states it.
    stamped_at timestamptz NOT NULL,
    -- By the database's own clock: what the cadence goes by.
    kept_at    timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (log_id, size)
);
ALTER TABLE stamped_checkpoint ALTER COLUMN timestamp SET STORAGE EXTERNAL;
