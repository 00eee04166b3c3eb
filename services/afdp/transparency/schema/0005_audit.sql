-- The self-audit: where its walk through the log goes on, shared by all replicas, and what it has found. At most one row
-- per log. A fault stays until fsck has found the log whole.
CREATE TABLE audit (
    log_id      smallint NOT NULL PRIMARY KEY,
    -- Bundles of 256 entries: the first that was taken last, and the next to be taken.
    taken       bigint   NOT NULL DEFAULT 0,
    next_bundle bigint   NOT NULL DEFAULT 0,
    rounds      bigint   NOT NULL DEFAULT 0,
    fault       text     NOT NULL DEFAULT '',
    found_at    timestamptz
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
