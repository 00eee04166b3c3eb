-- Which replica copies the log to its mirror, and until when it has the turn if it does not keep it.
CREATE TABLE mirror_turn (
    log_id smallint    NOT NULL PRIMARY KEY,
    holder text        NOT NULL,
    until  timestamptz NOT NULL
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);
