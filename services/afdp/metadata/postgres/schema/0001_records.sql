-- Records of what was notarised, and what finds them again.
--
-- Rows of `record`, `record_content`, `record_artifact`, `checkpoint` and `log_entry` are written once and never
-- changed. How far a record has come is told by which tables know it: `pending` until it is in the log, `log_entry`
-- from then on. There are no foreign keys: every statement that writes is atomic by itself, and a check per row would
-- cost as much as the insert.
--
-- What is kept of a record for as long as the record is divided into months by its receipt ID, which begins with the
-- time: what has expired goes by whole partitions, and its space with it. The bounds hold whatever the session's time
-- zone is. Each such table has the tenant too, so that row security need not look at another table. `make_months` makes
-- the partitions; there is none for what belongs nowhere, so that a receipt ID without a time is refused.

-- What lists and searches look at: narrow, so that a million rows fit in memory.
CREATE TABLE record (
    receipt_id      uuid        NOT NULL PRIMARY KEY,
    tenant          text        NOT NULL,
    notarized_at    timestamptz NOT NULL,
    evidence_hash   bytea       NOT NULL CHECK (octet_length(evidence_hash) = 32),
    -- 64 bits of a hash over tenant and evidence hash: what an index over random values holds must be narrow, or every
    -- insert waits for a page that is not in memory. The hash itself is compared as well.
    evidence_key    bigint      NOT NULL,
    event_type      text        NOT NULL,
    actor_type      text        NOT NULL,
    actor_id        text        NOT NULL,
    timestamp_utc   timestamptz NOT NULL,
    -- SHA-256 of each artifact in the order of the package, 32 bytes each, concatenated.
    artifact_hashes bytea       NOT NULL CHECK (octet_length(artifact_hashes) % 32 = 0),
    key_id          text        NOT NULL,
    -- 1 simple, 2 approval, 3 batch: the numbers of WorkflowType.
    workflow_type   smallint    NOT NULL CHECK (workflow_type BETWEEN 1 AND 3),
    batch_id        uuid
) PARTITION BY RANGE (receipt_id);

-- Every list is newest first; the receipt ID settles ties, so that a page begins exactly where the last one ended.
CREATE INDEX record_by_time ON record (tenant, notarized_at, receipt_id) INCLUDE (workflow_type);
CREATE INDEX record_by_evidence ON record (evidence_key, notarized_at);
CREATE INDEX record_by_event_type ON record (tenant, event_type, notarized_at, receipt_id);
CREATE INDEX record_by_actor ON record (tenant, actor_id, notarized_at, receipt_id);
CREATE INDEX record_by_key ON record (tenant, key_id, notarized_at, receipt_id);
CREATE INDEX record_by_batch ON record (batch_id) WHERE batch_id IS NOT NULL;

-- One row per record and distinct artifact; `artifact_key` is made as `evidence_key` is.
CREATE TABLE record_artifact (
    artifact_key  bigint      NOT NULL,
    notarized_at  timestamptz NOT NULL,
    receipt_id    uuid        NOT NULL,
    tenant        text        NOT NULL,
    artifact_hash bytea       NOT NULL CHECK (octet_length(artifact_hash) = 32)
) PARTITION BY RANGE (receipt_id);
CREATE INDEX record_artifact_by_key ON record_artifact (artifact_key, notarized_at);

-- The rest of a record. The bytes stay as they are: compressing a few kilobytes costs more than it saves.
CREATE TABLE record_content (
    receipt_id     uuid  NOT NULL PRIMARY KEY,
    tenant         text  NOT NULL,
    issuer         text  NOT NULL,
    subject        text  NOT NULL,
    method         text  NOT NULL,
    evidence       bytea NOT NULL,
    statement      bytea NOT NULL,
    signature      bytea NOT NULL,
    leaf_hash      bytea NOT NULL CHECK (octet_length(leaf_hash) = 32)
) PARTITION BY RANGE (receipt_id);
ALTER TABLE record_content ALTER COLUMN evidence SET STORAGE EXTERNAL;
ALTER TABLE record_content ALTER COLUMN statement SET STORAGE EXTERNAL;

-- Records that are not known to be in the log. A row lives for milliseconds, so vacuum comes by count, not by share.
CREATE TABLE pending (
    receipt_id   uuid        NOT NULL PRIMARY KEY,
    tenant       text        NOT NULL,
    notarized_at timestamptz NOT NULL
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);

-- One signed note per tree that proofs were made for.
CREATE TABLE checkpoint (
    origin    text   NOT NULL,
    tree_size bigint NOT NULL CHECK (tree_size > 0),
    note      text   NOT NULL,
    PRIMARY KEY (origin, tree_size)
);

CREATE TABLE log_entry (
    receipt_id uuid        NOT NULL PRIMARY KEY,
    tenant     text        NOT NULL,
    origin     text        NOT NULL,
    log_index  bigint      NOT NULL CHECK (log_index >= 0),
    tree_size  bigint      NOT NULL CHECK (tree_size > log_index),
    proof      bytea       NOT NULL CHECK (octet_length(proof) % 32 = 0),
    logged_at  timestamptz NOT NULL DEFAULT statement_timestamp()
) PARTITION BY RANGE (receipt_id);
ALTER TABLE log_entry ALTER COLUMN proof SET STORAGE EXTERNAL;

-- One entry, one record: what no constraint of a divided table can say. Written with `log_entry`, always at the end of
-- its index, and kept when the record has expired: an entry of the log then still has a name.
CREATE TABLE log_place (
    origin     text   NOT NULL,
    log_index  bigint NOT NULL,
    receipt_id uuid   NOT NULL,
    tenant     text   NOT NULL,
    PRIMARY KEY (origin, log_index)
);

-- The least receipt ID of a moment.
CREATE FUNCTION first_id(moment timestamptz) RETURNS uuid LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT (lpad(to_hex(floor(extract(epoch FROM moment) * 1000)::bigint), 12, '0') || repeat('0', 20))::uuid
$$;

-- When a receipt ID was made.
CREATE FUNCTION time_of(id uuid) RETURNS timestamptz LANGUAGE sql IMMUTABLE STRICT PARALLEL SAFE AS $$
    SELECT to_timestamp(('x0000' || left(replace(id::text, '-', ''), 12))::bit(64)::bigint / 1000.0)
$$;

-- No record is deleted row by row, nor a table emptied, by nobody: only a superuser can put this aside, or an owner who
-- takes the triggers away.
CREATE FUNCTION refuse_deletion() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'nothing is deleted here: records expire, by the month' USING ERRCODE = 'restrict_violation';
END
$$;

-- Makes a table one that is reached through its whole alone, and loses no row.
CREATE FUNCTION close_part(part text) RETURNS void
LANGUAGE plpgsql SET search_path = afdp_metadata, pg_temp AS $$
BEGIN
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', part);
    EXECUTE format('CREATE TRIGGER no_deletion BEFORE DELETE ON %I FOR EACH ROW EXECUTE FUNCTION refuse_deletion()', part);
    EXECUTE format('CREATE TRIGGER no_truncation BEFORE TRUNCATE ON %I EXECUTE FUNCTION refuse_deletion()', part);
END
$$;

-- Makes the partitions of a month (UTC, its first day) of every divided table, unless they are there; whether one was
-- missing. Any number may do so at once; it holds up nobody who writes or reads.
CREATE FUNCTION make_month(month date) RETURNS boolean
LANGUAGE plpgsql SET search_path = afdp_metadata, pg_temp AS $$
DECLARE
    start   timestamptz := month::timestamp AT TIME ZONE 'UTC';
    until   timestamptz := (month + interval '1 month') AT TIME ZONE 'UTC';
    divided text;
    part    text;
    made    boolean := false;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('afdp_metadata.month', 0));
    FOR divided IN
        SELECT c.relname FROM pg_class c
        WHERE c.relnamespace = 'afdp_metadata'::regnamespace AND c.relkind = 'p' ORDER BY c.relname
    LOOP
        part := format('%s_%s', divided, to_char(month, 'YYYYMM'));
        CONTINUE WHEN EXISTS (SELECT FROM pg_tables WHERE schemaname = 'afdp_metadata' AND tablename = part);
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', part, divided);
        IF divided = 'record_content' THEN
            EXECUTE format('ALTER TABLE %I SET (toast_tuple_target = 8160)', part);
        END IF;
        PERFORM close_part(part);
        EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)',
                       divided, part, first_id(start), first_id(until));
        made := true;
    END LOOP;
    RETURN made;
END
$$;

-- Makes room for receipt IDs, with the rights of whoever migrates; whether some was missing. IDs that are not of our time
-- get none: a table for each month that somebody can think of would be a burden for good.
CREATE FUNCTION make_months(receipt_ids uuid[]) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = afdp_metadata, pg_temp AS $$
DECLARE
    month date;
    made  boolean := false;
BEGIN
    FOR month IN
        SELECT DISTINCT date_trunc('month', time_of(id) AT TIME ZONE 'UTC')::date FROM unnest(receipt_ids) AS id
        WHERE id >= first_id('2020-01-01Z') AND id < first_id(now() + interval '40 days')
    LOOP
        made := make_month(month) OR made; -- in this order, as what follows a true one is not evaluated
    END LOOP;
    RETURN made;
END
$$;

-- Makes this month's partitions and the next one's, ahead of need; and of the months of before those that a table lacks,
-- which a later release has added.
CREATE FUNCTION make_months_ahead() RETURNS boolean
LANGUAGE sql SECURITY DEFINER SET search_path = afdp_metadata, pg_temp AS $$
    SELECT make_months(ARRAY[first_id(now()), first_id(now() + interval '32 days')] || ARRAY(
        SELECT first_id((right(relname, 6) || '01')::date::timestamp AT TIME ZONE 'UTC')
        FROM pg_class JOIN pg_inherits ON inhrelid = oid WHERE inhparent = 'record'::regclass
    ))
$$;
REVOKE EXECUTE ON FUNCTION close_part(text), make_month(date), make_months(uuid[]), make_months_ahead() FROM PUBLIC;

-- Which request answered an idempotency key. Rows go once they are past their retention.
CREATE TABLE idempotency_key (
    -- SHA-256 of tenant, principal and key: neither can be read back.
    digest      bytea       NOT NULL PRIMARY KEY CHECK (octet_length(digest) = 32),
    fingerprint bytea       NOT NULL CHECK (octet_length(fingerprint) = 32),
    -- A receipt ID, or a batch ID.
    target      uuid        NOT NULL,
    is_batch    boolean     NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT statement_timestamp()
);
CREATE INDEX idempotency_key_by_age ON idempotency_key (created_at);

CREATE TABLE batch (
    batch_id    uuid        NOT NULL PRIMARY KEY,
    tenant      text        NOT NULL,
    issuer      text        NOT NULL,
    subject     text        NOT NULL,
    method      text        NOT NULL,
    item_count  integer     NOT NULL CHECK (item_count > 0),
    created_at  timestamptz NOT NULL,
    -- The three are set together, when the batch ends.
    finished_at timestamptz,
    succeeded   integer     NOT NULL DEFAULT 0 CHECK (succeeded >= 0),
    failed      integer     NOT NULL DEFAULT 0 CHECK (failed >= 0)
);
CREATE INDEX batch_by_time ON batch (tenant, created_at, batch_id);

-- Batches as they stand: by their own word once they have ended, by what their records tell before. A batch whose
-- records are all in the log, and that began ten minutes ago, has nothing under way any more: who ran it is gone. States
-- are the numbers of WorkflowState: 2 running, 3 completed, 4 failed.
CREATE VIEW batch_workflow AS
    SELECT batch_id AS id, tenant, created_at, item_count, state,
           CASE WHEN state = 2 THEN NULL ELSE coalesce(finished_at, last_logged_at, abandoned_at) END AS completed_at,
           got_receipt AS succeeded,
           CASE WHEN state = 2 THEN 0 WHEN finished_at IS NULL THEN item_count - got_receipt ELSE failed END AS failed,
           state <> 2 AND finished_at IS NULL AS abandoned
    FROM (
        SELECT b.*, r.last_logged_at, b.created_at + interval '10 minutes' AS abandoned_at,
               CASE WHEN b.finished_at IS NULL THEN r.logged ELSE b.succeeded END AS got_receipt,
               CASE
                   WHEN b.finished_at IS NOT NULL THEN CASE WHEN b.succeeded > 0 THEN 3 ELSE 4 END
                   WHEN r.logged >= b.item_count THEN 3
                   WHEN r.pending > 0 OR now() < b.created_at + interval '10 minutes' THEN 2
                   WHEN r.logged > 0 THEN 3
                   ELSE 4
               END AS state
        FROM batch b
        LEFT JOIN LATERAL (
            SELECT count(e.receipt_id)::integer AS logged, count(*) - count(e.receipt_id) AS pending,
                   max(e.logged_at) AS last_logged_at
            FROM record LEFT JOIN log_entry e USING (receipt_id)
            WHERE record.batch_id = b.batch_id
        ) AS r ON b.finished_at IS NULL
    ) AS told;
