-- For how long records are kept, what holds them beyond that, and how they go in the end.
--
-- No role of the service may delete a record. What has expired goes by `end_expiry`, which belongs to whoever migrates,
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
    -- Where records are sealed: the data key (16 bytes) and, sealed under it, what the hold asks for, of which reason,
    -- artifact, actor and subject are empty or blind indexes then.
    asked          bytea,
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

-- What an expiry has come to that is under way, or was left by a process that ended: the month and its rules as they were,
-- how many rows each of its parts had, and what goes of each tenant. Its `expired_record` are there already.
CREATE TABLE expiring (
    month date  NOT NULL PRIMARY KEY,
    act   uuid,
    rules bytea NOT NULL,
    sizes jsonb NOT NULL
);
CREATE TABLE expiring_tenant (
    expiry_id uuid   NOT NULL PRIMARY KEY DEFAULT gen_random_uuid(),
    month     date   NOT NULL,
    tenant    text   NOT NULL,
    due       bigint NOT NULL,
    kept      bigint NOT NULL,
    held      bigint NOT NULL,
    classes   jsonb,
    first_id  uuid,
    last_id   uuid,
    root      bytea,
    UNIQUE (month, tenant)
);
-- Batches that something went of: they go once nothing is left of them.
CREATE TABLE expiring_batch (
    batch_id uuid NOT NULL PRIMARY KEY
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
        -- What has no neighbour goes up as it is. An element of a long array is not to be asked for by its place.
        hashes := ARRAY(
            SELECT CASE WHEN right_one IS NULL THEN left_one ELSE sha256('\x01'::bytea || left_one || right_one) END
            FROM (
                SELECT hash AS left_one, lead(hash) OVER (ORDER BY at) AS right_one, at
                FROM unnest(hashes) WITH ORDINALITY AS each (hash, at)
            ) AS pairs WHERE at % 2 = 1 ORDER BY at
        );
    END LOOP;
    RETURN hashes[1];
END
$$;

-- The records whose IDs are from `low` on and below `high`, by what is to become of them: 'due', 'held', or 'kept'.
CREATE FUNCTION fates(low uuid, high uuid)
RETURNS TABLE (receipt_id uuid, tenant text, retention_class text, fate text)
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
    FROM record r WHERE r.receipt_id >= low AND r.receipt_id < high
$$;

-- The first receipt ID of a month (UTC), and the one after its last.
CREATE FUNCTION first_of(month date) RETURNS uuid LANGUAGE sql IMMUTABLE SET search_path = afdp_metadata, pg_temp AS $$
    SELECT first_id(month::timestamp AT TIME ZONE 'UTC')
$$;
CREATE FUNCTION end_of(month date) RETURNS uuid LANGUAGE sql IMMUTABLE SET search_path = afdp_metadata, pg_temp AS $$
    SELECT first_id((month + interval '1 month') AT TIME ZONE 'UTC')
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
    FROM fates(first_of(month), end_of(month)) AS f GROUP BY f.tenant;
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

-- Letting go what is due of a month: steps that are short transactions each, since a long one would hold up whoever waits
-- until all older ones are over (seals of the audit trail, its sinks, and those who watch). Nothing has gone until the
-- last step, which is one transaction, looks itself at whether all before it was done and still holds, and takes no
-- word for it. A process that ends in between has done nothing; the next one begins anew. Rows of a divided table are
-- never changed, so a part that has as many as at the beginning is what it was.

-- What decides what is due, beside the records and the time.
CREATE FUNCTION rules_now() RETURNS bytea
LANGUAGE sql STABLE SET search_path = afdp_metadata, pg_temp AS $$
    SELECT sha256(convert_to(
        coalesce((SELECT string_agg(h::text, E'\n' ORDER BY hold_id) FROM legal_hold h WHERE released_at IS NULL), '')
        || E'\n\n' || coalesce((SELECT string_agg(c::text, E'\n' ORDER BY name) FROM retention_class c), ''), 'UTF8'))
$$;

CREATE FUNCTION part_of(divided text, month date) RETURNS text LANGUAGE sql IMMUTABLE AS $$
    SELECT format('%s_%s', divided, to_char(month, 'YYYYMM'))
$$;

-- How many rows each part of a month has.
CREATE FUNCTION part_sizes(month date) RETURNS jsonb
LANGUAGE plpgsql SET search_path = afdp_metadata, pg_temp AS $$
DECLARE
    divided text;
    number  bigint;
    sizes   jsonb := '{}';
BEGIN
    FOREACH divided IN ARRAY divided_tables() LOOP
        EXECUTE format('SELECT count(*) FROM %I WHERE receipt_id >= $1 AND receipt_id < $2', divided)
            INTO number USING first_of(month), end_of(month);
        sizes := sizes || jsonb_build_object(divided, number);
    END LOOP;
    RETURN sizes;
END
$$;

-- Where a step through the records of a month ends that begins at an ID.
CREATE FUNCTION step_end(month date, begins uuid, records integer) RETURNS uuid
LANGUAGE sql STABLE SET search_path = afdp_metadata, pg_temp AS $$
    SELECT coalesce((
        SELECT receipt_id FROM record WHERE receipt_id >= begins AND receipt_id < end_of(month)
        ORDER BY receipt_id OFFSET records LIMIT 1), end_of(month))
$$;

-- Takes back what an expiry that did not come to its end has said of records; whether there is more.
CREATE FUNCTION undo_expiry(month date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = afdp_metadata, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    number bigint;
BEGIN
    PERFORM set_config('afdp.expiring', 'on', true); -- the owner sees rows by this; nobody else does
    DELETE FROM expired_record WHERE receipt_id = ANY(ARRAY(
        SELECT g.receipt_id FROM expired_record g JOIN expiring_tenant t USING (expiry_id)
        WHERE t.month = undo_expiry.month AND g.receipt_id >= first_of(t.month) AND g.receipt_id < end_of(t.month)
        LIMIT 20000
    ));
    GET DIAGNOSTICS number = ROW_COUNT;
    IF number = 0 THEN
        DELETE FROM expiring_tenant t WHERE t.month = undo_expiry.month;
    END IF;
    PERFORM set_config('afdp.expiring', '', true);
    RETURN number > 0;
END
$$;

-- Begins; whether records of such a month can expire.
CREATE FUNCTION begin_expiry(month date, act uuid DEFAULT NULL) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = afdp_metadata, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    divided text;
    next    text;
    counted jsonb;
BEGIN
    PERFORM set_config('afdp.expiring', 'on', true);
    IF month <> date_trunc('month', month)
        OR end_of(month) > first_id(date_trunc('month', now() AT TIME ZONE 'UTC') AT TIME ZONE 'UTC')
        OR to_regclass(format('afdp_metadata.%I', part_of('record', month))) IS NULL
    THEN
        RETURN false;
    END IF;
    counted := part_sizes(month); -- before anything is written, for it takes its time
    PERFORM make_month(month); -- for a table that a later release has added
    FOREACH divided IN ARRAY divided_tables() LOOP
        next := part_of(divided, month) || '_next';
        EXECUTE format('DROP TABLE IF EXISTS %I', next);
        EXECUTE format('CREATE TABLE %I (LIKE %I INCLUDING ALL)', next, divided);
        EXECUTE format('ALTER TABLE %I ADD CHECK (receipt_id >= %L AND receipt_id < %L)', next, first_of(month), end_of(month));
        IF divided = 'record_content' THEN
            EXECUTE format('ALTER TABLE %I SET (toast_tuple_target = 8160)', next);
        END IF;
        counted := jsonb_build_object(divided, 0) || counted;
    END LOOP;
    INSERT INTO expiring AS e (month, act, rules, sizes)
    VALUES (begin_expiry.month, begin_expiry.act, rules_now(), counted)
    ON CONFLICT ON CONSTRAINT expiring_pkey
        DO UPDATE SET act = excluded.act, rules = excluded.rules, sizes = excluded.sizes;
    PERFORM set_config('afdp.expiring', '', true);
    RETURN true;
END
$$;

-- Says of some records, from an ID on, what becomes of them; gives where the next step begins, at the end the month's end.
CREATE FUNCTION sort_expiry(month date, begins uuid) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = afdp_metadata, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    ends uuid;
BEGIN
    PERFORM set_config('afdp.expiring', 'on', true);
    begins := greatest(begins, first_of(month));
    ends := step_end(month, begins, 10000);
    WITH sorted AS MATERIALIZED (
        SELECT * FROM fates(begins, ends)
    ), told AS (
        INSERT INTO expiring_tenant AS t (month, tenant, due, kept, held)
        SELECT sort_expiry.month, tenant, count(*) FILTER (WHERE fate = 'due'), count(*) FILTER (WHERE fate = 'kept'),
               count(*) FILTER (WHERE fate = 'held')
        FROM sorted GROUP BY tenant
        ON CONFLICT ON CONSTRAINT expiring_tenant_month_tenant_key
            DO UPDATE SET due = t.due + excluded.due, kept = t.kept + excluded.kept, held = t.held + excluded.held
        RETURNING t.tenant, t.expiry_id
    )
    INSERT INTO expired_record (receipt_id, tenant, expiry_id, leaf_hash)
    SELECT s.receipt_id, s.tenant, t.expiry_id, coalesce(c.leaf_hash, '')
    FROM sorted s
    JOIN told t USING (tenant)
    LEFT JOIN record_content c ON c.receipt_id = s.receipt_id AND c.receipt_id >= begins AND c.receipt_id < ends
    WHERE s.fate = 'due';
    PERFORM set_config('afdp.expiring', '', true);
    RETURN ends;
END
$$;

-- Writes what stays of some records, from an ID on, into the new parts; as `sort_expiry`. Where nothing stays, it is done.
CREATE FUNCTION copy_expiry(month date, begins uuid) RETURNS uuid
LANGUAGE plpgsql SECURITY DEFINER SET search_path = afdp_metadata, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    ends    uuid;
    divided text;
BEGIN
    PERFORM set_config('afdp.expiring', 'on', true);
    begins := greatest(begins, first_of(month));
    ends := step_end(month, begins, 5000);
    IF NOT EXISTS (SELECT FROM expiring_tenant t WHERE t.month = copy_expiry.month AND t.kept + t.held > 0) THEN
        ends := end_of(month);
    ELSE
        FOREACH divided IN ARRAY divided_tables() LOOP
            EXECUTE format(
                'INSERT INTO %1$I SELECT d.* FROM %2$I d WHERE d.receipt_id >= $1 AND d.receipt_id < $2 AND NOT EXISTS ('
                'SELECT FROM expired_record g WHERE g.receipt_id = d.receipt_id AND g.receipt_id >= $1 AND g.receipt_id < $2)',
                part_of(divided, month) || '_next', divided) USING begins, ends;
        END LOOP;
    END IF;
    PERFORM set_config('afdp.expiring', '', true);
    RETURN ends;
END
$$;

-- Sums up what goes of one more tenant; whether there was one.
CREATE FUNCTION sum_expiry(month date) RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = afdp_metadata, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    low     uuid := first_of(month);
    high    uuid := end_of(month);
    going   expiring_tenant;
    batches uuid[];
BEGIN
    PERFORM set_config('afdp.expiring', 'on', true);
    SELECT * INTO going FROM expiring_tenant t
    WHERE t.month = sum_expiry.month AND t.due > 0 AND t.root IS NULL ORDER BY t.tenant LIMIT 1;
    IF NOT FOUND THEN
        RETURN false;
    END IF;
    SELECT min(g.receipt_id::text)::uuid, max(g.receipt_id::text)::uuid,
           tree_root(array_agg(sha256('\x00'::bytea || uuid_send(g.receipt_id) || g.leaf_hash) ORDER BY g.receipt_id))
    INTO going.first_id, going.last_id, going.root
    FROM expired_record g WHERE g.expiry_id = going.expiry_id AND g.receipt_id >= low AND g.receipt_id < high;
    SELECT jsonb_object_agg(c.retention_class, c.number) INTO going.classes FROM (
        SELECT r.retention_class, count(*) AS number FROM record r JOIN expired_record g USING (receipt_id)
        WHERE g.expiry_id = going.expiry_id AND g.receipt_id >= low AND g.receipt_id < high
            AND r.receipt_id >= low AND r.receipt_id < high GROUP BY r.retention_class) AS c;
    batches := ARRAY(
        SELECT DISTINCT r.batch_id FROM record r JOIN expired_record g USING (receipt_id)
        WHERE g.expiry_id = going.expiry_id AND r.batch_id IS NOT NULL AND g.receipt_id >= low AND g.receipt_id < high
            AND r.receipt_id >= low AND r.receipt_id < high);
    -- Only now something is written: what only reads holds up nobody.
    INSERT INTO expiring_batch SELECT unnest(batches) ON CONFLICT DO NOTHING;
    UPDATE expiring_tenant t
    SET first_id = going.first_id, last_id = going.last_id, root = going.root, classes = going.classes
    WHERE t.expiry_id = going.expiry_id;
    PERFORM set_config('afdp.expiring', '', true);
    RETURN true;
END
$$;

-- Lets go: what it writes to `expiry` is told. A hold that is being placed or released waits for it, and it for that one:
-- never is half of what a hold names gone.
CREATE FUNCTION end_expiry(month date) RETURNS SETOF expiry
LANGUAGE plpgsql SECURITY DEFINER SET search_path = afdp_metadata, pg_temp AS $$
#variable_conflict use_variable
DECLARE
    low     uuid := first_of(month);
    high    uuid := end_of(month);
    tables  text[] := divided_tables();
    parts   text[];
    run     expiring;
    divided text;
    part    text;
    stays   boolean;
    ready   boolean;
BEGIN
    PERFORM set_config('afdp.expiring', 'on', true);
    SELECT * INTO run FROM expiring e WHERE e.month = end_expiry.month;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    -- Months are neither made nor let go by two at once.
    PERFORM pg_advisory_xact_lock(hashtextextended('afdp_metadata.month', 0));
    parts := ARRAY(SELECT part_of(each, month) FROM unnest(tables) AS each);
    PERFORM lock_all(ARRAY['legal_hold', 'retention_class'], 'SHARE');
    -- Who writes late into this month waits; who reads does not. So far nothing is written here, and nobody held up.
    PERFORM lock_all(parts, 'SHARE');
    SELECT coalesce(sum(kept + held), 0) > 0 INTO stays FROM expiring_tenant t WHERE t.month = end_expiry.month;
    SELECT run.rules = rules_now() AND run.sizes = part_sizes(month)
        AND coalesce(sum(t.due + t.kept + t.held), 0) = (run.sizes ->> 'record')::bigint
        AND coalesce(sum(t.due), 0) = (
            SELECT count(*) FROM expired_record g JOIN expiring_tenant o USING (expiry_id)
            WHERE o.month = end_expiry.month AND g.receipt_id >= low AND g.receipt_id < high)
        AND coalesce(bool_and(t.due = 0 OR t.root IS NOT NULL), true)
        AND NOT EXISTS (SELECT FROM pending JOIN expired_record USING (receipt_id) WHERE receipt_id >= low AND receipt_id < high)
        AND NOT EXISTS (SELECT FROM log_queue JOIN expired_record USING (receipt_id) WHERE receipt_id >= low AND receipt_id < high)
    INTO ready FROM expiring_tenant t WHERE t.month = end_expiry.month;
    IF stays THEN
        FOREACH divided IN ARRAY tables LOOP
            EXECUTE format(
                'SELECT $3 AND (SELECT count(*) FROM %1$I) = (SELECT count(*) FROM %2$I d WHERE NOT EXISTS ('
                'SELECT FROM expired_record g WHERE g.receipt_id = d.receipt_id AND g.receipt_id >= $1 AND g.receipt_id < $2)'
                ' AND d.receipt_id >= $1 AND d.receipt_id < $2)',
                part_of(divided, month) || '_next', divided) INTO ready USING low, high, ready;
        END LOOP;
    END IF;
    IF NOT ready THEN
        RAISE EXCEPTION 'records, holds or classes have changed since this expiry began' USING ERRCODE = 'lock_not_available';
    END IF;

    IF NOT EXISTS (SELECT FROM expiring_tenant t WHERE t.month = end_expiry.month AND t.due > 0) THEN
        FOREACH part IN ARRAY parts LOOP
            EXECUTE format('DROP TABLE %I', part || '_next');
        END LOOP;
    ELSE
        -- From here to the end of the transaction, which is near, everybody waits.
        PERFORM lock_all(tables || parts, 'ACCESS EXCLUSIVE');
        RETURN QUERY
        INSERT INTO expiry AS x
            (expiry_id, tenant, month, act, records, kept, held, classes, first_id, last_id, root)
        SELECT t.expiry_id, t.tenant, t.month, run.act, t.due, t.kept, t.held, t.classes, t.first_id, t.last_id, t.root
        FROM expiring_tenant t WHERE t.month = end_expiry.month AND t.due > 0 ORDER BY t.tenant
        RETURNING x.*;
        FOR at IN 1 .. cardinality(tables) LOOP
            divided := tables[at];
            part := parts[at];
            EXECUTE format('ALTER TABLE %I DETACH PARTITION %I', divided, part);
            EXECUTE format('DROP TABLE %I', part);
            IF stays THEN
                EXECUTE format('ALTER TABLE %I RENAME TO %I', part || '_next', part);
                PERFORM close_part(part);
                EXECUTE format('ALTER TABLE %I ATTACH PARTITION %I FOR VALUES FROM (%L) TO (%L)', divided, part, low, high);
            ELSE
                EXECUTE format('DROP TABLE %I', part || '_next');
            END IF;
        END LOOP;
    END IF;
    DELETE FROM expiring_tenant t WHERE t.month = end_expiry.month;
    DELETE FROM expiring e WHERE e.month = end_expiry.month;
    PERFORM set_config('afdp.expiring', '', true);
END
$$;

-- What leads to a record goes with it, a little later; whether there is more.
CREATE FUNCTION clear_expiry() RETURNS boolean
LANGUAGE plpgsql SECURITY DEFINER SET search_path = afdp_metadata, pg_temp AS $$
DECLARE
    keys    bytea[];
    wanted  uuid[];
    batches uuid[];
BEGIN
    PERFORM set_config('afdp.expiring', 'on', true);
    keys := ARRAY(
        SELECT k.digest FROM idempotency_key k JOIN expired_record g ON g.receipt_id = k.target
        JOIN expiry USING (expiry_id) LIMIT 20000);
    wanted := ARRAY(
        SELECT w.receipt_id FROM stamp_wanted w JOIN expired_record g USING (receipt_id) JOIN expiry USING (expiry_id)
        LIMIT 20000);
    batches := ARRAY(SELECT batch_id FROM expiring_batch LIMIT 1000);
    DELETE FROM idempotency_key WHERE digest = ANY(keys);
    DELETE FROM stamp_wanted WHERE receipt_id = ANY(wanted);
    DELETE FROM batch b WHERE b.batch_id = ANY(batches) AND NOT EXISTS (SELECT FROM record r WHERE r.batch_id = b.batch_id);
    DELETE FROM expiring_batch WHERE batch_id = ANY(batches);
    PERFORM set_config('afdp.expiring', '', true);
    RETURN cardinality(keys) + cardinality(wanted) + cardinality(batches) > 0;
END
$$;

-- What is said to have gone stays said; what an expiry has said that did not come to its end may be taken back.
CREATE FUNCTION only_unfinished() RETURNS trigger LANGUAGE plpgsql SET search_path = afdp_metadata, pg_temp AS $$
BEGIN
    IF EXISTS (SELECT FROM expiry x WHERE x.expiry_id = OLD.expiry_id) THEN
        RAISE EXCEPTION 'what has expired stays on record' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN OLD;
END
$$;
CREATE TRIGGER only_unfinished BEFORE DELETE ON expired_record FOR EACH ROW EXECUTE FUNCTION only_unfinished();
CREATE TRIGGER no_truncation BEFORE TRUNCATE ON expired_record EXECUTE FUNCTION refuse_deletion();

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
            OLD.subject, OLD.start_time, OLD.end_time, OLD.placed_by, OLD.placed_at, OLD.asked)
        IS DISTINCT FROM
           (NEW.hold_id, NEW.tenant, NEW.case_number, NEW.reason, NEW.artifact_hash, NEW.actor_id, NEW.event_type,
            NEW.subject, NEW.start_time, NEW.end_time, NEW.placed_by, NEW.placed_at, NEW.asked)
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
    FOREACH name IN ARRAY ARRAY['legal_hold', 'retention_class', 'expiry'] LOOP
        EXECUTE format(
            'CREATE TRIGGER no_deletion BEFORE DELETE OR TRUNCATE ON %I EXECUTE FUNCTION refuse_deletion()', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['legal_hold', 'expiry', 'expired_record'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', name);
        EXECUTE format(
            'CREATE POLICY of_one_tenant ON %I FOR SELECT TO afdp_metadata_reader '
            'USING (tenant = current_setting(''afdp.tenant'', true))', name);
    END LOOP;
    FOREACH name IN ARRAY ARRAY['expiring', 'expiring_tenant', 'expiring_batch'] LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY', name);
    END LOOP;
    -- Who owns the tables sees rows while records expire, and else none.
    FOREACH name IN ARRAY divided_tables() || ARRAY[
        'pending', 'log_queue', 'stamp_wanted', 'idempotency_key', 'batch', 'legal_hold', 'expiry', 'expired_record',
        'expiring', 'expiring_tenant', 'expiring_batch'
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

REVOKE EXECUTE ON FUNCTION months_with_records(), due_in_month(date), undo_expiry(date), begin_expiry(date, uuid),
    sort_expiry(date, uuid), copy_expiry(date, uuid), sum_expiry(date), end_expiry(date), clear_expiry() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION months_with_records(), due_in_month(date), undo_expiry(date), begin_expiry(date, uuid),
    sort_expiry(date, uuid), copy_expiry(date, uuid), sum_expiry(date), end_expiry(date), clear_expiry()
    TO afdp_metadata_keeper;
CREATE POLICY of_all_tenants ON expiring_tenant FOR SELECT TO afdp_metadata_writer USING (true);
GRANT SELECT ON expiring_tenant TO afdp_metadata_writer;
GRANT SELECT, INSERT, UPDATE (released_by, release_reason, released_at) ON legal_hold TO afdp_metadata_writer;
GRANT SELECT ON legal_hold, expiry, expired_record, retention_class TO afdp_metadata_reader;
GRANT SELECT ON expiry, expired_record, retention_class TO afdp_metadata_writer;
GRANT SELECT, INSERT, UPDATE (period) ON retention_class TO afdp_metadata_keeper;
GRANT SELECT, UPDATE (certificate) ON expiry TO afdp_metadata_keeper;
