-- What is sealed (`sealed_store.py`). A record that is has a data key and a head; then `evidence` and `statement` are
-- AES-256-GCM, and `evidence_hash`, `artifact_hash`, `artifact_hashes`, `actor_id` and `subject` hold blind indexes: HMACs
-- under the tenant's index key. The head holds, sealed, what these stand for. Without a data key all is plain.
ALTER TABLE record ADD COLUMN data_key uuid;
ALTER TABLE record ADD COLUMN head bytea;
-- Keys are UUIDs of version 7, and one seals many records: entries come together.
CREATE INDEX record_by_data_key ON record (data_key) WHERE data_key IS NOT NULL;

-- Data keys, each wrapped by the signer under the key of its tenant and subject; what opens them is never here.
CREATE TABLE data_key (
    id      uuid        NOT NULL PRIMARY KEY,
    tenant  text        NOT NULL,
    -- The blind index of the subject, 16 bytes; empty: what is about nobody in particular.
    subject bytea       NOT NULL CHECK (octet_length(subject) IN (0, 16)),
    -- Empty once the subject is erased.
    wrapped bytea       NOT NULL,
    made_at timestamptz NOT NULL DEFAULT statement_timestamp()
);
CREATE INDEX data_key_by_subject ON data_key (tenant, subject, made_at);

-- The key of each tenant's blind indexes, wrapped under the tenant's own key.
CREATE TABLE index_key (
    tenant  text        NOT NULL PRIMARY KEY,
    wrapped bytea       NOT NULL,
    made_at timestamptz NOT NULL DEFAULT statement_timestamp()
);

GRANT SELECT, INSERT, UPDATE (wrapped) ON data_key, index_key TO afdp_metadata_writer;
-- Readers need none of them: what opens a record is looked up by the service itself.

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['data_key', 'index_key'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY of_all_tenants ON %I TO afdp_metadata_writer USING (true) WITH CHECK (true)', name);
    END LOOP;
END
$$;
