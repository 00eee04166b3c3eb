-- Records that go to logs of others. Such a log may be slow, or away for days: a record waits in this queue, which is
-- written with it, and not in `pending`.
CREATE TABLE log_queue (
    receipt_id uuid        NOT NULL,
    tenant     text        NOT NULL,
    -- Its name in the settings.
    log        text        NOT NULL,
    -- Whether the record is LOGGED by it; else it is a further log.
    main       boolean     NOT NULL,
    queued_at  timestamptz NOT NULL DEFAULT statement_timestamp(),
    -- When it may be taken out: who takes it moves this on by the length of the lease, and so does who puts it back.
    due_at     timestamptz NOT NULL DEFAULT statement_timestamp(),
    attempts   integer     NOT NULL DEFAULT 0,
    PRIMARY KEY (receipt_id, log)
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);
CREATE INDEX log_queue_by_due ON log_queue (log, due_at);
CREATE INDEX log_queue_by_age ON log_queue (log, queued_at);

-- Where records are in further logs, beside the one in `log_entry`.
CREATE TABLE further_entry (
    receipt_id uuid        NOT NULL,
    tenant     text        NOT NULL,
    origin     text        NOT NULL,
    log_index  bigint      NOT NULL CHECK (log_index >= 0),
    tree_size  bigint      NOT NULL CHECK (tree_size > log_index),
    proof      bytea       NOT NULL CHECK (octet_length(proof) % 32 = 0),
    note       text        NOT NULL,
    logged_at  timestamptz NOT NULL DEFAULT statement_timestamp(),
    PRIMARY KEY (receipt_id, origin)
) PARTITION BY RANGE (receipt_id);
ALTER TABLE further_entry ALTER COLUMN proof SET STORAGE EXTERNAL;

-- What an entry of a Rekor v1 has beside its place in the tree.
CREATE TABLE rekor1_entry (
    receipt_id      uuid   NOT NULL,
    tenant          text   NOT NULL,
    origin          text   NOT NULL,
    body            bytea  NOT NULL,
    -- Through all trees of the log.
    log_index       bigint NOT NULL CHECK (log_index >= 0),
    integrated_time bigint NOT NULL,
    promise         bytea  NOT NULL,
    PRIMARY KEY (receipt_id, origin)
) PARTITION BY RANGE (receipt_id);
