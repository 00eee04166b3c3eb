-- The service works as `afdp_log_writer`, which may add to the log and change nothing that is in it. Who migrates owns the
-- tables; a login role is let into this one role, and may do nothing else in the database.
DO $$
DECLARE
    writer record;
BEGIN
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'afdp_log_writer') THEN
        BEGIN
            CREATE ROLE afdp_log_writer NOLOGIN;
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL; -- roles are those of the server: the migration of another of its databases made it at this moment
        END;
    END IF;
    -- Where one role does everything it takes this one too; a superuser need not be let in.
    IF NOT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) THEN
        BEGIN
            GRANT afdp_log_writer TO CURRENT_USER;
        EXCEPTION WHEN insufficient_privilege THEN
            NULL;
        END;
    END IF;
    -- Those who were given the right to append by hand go on.
    FOR writer IN
        SELECT DISTINCT grantee FROM pg_class, aclexplode(relacl)
        WHERE oid = 'afdp_log.entry'::regclass AND privilege_type = 'INSERT' AND grantee NOT IN (0, relowner)
    LOOP
        EXECUTE format('GRANT afdp_log_writer TO %s', writer.grantee::regrole);
    END LOOP;
END
$$;

-- Which release the schema is of, every role may know: the service looks before it takes one.
GRANT USAGE ON SCHEMA afdp_log TO PUBLIC;
GRANT SELECT ON schema_migration TO PUBLIC;

GRANT SELECT, INSERT ON entry, node, external_evidence TO afdp_log_writer;
GRANT SELECT, INSERT, UPDATE ON tree, log, checkpoint, stamped_checkpoint, cosigned_checkpoint, witness_turn, audit,
    external_log TO afdp_log_writer;
GRANT SELECT, INSERT, UPDATE, DELETE ON external_tree, mirror_turn TO afdp_log_writer;
GRANT EXECUTE ON FUNCTION make_room(smallint) TO afdp_log_writer;
