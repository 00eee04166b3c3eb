-- `entry` in partitions of 2^21 entries of one log each: whatever an append reads and writes lies in the newest, however
-- large the log is. An entry that is not new is looked for in all of them.
--
-- Each partition has indexes of its own and none that spans the columns it is divided by, so that where a leaf hash is
-- looked for, the index over leaf hashes is the only one that a plan can take.
--
-- Partitions are made ahead of need by `make_room`, which runs with the rights of whoever migrates: those who append
-- need none to make tables.

ALTER TABLE entry RENAME TO entry_before;

CREATE TABLE entry (
    leaf_index bigint   NOT NULL CONSTRAINT entry_leaf_index_check CHECK (leaf_index >= 0),
    log_id     smallint NOT NULL,
    leaf_hash  bytea    NOT NULL CONSTRAINT entry_leaf_hash_check CHECK (octet_length(leaf_hash) = 32),
    body       bytea    NOT NULL CONSTRAINT entry_body_check CHECK (octet_length(body) BETWEEN 1 AND 65535)
) PARTITION BY RANGE (log_id, (leaf_index >> 21));
-- Digests and signatures do not compress.
ALTER TABLE entry ALTER COLUMN body SET STORAGE EXTERNAL;

-- Makes the partition of a log with this number, unless it is there. May be called by any number at once; it holds up
-- nobody who appends.
CREATE FUNCTION make_partition(log smallint, number bigint) RETURNS void
LANGUAGE plpgsql SET search_path = afdp_log, pg_temp AS $$
DECLARE
    partition text := format('entry_%s_%s', log, number);
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended('afdp_log.entry', 0));
    IF EXISTS (SELECT FROM pg_tables WHERE schemaname = 'afdp_log' AND tablename = partition) THEN
        RETURN;
    END IF;
    EXECUTE format('CREATE TABLE %I (LIKE entry INCLUDING CONSTRAINTS INCLUDING STORAGE)', partition);
    PERFORM make_indexes(partition);
    EXECUTE format('ALTER TABLE entry ATTACH PARTITION %I FOR VALUES FROM (%s, %s) TO (%s, %s)',
                   partition, log, number, log, number + 1);
END
$$;

CREATE FUNCTION make_indexes(partition text) RETURNS void
LANGUAGE plpgsql SET search_path = afdp_log, pg_temp AS $$
BEGIN
    EXECUTE format('ALTER TABLE %I ADD PRIMARY KEY (leaf_index) WITH (fillfactor = 100)', partition);
    -- Finds an entry that is there already. It keeps 4 of the 32 bytes.
    EXECUTE format('CREATE INDEX ON %I USING hash (leaf_hash) WITH (fillfactor = 90)', partition);
END
$$;

-- Makes what a log will need next: the partition that it grows into, and once that is half full, the one after it.
CREATE FUNCTION make_room(log smallint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = afdp_log, pg_temp AS $$
DECLARE
    leaves bigint := (SELECT size FROM tree WHERE log_id = log AND frozen_at IS NULL);
BEGIN
    IF leaves IS NULL THEN
        RETURN;
    END IF;
    FOR number IN leaves >> 21 .. (leaves + (1 << 20)) >> 21 LOOP
        IF NOT EXISTS (
            SELECT FROM pg_tables WHERE schemaname = 'afdp_log' AND tablename = format('entry_%s_%s', log, number)
        ) THEN
            PERFORM make_partition(log, number);
        END IF;
    END LOOP;
END
$$;

-- What is there already becomes one partition of the log that has the most, which therefore may be larger than those that
-- come; what other logs have moves into partitions of theirs.
DO $$
DECLARE
    largest smallint := (SELECT log_id FROM tree ORDER BY size DESC, log_id LIMIT 1);
    newest  bigint := (SELECT size FROM tree WHERE log_id = largest) >> 21;
    other   record;
BEGIN
    IF largest IS NULL THEN
        DROP TABLE entry_before;
        RETURN;
    END IF;
    FOR other IN SELECT log_id, size FROM tree WHERE log_id <> largest LOOP
        FOR number IN 0 .. other.size >> 21 LOOP
            PERFORM make_partition(other.log_id, number);
        END LOOP;
    END LOOP;
    WITH moved AS (DELETE FROM entry_before WHERE log_id <> largest RETURNING leaf_index, log_id, leaf_hash, body)
    INSERT INTO entry (leaf_index, log_id, leaf_hash, body) SELECT leaf_index, log_id, leaf_hash, body FROM moved;
    ALTER TABLE entry_before DROP CONSTRAINT entry_pkey;
    DROP INDEX entry_by_leaf_hash;
    EXECUTE format('ALTER TABLE entry_before RENAME TO entry_%s_%s', largest, newest);
    PERFORM make_indexes(format('entry_%s_%s', largest, newest));
    EXECUTE format('ALTER TABLE entry ATTACH PARTITION entry_%s_%s FOR VALUES FROM (%s, 0) TO (%s, %s)',
                   largest, newest, largest, largest, newest + 1);
END
$$;
