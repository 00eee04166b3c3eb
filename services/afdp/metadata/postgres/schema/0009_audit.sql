-- The audit trail. Rows are added and never changed: no role of the service may do more, and a trigger refuses it to the
-- owner of the table as well. What a superuser does, who can take both away, is found by the seals.

CREATE SEQUENCE audit_sequence;

CREATE TABLE audit_row (
    -- A transaction has an ID before it takes a number, so once all older transactions have ended nothing can appear
    -- below a number that was seen: `audit.py`.
    sequence    bigint      NOT NULL PRIMARY KEY
        DEFAULT CASE WHEN pg_current_xact_id() IS NOT NULL THEN nextval('audit_sequence') END,
    id          uuid        NOT NULL UNIQUE,
    tenant      text        NOT NULL,
    recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    phase       text        NOT NULL CHECK (phase IN ('', 'intent', 'outcome')),
    -- Of the events that it tells: 1 allow, 2 deny, 4 error.
    results     smallint    NOT NULL CHECK (results BETWEEN 1 AND 7),
    -- About the seal's own notarisation.
    silent      boolean     NOT NULL,
    -- 64 bits of a hash over tenant and term, as `evidence_key` is made.
    terms       bigint[]    NOT NULL,
    row         bytea       NOT NULL
);
ALTER TABLE audit_row ALTER COLUMN row SET STORAGE MAIN;
CREATE INDEX audit_row_by_time ON audit_row (tenant, recorded_at, sequence);
CREATE INDEX audit_row_of_tenant ON audit_row (tenant, sequence);
CREATE INDEX audit_row_by_term ON audit_row USING gin (terms);

CREATE TABLE audit_seal (
    number    bigint      NOT NULL PRIMARY KEY CHECK (number > 0),
    body      bytea       NOT NULL,
    -- The rows that it fixes: `last` is the greatest of `sequences`.
    last      bigint      NOT NULL UNIQUE,
    sequences bigint[]    NOT NULL,
    leaves    bytea       NOT NULL CHECK (octet_length(leaves) = 32 * cardinality(sequences)),
    sealed_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

-- The receipt of a seal's own notarisation.
CREATE TABLE audit_anchor (
    number      bigint      NOT NULL PRIMARY KEY,
    receipt_id  uuid        NOT NULL,
    anchored_at timestamptz NOT NULL DEFAULT statement_timestamp()
);

-- Which notary seals at present; one row.
CREATE TABLE audit_sealer (
    single boolean     NOT NULL PRIMARY KEY DEFAULT true CHECK (single),
    holder uuid        NOT NULL,
    until  timestamptz NOT NULL
);

CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION '% is append only', TG_TABLE_NAME USING ERRCODE = 'insufficient_privilege';
END
$$;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['audit_row', 'audit_seal', 'audit_anchor'] LOOP
        EXECUTE format('CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON %I '
                       'FOR EACH ROW EXECUTE FUNCTION refuse_change()', name);
        EXECUTE format('CREATE TRIGGER append_only_whole BEFORE TRUNCATE ON %I '
                       'FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()', name);
        EXECUTE format('GRANT SELECT ON %I TO afdp_metadata_writer', name);
    END LOOP;
END
$$;

-- Neither a row's place nor any time is chosen by who writes.
GRANT INSERT (id, tenant, phase, results, silent, terms, row) ON audit_row TO afdp_metadata_writer;
GRANT INSERT (number, body, last, sequences, leaves) ON audit_seal TO afdp_metadata_writer;
GRANT INSERT (number, receipt_id) ON audit_anchor TO afdp_metadata_writer;
GRANT USAGE, SELECT ON SEQUENCE audit_sequence TO afdp_metadata_writer;
GRANT SELECT, INSERT, UPDATE (holder, until) ON audit_sealer TO afdp_metadata_writer;
GRANT SELECT ON audit_row TO afdp_metadata_reader;
GRANT SELECT (last) ON audit_seal TO afdp_metadata_reader;

ALTER TABLE audit_row ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_row FORCE ROW LEVEL SECURITY;
CREATE POLICY of_all_tenants ON audit_row TO afdp_metadata_writer USING (true) WITH CHECK (true);
CREATE POLICY of_one_tenant ON audit_row FOR SELECT TO afdp_metadata_reader
    USING (tenant = current_setting('afdp.tenant', true));
