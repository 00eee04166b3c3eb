-- Several logs in one deployment. A row in `tree` is what makes a log one, and the key of all that it holds; what a log is
-- for stands here. The first one, that of `AFDP_LOG_ORIGIN`, is for everybody and has no row here.

-- Since when nothing is appended any more. It is written under the row's lock, as all that is appended is.
ALTER TABLE tree ADD COLUMN frozen_at timestamptz;

CREATE TABLE log (
    log_id      smallint    NOT NULL PRIMARY KEY,
    -- Where readers find it; empty: under the first log's base URL.
    base_url    text        NOT NULL,
    -- Whose entries it takes, for ever; empty: those of all tenants that no other log is for.
    tenants     text[]      NOT NULL,
    -- The log that it goes on from once that one is frozen: one after the other, so that no entry has two places to go.
    predecessor smallint    UNIQUE,
    opened_at   timestamptz NOT NULL DEFAULT statement_timestamp()
);
