-- Checkpoints that as many witnesses have cosigned as the policy asks for. Rows are written once and never changed; at most
-- one a second, and none while the log does not grow.
CREATE TABLE cosigned_checkpoint (
    log_id  smallint    NOT NULL,
    size    bigint      NOT NULL CHECK (size > 0),
    root    bytea       NOT NULL CHECK (octet_length(root) = 32),
    -- The signed note with the cosignatures that were verified.
    note    text        NOT NULL,
    kept_at timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (log_id, size)
);

-- When witnesses were asked last, by the database's clock: replicas share the cadence.
CREATE TABLE witness_turn (
    log_id   smallint    NOT NULL PRIMARY KEY,
    begun_at timestamptz NOT NULL
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
