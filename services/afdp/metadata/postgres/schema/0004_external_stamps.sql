-- Signatures that an authority outside of the notary is to stamp as well. A row is written with its record, and goes in
-- the transaction that keeps the stamp; `due_at` is when it may be taken, `attempts` how often it was.
CREATE TABLE stamp_wanted (
    receipt_id uuid        NOT NULL PRIMARY KEY,
    tenant     text        NOT NULL,
    since      timestamptz NOT NULL,
    due_at     timestamptz NOT NULL DEFAULT statement_timestamp(),
    attempts   integer     NOT NULL DEFAULT 0
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
CREATE INDEX stamp_wanted_by_due ON stamp_wanted (due_at);

-- Their RFC 3161 responses, DER, over the signatures of records. Beside the records, which are written once.
CREATE TABLE external_stamp (
    receipt_id uuid        NOT NULL PRIMARY KEY,
    tenant     text        NOT NULL,
    timestamp  bytea       NOT NULL,
    kept_at    timestamptz NOT NULL DEFAULT statement_timestamp()
) PARTITION BY RANGE (receipt_id);
ALTER TABLE external_stamp ALTER COLUMN timestamp SET STORAGE EXTERNAL;
