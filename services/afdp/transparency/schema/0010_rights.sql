-- `make_room` has the rights of whoever migrates, and PostgreSQL lets everybody call a new function: from now on only those
-- who append may.
REVOKE EXECUTE ON FUNCTION make_room(smallint) FROM PUBLIC;
DO $$
DECLARE
    writer record;
BEGIN
    FOR writer IN
        SELECT DISTINCT grantee FROM pg_class, aclexplode(relacl)
        WHERE oid = 'afdp_log.entry'::regclass AND privilege_type = 'INSERT' AND grantee NOT IN (0, relowner)
    LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION make_room(smallint) TO %s', writer.grantee::regrole);
    END LOOP;
END
$$;
