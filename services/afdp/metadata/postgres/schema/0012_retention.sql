-- For how long records are kept, what holds them beyond that, and how they go in the end.
--
-- No role of the service may delete a record. What has expired goes by `expire_month`, which belongs to whoever migrates,
-- looks itself at periods and holds, and takes no word for either. It writes the records of a month that stay into a new
-- part, and drops the old one: no row is deleted, and the space returns.

-- The class is decided when a record is made, and stays. Without one it is kept, and nobody is owed that: it does not
-- expire, and defers no erasure.
ALTER TABLE record ADD COLUMN retention_class text NOT NULL DEFAULT '';

-- How long the records of a class are kept from when they were notarised: what was ever said of it the longest, so that a
-- class is lengthened for what is there, too, and never shortened. NULL: for ever, as with a class that is not here.
CREATE TABLE retention_class (
    name   text     NOT NULL PRIMARY KEY CHECK (name <> ''),
    period interval CHECK (period > interval '0')
);

-- Records of a tenant that must stay, whatever their class says, for all these conditions at once; NULL: any. Also those
-- that come later. It ends when it is released, and is on record then, too.
CREATE TABLE legal_hold (
    hold_id        uuid        NOT NULL PRIMARY KEY,
    tenant         text        NOT NULL,
    case_number    text        NOT NULL CHECK (case_number <> ''),
    reason         text        NOT NULL,
    artifact_hash  bytea       CHECK (octet_length(artifact_hash) = 32),
    actor_id       text,
    event_type     text,
    subject        text,
    start_time     timestamptz,
    end_time       timestamptz,
    placed_by      text        NOT NULL,
    placed_at      timestamptz NOT NULL DEFAULT statement_timestamp(),
    released_by    text,
    release_reason text,
    released_at    timestamptz,
    CHECK ((released_at IS NULL) = (released_by IS NULL) AND (released_at IS NULL) = (release_reason IS NULL))
);
CREATE INDEX legal_hold_in_force ON legal_hold (tenant) WHERE released_at IS NULL;

-- What has gone: a row per tenant and month and time that something went. Written by the transaction in which it went.
CREATE TABLE expiry (
    expiry_id   uuid        NOT NULL PRIMARY KEY DEFAULT gen_random_uuid(),
    tenant      text        NOT NULL,
    month       date        NOT NULL,
    records     bigint      NOT NULL CHECK (records > 0),
    -- Of the month and tenant: what stays because it is not due, or waits for a log; and what a hold keeps.
    kept        bigint      NOT NULL,
    held        bigint      NOT NULL,
    -- Class names and how many records of each went.
    classes     jsonb       NOT NULL,
    first_id    uuid        NOT NULL,
    last_id     uuid        NOT NULL,
    -- The root of a tree as of RFC 6962: a leaf per record by ascending receipt ID, its 16 bytes and the 32 of its
    -- entry's leaf hash.
    root        bytea       NOT NULL CHECK (octet_length(root) = 32),
    expired_at  timestamptz NOT NULL DEFAULT statement_timestamp(),
    -- The act of the audit trail that said before that this was about to happen.
    act         uuid,
    -- The receipt ID of the certificate, once it is notarised.
    certificate uuid
);
CREATE INDEX expiry_by_month ON expiry (tenant, month);
CREATE INDEX expiry_to_certify ON expiry (expired_at) WHERE certificate IS NULL;

-- Each record that went, and with what, so that one that is missing for another reason is not taken for one of these: the
-- leaves of an expiry's root are these rows. Without a leaf hash: a record that had lost its content.
CREATE TABLE expired_record (
    receipt_id uuid  NOT NULL PRIMARY KEY,
    tenant     text  NOT NULL,
    expiry_id  uuid  NOT NULL,
    leaf_hash  bytea NOT NULL
);

-- Whether a record is one of those that a hold names.
CREATE FUNCTION is_named(hold legal_hold, r afdp_metadata.record) RETURNS boolean
LANGUAGE sql STABLE AS $$
    SELECT hold.tenant = r.tenant
        AND (hold.actor_id IS NULL OR hold.actor_id = r.actor_id)
        AND (hold.event_type IS NULL OR hold.event_type = r.event_type)
        AND (hold.start_time IS NULL OR r.notarized_at >= hold.start_time)
        AND (hold.end_time IS NULL OR r.notarized_at < hold.end_time)
        AND (hold.artifact_hash IS NULL OR EXISTS (
            SELECT FROM generate_series(1, octet_length(r.artifact_hashes), 32) AS at
            WHERE substr(r.artifact_hashes, at, 32) = hold.artifact_hash))
        AND (hold.subject IS NULL OR EXISTS (
            SELECT FROM afdp_metadata.record_content c
            WHERE c.receipt_id = r.receipt_id AND c.subject = hold.subject))
$$;

-- Until when a record must be kept by its class: to the end of the month (UTC) in which its period ends, so that a month's
-- records of a class go together. Without a class: it need not be kept.
CREATE FUNCTION must_stay_until(class text, notarized_at timestamptz) RETURNS timestamptz
LANGUAGE sql STABLE AS $$
    SELECT CASE WHEN class = '' THEN '-infinity' ELSE coalesce((
        SELECT (date_trunc('month', (notarized_at AT TIME ZONE 'UTC') + period) + interval '1 month') AT TIME ZONE 'UTC'
        FROM afdp_metadata.retention_class WHERE name = class), 'infinity') END
$$;

-- The root of a tree (RFC 6962) over leaf hashes in the order of the array.
CREATE FUNCTION tree_root(hashes bytea[]) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE SET search_path = afdp_metadata, pg_temp AS $$
BEGIN
    WHILE cardinality(hashes) > 1 LOOP
        -- What has no neighbour goes up as it is.
        hashes := ARRAY(
            SELECT CASE WHEN at = cardinality(hashes) THEN hashes[at]
                        ELSE sha256('\x01'::bytea || hashes[at] || hashes[at + 1]) END
            FROM generate_series(1, cardinality(hashes), 2) AS at ORDER BY at
        );
    END LOOP;
    RETURN hashes[1];
END
$$;

-- The records of a tenant, and all of a month, by what is to become of them: 'due', 'held', or 'kept'.
CREATE FUNCTION fates(month date) RETURNS TABLE (receipt_id uuid, tenant text, retention_class text, fate text)
LANGUAGE sql STABLE SET search_path = afdp_metadata, pg_temp AS $$
    SELECT r.receipt_id, r.tenant, r.retention_class,
           CASE
               WHEN EXISTS (SELECT FROM legal_hold h WHERE h.tenant = r.tenant AND h.released_at IS NULL AND is_named(h, r))
                   THEN 'held'
               WHEN r.retention_class = '' OR must_stay_until(r.retention_class, r.notarized_at) > now()
                   OR EXISTS (SELECT FROM pending p WHERE p.receipt_id = r.receipt_id)
                   OR EXISTS (SELECT FROM log_queue q WHERE q.receipt_id = r.receipt_id)
                   THEN 'kept'
               ELSE 'due'
           END
    FROM record r
    WHERE r.receipt_id >= first_id(month::timestamp AT TIME ZONE 'UTC')
        AND r.receipt_id < first_id((month + interval '1 month') AT TIME ZONE 'UTC')
$$;

-- Months in which records are that somebody decided a class for, oldest first.
CREATE FUNCTION months_with_records() RETURNS SETOF date
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = afdp_metadata, pg_temp AS $$
    SELECT to_date(right(relname, 6), 'YYYYMM') FROM pg_class JOIN pg_inherits ON inhrelid = oid
    WHERE inhparent = 'record'::regclass AND (right(relname, 6) || '01')::date < date_trunc('month', now() AT TIME ZONE 'UTC')
    ORDER BY 1
$$;

-- What would go from a month, and what would stay, by tenant.
CREATE FUNCTION due_in_month(month date)
RETURNS TABLE (tenant text, due bigint, kept bigint, held bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = afdp_metadata, pg_temp AS $$
BEGIN
    PERFORM set_config('afdp.expiring', 'on', true);
    RETURN QUERY
    SELECT f.tenant, count(*) FILTER (WHERE fate = 'due'), count(*) FILTER (WHERE fate = 'kept'),
           count(*) FILTER (WHERE fate = 'held')
    FROM fates(month) AS f GROUP BY f.tenant;
    PERFORM set_config('afdp.expiring', '', true);
END
$$;

-- Locks tables one after the other, each for a moment at most: who waits for a lock makes others wait behind it, and two
-- who wait crosswise would be told by a deadlock only.
CREATE FUNCTION lock_all(names text[], mode text) RETURNS void
LANGUAGE plpgsql SET search_path = afdp_metadata, pg_temp SET lock_timeout = '200ms' AS $$
BEGIN
    FOR attempt IN 1 .. 40 LOOP
        BEGIN
            FOR at IN 1 .. cardinality(names) LOOP
                EXECUTE format('LOCK TABLE ONLY %I IN %s MODE', names[at], mode);
            END LOOP;
            RETURN;
        EXCEPTION WHEN lock_not_available OR deadlock_detected THEN
            IF attempt = 40 THEN
                RAISE;
            END IF;
            PERFORM pg_sleep(0.05 + random() * 0.1);
        END;
    END LOOP;
END
$$;

-- The tables that are divided by months.
CREATE FUNCTION divided_tables() RETURNS text[]
LANGUAGE sql STABLE SET search_path = afdp_metadata, pg_temp AS $$
    SELECT array_agg(relname::text ORDER BY relname) FROM pg_class
    WHERE relnamespace = 'afdp_metadata'::regnamespace AND relkind = 'p'
$$;

-- Lets go what is due of a month, all in the transaction that calls it; what it writes to `expiry` is told. A hold that is
-- being placed or released waits for it, and it for that one: never is half of what a hold names gone.
CREATE FUNCTION expire_month(month date, act uuid DEFAULT NULL) RETURNS SETOF expiry
LANGUAGE plpgsql SECURITY DEFINER SET search_path = afdp_metadata, pg_temp AS $$
DECLARE
    low     uuid := first_id(month::timestamp AT TIME ZONE 'UTC');
    high    uuid := first_id((month + interval '1 month') AT TIME ZONE 'UTC');
    tables  text[] := divided_tables();
    parts   text[];
    divided text;
    part    text;
    next    text;
    stays   boolean;
    before  bigint;
    after   bigint;
    made    expiry;
    done    uuid[] := '{}';
BEGIN
    PERFORM set_config('afdp.expiring', 'on', true); -- the owner sees rows by this; nobody else does
    -- Months are neither made nor let go by two at once.
    PERFORM pg_advisory_xact_lock(hashtextextended('afdp_metadata.month', 0));
    IF month <> date_trunc('month', month)
        OR high > first_id(date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC')
        OR to_regclass(format('afdp_metadata.record_%s', to_char(month, 'YYYYMM'))) IS NULL
    THEN
        RETURN;
    END IF;
    PERFORM make_month(month); -- for a table that a later release has added
    parts := ARRAY(SELECT format('%s_%s', each, to_char(month, 'YYYYMM')) FROM unnest(tables) AS each);
    PERFORM lock_all(ARRAY['legal_hold', 'retention_class'], 'SHARE');
    -- Who writes late into this month waits; who reads does not.
    PERFORM lock_all(parts, 'SHARE');
    CREATE TEMPORARY TABLE going ON COMMIT DROP AS SELECT * FROM fates(month);
    ALTER TABLE pg_temp.going ADD PRIMARY KEY (receipt_id);
    ANALYZE pg_temp.going;
    SELECT count(*) INTO before FROM record r WHERE r.receipt_id >= low AND r.receipt_id < high;
    stays := EXISTS (SELECT FROM pg_temp.going g WHERE g.fate <> 'due');
    IF NOT EXISTS (SELECT FROM pg_temp.going g WHERE g.fate = 'due') THEN
        DROP TABLE pg_temp.going;
        RETURN;
    END IF;

    FOR made IN
    INSERT INTO expiry AS x (tenant, month, act, records, kept, held, classes, first_id, last_id, root)
    SELECT g.tenant, expire_month.month, expire_month.act, count(*), max(o.kept), max(o.held), (
               SELECT jsonb_object_agg(c.retention_class, c.number) FROM (
                   SELECT i.retention_class, count(*) AS number FROM pg_temp.going i
                   WHERE i.tenant = g.tenant AND i.fate = 'due' GROUP BY i.retention_class) AS c
           ),
           (min(g.receipt_id::text))::uuid, (max(g.receipt_id::text))::uuid,
           tree_root(array_agg(
               sha256('\x00'::bytea || uuid_send(g.receipt_id) || coalesce(c.leaf_hash, '')) ORDER BY g.receipt_id))
    FROM pg_temp.going g
    JOIN (SELECT i.tenant, count(*) FILTER (WHERE i.fate = 'kept') AS kept,
                 count(*) FILTER (WHERE i.fate = 'held') AS held FROM pg_temp.going i GROUP BY i.tenant) AS o USING (tenant)
    LEFT JOIN record_content c ON c.receipt_id = g.receipt_id AND c.receipt_id >= low AND c.receipt_id < high
    WHERE g.fate = 'due'
    GROUP BY g.tenant
    RETURNING x.*
    LOOP
        done := done || made.expiry_id;
        RETURN NEXT made;
    END LOOP;
    INSERT INTO expired_record (receipt_id, tenant, expiry_id, leaf_hash)
    SELECT g.receipt_id, g.tenant, x.expiry_id, coalesce(c.leaf_hash, '')
    FROM pg_temp.going g
    JOIN expiry x ON x.tenant = g.tenant AND x.expiry_id = ANY(done)
    LEFT JOIN record_content c ON c.receipt_id = g.receipt_id AND c.receipt_id >= low AND c.receipt_id < high
    WHERE g.fate = 'due';

    -- What leads to a record goes with it.
    DELETE FROM stamp_wanted w USING pg_temp.going g WHERE g.fate = 'due' AND w.receipt_id = g.receipt_id;
    DELETE FROM idempotency_key k USING pg_temp.going g WHERE g.fate = 'due' AND k.target = g.receipt_id;
    DELETE FROM batch b USING (
        SELECT DISTINCT r.batch_id FROM record r JOIN pg_temp.going g USING (receipt_id)
        WHERE g.fate = 'due' AND r.batch_id IS NOT NULL AND r.receipt_id >= low AND r.receipt_id < high
    ) AS d
    WHERE b.batch_id = d.batch_id AND NOT EXISTS (
        SELECT FROM record r WHERE r.batch_id = b.batch_id
            AND NOT EXISTS (SELECT FROM pg_temp.going g WHERE g.receipt_id = r.receipt_id AND g.fate = 'due'));

    IF stays THEN
        FOREACH divided IN ARRAY tables LOOP
            next := format('%s_%s_next', divided, to_char(month, 'YYYYMM'));
            EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', next, divided);
            IF divided = 'record_content' THEN
                EXECUTE format('ALTER TABLE %I SET (toast_tuple_target = 8160)', next);
            END IF;
            EXECUTE format(
                'INSERT INTO %1$I SELECT d.* FROM %2$I d WHERE d.receipt_id >= $1 AND d.receipt_id < $2 AND NOT EXISTS ('
                'SELECT FROM pg_temp.going g WHERE g.receipt_id = d.receipt_id AND g.fate = ''due'')', next, divided)
                USING low, high;
            EXECUTE format('ALTER TABLE %I ADD CHECK (receipt_id >= %L AND receipt_id < %L)', next, low, high);
        END LOOP;
    END IF;

    -- From here to the end of the transaction, which is near, everybody waits.
    PERFORM lock_all(tables || parts, 'ACCESS EXCLUSIVE');
    FOR at IN 1 .. cardinality(tables) LOOP
        divided := tables[at];
        part := parts[at];
        EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', divided, part);
        EXECUTE format('DROP TABLE %I', part);
        IF stays THEN
            next := format('%s_%s_next', divided, to_char(month, 'YYYYMM'));
            EXECUTE format('ALTER TABLE %I RENAME TO %I', next, part);
            PERFORM close_part(part);
            EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', divided, part, low, high);
        END IF;
    END LOOP;
    SELECT count(*) INTO after FROM record r WHERE r.receipt_id >= low AND r.receipt_id < high;
    IF before - after <> (SELECT count(*) FROM pg_temp.going g WHERE g.fate = 'due') THEN
        RAISE EXCEPTION 'of % records % are left, which are not those that are kept', before, after;
    END IF;
    DROP TABLE pg_temp.going;
    PERFORM set_config('afdp.expiring', '', true);
END
$$;

-- Whether one period never ends before another, whenever both begin: PostgreSQL itself compares them as if each month had
-- 30 days, by which 2521 days are more than seven years.
CREATE FUNCTION lasts_as_long(period interval, other interval) RETURNS boolean
LANGUAGE sql IMMUTABLE SET search_path = afdp_metadata, pg_temp AS $$
    SELECT bool_and(begun + period >= begun + other)
    FROM generate_series(timestamp '2096-01-01', timestamp '2104-12-31', interval '1 day') AS begun -- 2100 has no leap day
$$;

CREATE FUNCTION only_lengthened() RETURNS trigger LANGUAGE plpgsql SET search_path = afdp_metadata, pg_temp AS $$
BEGIN
    IF NEW.name <> OLD.name OR OLD.period IS NULL AND NEW.period IS NOT NULL OR NOT lasts_as_long(NEW.period, OLD.period)
    THEN
        RAISE EXCEPTION 'for how long records are kept is never shortened' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER only_lengthened BEFORE UPDATE ON retention_class FOR EACH ROW EXECUTE FUNCTION only_lengthened();

CREATE FUNCTION only_released() RETURNS trigger LANGUAGE plpgsql SET search_path = afdp_metadata, pg_temp AS $$
BEGIN
    IF OLD.released_at IS NOT NULL
        OR (OLD.hold_id, OLD.tenant, OLD.case_number, OLD.reason, OLD.artifact_hash, OLD.actor_id, OLD.event_type,
            OLD.subject, OLD.start_time, OLD.end_time, OLD.placed_by, OLD.placed_at)
        IS DISTINCT FROM
           (NEW.hold_id, NEW.tenant, NEW.case_number, NEW.reason, NEW.artifact_hash, NEW.actor_id, NEW.event_type,
            NEW.subject, NEW.start_time, NEW.end_time, NEW.placed_by, NEW.placed_at)
    THEN
        RAISE EXCEPTION 'a hold is released once, and else stays as it was placed' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER only_released BEFORE UPDATE ON legal_hold FOR EACH ROW EXECUTE FUNCTION only_released();

DO $$
DECLARE
    name text;
BEGIN
    FOREACH name IN ARRAY ARRAY['legal_hold', 'retention_class', 'expiry', 'expired_record'] LOOP
        EXECUTE format(
            'CREATE TRIGGER no_deletion BEFORE DELETE OR TRUNCATE ON %I EXECUTE FUNCTION refuse_deletion()', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['legal_hold', 'expiry', 'expired_record'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY of_one_tenant ON %I FOR SELECT TO afdp_metadata_reader '
            'USING (tenant = current_setting(''afdp.tenant'', true))', name);
    END LOOP;
    -- Who owns the tables sees rows while records expire, and else none.
    FOREACH name IN ARRAY divided_tables() || ARRAY[
        'pending', 'log_queue', 'stamp_wanted', 'idempotency_key', 'batch', 'legal_hold', 'expiry', 'expired_record'
    ] LOOP
        EXECUTE format(
            'CREATE POLICY expiring ON %I TO CURRENT_USER USING (current_setting(''afdp.expiring'', true) = ''on'') '
            'WITH CHECK (current_setting(''afdp.expiring'', true) = ''on'')', name);
    END LOOP;
END
$$;
CREATE POLICY of_all_tenants ON legal_hold TO afdp_metadata_writer USING (true) WITH CHECK (true);
CREATE POLICY of_all_tenants ON expired_record FOR SELECT TO afdp_metadata_writer USING (true);
CREATE POLICY of_all_tenants ON expiry FOR SELECT TO afdp_metadata_writer USING (true);
CREATE POLICY housekeeping ON legal_hold FOR SELECT TO afdp_metadata_keeper USING (true);
CREATE POLICY housekeeping ON expiry TO afdp_metadata_keeper USING (true) WITH CHECK (true);

REVOKE EXECUTE ON FUNCTION months_with_records(), due_in_month(date), expire_month(date, uuid) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION months_with_records(), due_in_month(date), expire_month(date, uuid) TO afdp_metadata_keeper;
GRANT SELECT, INSERT, UPDATE (released_by, release_reason, released_at) ON legal_hold TO afdp_metadata_writer;
GRANT SELECT ON legal_hold, expiry, expired_record, retention_class TO afdp_metadata_reader;
GRANT SELECT ON expiry, expired_record, retention_class TO afdp_metadata_writer;
GRANT SELECT, INSERT, UPDATE (period) ON retention_class TO afdp_metadata_keeper;
GRANT SELECT, UPDATE (certificate) ON expiry TO afdp_metadata_keeper;
