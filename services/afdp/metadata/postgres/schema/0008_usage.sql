-- How much each tenant has notarised on each day (UTC), where somebody counts it: written with the records themselves. A
-- day has several rows, so that those who write for one tenant at once do not wait for each other: their sum counts.
CREATE TABLE tenant_usage (
    tenant  text     NOT NULL,
    day     date     NOT NULL,
    slot    smallint NOT NULL,
    records bigint   NOT NULL CHECK (records >= 0),
    bytes   bigint   NOT NULL CHECK (bytes >= 0),
    PRIMARY KEY (tenant, day, slot)
) WITH (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);

GRANT SELECT, INSERT, UPDATE (records, bytes) ON tenant_usage TO afdp_metadata_writer;
GRANT SELECT ON tenant_usage TO afdp_metadata_reader;
GRANT SELECT, DELETE ON tenant_usage TO afdp_metadata_keeper;

ALTER TABLE tenant_usage ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenant_usage FORCE ROW LEVEL SECURITY;
CREATE POLICY of_all_tenants ON tenant_usage TO afdp_metadata_writer USING (true) WITH CHECK (true);
CREATE POLICY of_one_tenant ON tenant_usage FOR SELECT TO afdp_metadata_reader
    USING (tenant = current_setting('afdp.tenant', true));
CREATE POLICY housekeeping ON tenant_usage TO afdp_metadata_keeper USING (true);
