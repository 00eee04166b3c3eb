-- Records of what was notarised, and what finds them again.
--
-- Rows of `record`, `record_content`, `record_artifact`, `checkpoint` and `log_entry` are written once and never
-- changed. How far a record has come is told by which tables know it: `pending` until it is in the log, `log_entry`
-- from then on. There are no foreign keys: every statement that writes is atomic by itself, and a check per row would
-- cost as much as the insert.

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
);

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
    artifact_hash bytea       NOT NULL CHECK (octet_length(artifact_hash) = 32)
);
CREATE INDEX record_artifact_by_key ON record_artifact (artifact_key, notarized_at);

-- The rest of a record. The bytes stay as they are: compressing a few kilobytes costs more than it saves.
CREATE TABLE record_content (
    receipt_id     uuid  NOT NULL PRIMARY KEY,
    issuer         text  NOT NULL,
    subject        text  NOT NULL,
    method         text  NOT NULL,
    evidence       bytea NOT NULL,
    statement      bytea NOT NULL,
    signature      bytea NOT NULL,
    leaf_hash      bytea NOT NULL CHECK (octet_length(leaf_hash) = 32)
) WITH (toast_tuple_target = 8160);
ALTER TABLE record_content ALTER COLUMN evidence SET STORAGE EXTERNAL;
ALTER TABLE record_content ALTER COLUMN statement SET STORAGE EXTERNAL;

-- Records that are not known to be in the log. A row lives for milliseconds, so vacuum comes by count, not by share.
CREATE TABLE pending (
    receipt_id   uuid        NOT NULL PRIMARY KEY,
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
    origin     text        NOT NULL,
    log_index  bigint      NOT NULL CHECK (log_index >= 0),
    tree_size  bigint      NOT NULL CHECK (tree_size > log_index),
    proof      bytea       NOT NULL CHECK (octet_length(proof) % 32 = 0),
    logged_at  timestamptz NOT NULL DEFAULT statement_timestamp(),
    -- One entry, one record.
    UNIQUE (origin, log_index)
);
ALTER TABLE log_entry ALTER COLUMN proof SET STORAGE EXTERNAL;

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
