-- What records are found by beside the columns of `record`: one row per record and distinct term. A term is a hash that
-- is keyed by the tenant (`terms.py`), so it says nothing of what it stands for; `term_key` is its first 64 bits, narrow
-- as every index over random values must be. The term itself is compared as well.
CREATE TABLE record_term (
    term_key     bigint      NOT NULL,
    notarized_at timestamptz NOT NULL,
    receipt_id   uuid        NOT NULL,
    tenant       text        NOT NULL,
    term         bytea       NOT NULL CHECK (octet_length(term) = 16)
) PARTITION BY RANGE (receipt_id);
CREATE INDEX record_term_by_key ON record_term (term_key, notarized_at);

-- By its place in a log a record is found in `log_place`; these two tables have rows only where others run a log.
CREATE INDEX further_entry_by_index ON further_entry (origin, log_index);
CREATE INDEX rekor1_entry_by_index ON rekor1_entry (origin, log_index);

GRANT SELECT, INSERT ON record_term TO afdp_metadata_writer;
GRANT SELECT ON record_term TO afdp_metadata_reader;

ALTER TABLE record_term ENABLE ROW LEVEL SECURITY;
ALTER TABLE record_term FORCE ROW LEVEL SECURITY;
CREATE POLICY of_all_tenants ON record_term TO afdp_metadata_writer USING (true) WITH CHECK (true);
CREATE POLICY of_one_tenant ON record_term FOR SELECT TO afdp_metadata_reader
    USING (tenant = current_setting('afdp.tenant', true));
