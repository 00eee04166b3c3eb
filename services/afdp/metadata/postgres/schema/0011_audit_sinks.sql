-- Where each sink of the audit trail is: events up to `cursor` were taken by it. One process holds it at a time.
CREATE TABLE audit_sink (
    -- Its name in the settings.
    name       text        NOT NULL PRIMARY KEY,
    cursor     bigint      NOT NULL CHECK (cursor >= 0),
    holder     uuid,
    held_until timestamptz NOT NULL DEFAULT '-infinity',
    -- Before this it is left alone.
    due_at     timestamptz NOT NULL DEFAULT '-infinity',
    -- Times in a row that it did not take what came next, why, and since when.
    failures   integer     NOT NULL DEFAULT 0,
    trouble    text        NOT NULL DEFAULT '',
    since      timestamptz
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

GRANT SELECT, INSERT, UPDATE (cursor, holder, held_until, due_at, failures, trouble, since) ON audit_sink
    TO afdp_metadata_writer;
