-- Tenants are kept apart by the database as well, beneath the conditions that every query has anyway: a session reads as
-- `afdp_metadata_reader`, and sees the rows of the tenant that its setting `afdp.tenant` names, and without one none.
-- The pipeline, whose batches are of many tenants, writes as `afdp_metadata_writer`; what counts and forgets is
-- `afdp_metadata_keeper`. A login role is let into all three and inherits from none, so that a session which has taken
-- none of them may do nothing. Row security is forced: it holds for the owner of the tables too, who sees no rows.

-- Roles are those of the server: another of its databases may have made them, even at this moment.
DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['afdp_metadata_writer', 'afdp_metadata_reader', 'afdp_metadata_keeper'] LOOP
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted) THEN
            BEGIN
                EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
            EXCEPTION WHEN duplicate_object OR unique_violation THEN
                NULL;
            END;
        END IF;
        -- Where one role does everything it takes these roles too; a superuser need not be let in.
        IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
            BEGIN
                EXECUTE format('GRANT %I TO CURRENT_USER', wanted);
            EXCEPTION WHEN insufficient_privilege THEN
                NULL;
            END;
        END IF;
    END LOOP;
END
$$;

-- Which release the schema is of, every role may know: a service looks before it takes one.
GRANT USAGE ON SCHEMA afdp_metadata TO PUBLIC;
GRANT SELECT ON schema_migration TO PUBLIC;

-- Partitions have no grants: whoever may use a table reaches its parts through it, and only so.
GRANT SELECT, INSERT ON record, record_content, record_artifact, log_entry, log_place, external_stamp, further_entry,
    rekor1_entry TO afdp_metadata_writer;
GRANT EXECUTE ON FUNCTION make_months(uuid[]), make_months_ahead() TO afdp_metadata_writer;
GRANT SELECT, INSERT, DELETE ON pending TO afdp_metadata_writer;
GRANT SELECT, INSERT, UPDATE (note) ON checkpoint TO afdp_metadata_writer;
GRANT SELECT, INSERT, UPDATE ON idempotency_key TO afdp_metadata_writer;
GRANT SELECT, INSERT, UPDATE (finished_at, succeeded, failed) ON batch TO afdp_metadata_writer;
GRANT SELECT, INSERT, DELETE, UPDATE (due_at, attempts) ON stamp_wanted, log_queue TO afdp_metadata_writer;
GRANT SELECT, INSERT, UPDATE (revision) ON trust_repository TO afdp_metadata_writer;
GRANT SELECT, INSERT, UPDATE, DELETE ON trust_file TO afdp_metadata_writer;

-- Checkpoints are what the log publishes, and nobody's.
GRANT SELECT ON record, record_content, record_artifact, log_entry, log_place, pending, checkpoint, external_stamp, further_entry,
    rekor1_entry, log_queue, stamp_wanted, batch, batch_workflow TO afdp_metadata_reader;
ALTER VIEW batch_workflow SET (security_invoker = true);

GRANT SELECT ON pending, stamp_wanted TO afdp_metadata_keeper;
-- UPDATE of something is what FOR UPDATE asks for.
GRANT SELECT, DELETE, UPDATE (created_at) ON idempotency_key TO afdp_metadata_keeper;

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY[
        'record', 'record_content', 'record_artifact', 'log_entry', 'log_place', 'pending', 'external_stamp',
        'further_entry', 'rekor1_entry', 'log_queue', 'batch', 'stamp_wanted', 'idempotency_key'
    ] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', name);
        EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', name);
        EXECUTE format('CREATE POLICY of_all_tenants ON %I TO afdp_metadata_writer USING (true) WITH CHECK (true)', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY[
        'record', 'record_content', 'record_artifact', 'log_entry', 'log_place', 'pending', 'external_stamp',
        'further_entry', 'rekor1_entry', 'log_queue', 'stamp_wanted', 'batch'
    ] LOOP
        EXECUTE format(
            'CREATE POLICY of_one_tenant ON %I FOR SELECT TO afdp_metadata_reader '
            'USING (tenant = current_setting(''afdp.tenant'', true))', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['pending', 'stamp_wanted', 'idempotency_key'] LOOP
        EXECUTE format('CREATE POLICY housekeeping ON %I TO afdp_metadata_keeper USING (true)', name);
    END LOOP;
END
$$;
