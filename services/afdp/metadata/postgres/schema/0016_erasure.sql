-- Subjects that are to be erased, or were. A subject is its blind index alone.
--
-- A row passes these states, each written by a transaction of its own: it is asked for; it is closing, when nothing is
-- sealed for it any more (`closing_since`); it is decided, when nothing keeps its records, from where there is no way
-- back; it is erased, when its key is destroyed at its holder and its data keys here; and it is certified.
CREATE TABLE erasure (
    tenant        text        NOT NULL,
    subject       bytea       NOT NULL CHECK (octet_length(subject) = 16),
    requested_at  timestamptz NOT NULL DEFAULT statement_timestamp(),
    requested_by  text        NOT NULL,
    -- In the words of who asked, who is asked to name nobody.
    reason        text        NOT NULL,
    -- Why it waited when it was tried last; NULL: it does not.
    deferred      jsonb,
    closing_since timestamptz,
    decided_at    timestamptz,
    erased_at     timestamptz,
    -- How many records its data keys had sealed, the least and the greatest receipt ID, and the root of a tree as of
    -- RFC 6962: a leaf per record by ascending receipt ID, its 16 bytes and the 32 of its entry's leaf hash.
    records       bigint      NOT NULL DEFAULT 0,
    first_id      uuid,
    last_id       uuid,
    root          bytea       CHECK (octet_length(root) = 32),
    -- The act of the audit trail that had said that this was about to happen; NULL: none did.
    act           uuid,
    -- The receipt ID of the certificate.
    certificate   uuid,
    PRIMARY KEY (tenant, subject),
    CHECK (decided_at IS NULL OR closing_since IS NOT NULL),
    CHECK (erased_at IS NULL OR decided_at IS NOT NULL AND root IS NOT NULL),
    CHECK (certificate IS NULL OR erased_at IS NOT NULL)
);
-- What every service that seals looks for all the time: those that are closing, and those that were erased lately.
CREATE INDEX erasure_closing ON erasure (closing_since) WHERE closing_since IS NOT NULL AND erased_at IS NULL;
CREATE INDEX erasure_by_time ON erasure (erased_at) WHERE erased_at IS NOT NULL;
CREATE INDEX erasure_to_finish ON erasure (tenant, subject) WHERE certificate IS NULL;

-- What was decided stays so.
CREATE FUNCTION only_forward() RETURNS trigger LANGUAGE plpgsql SET search_path = afdp_metadata, pg_temp AS $$
BEGIN
    IF (OLD.tenant, OLD.subject, OLD.requested_at, OLD.requested_by, OLD.reason)
        IS DISTINCT FROM (NEW.tenant, NEW.subject, NEW.requested_at, NEW.requested_by, NEW.reason)
        OR OLD.decided_at IS NOT NULL AND (OLD.decided_at, OLD.closing_since)
            IS DISTINCT FROM (NEW.decided_at, NEW.closing_since)
        OR OLD.erased_at IS NOT NULL AND (OLD.erased_at, OLD.records, OLD.first_id, OLD.last_id, OLD.root, OLD.act)
            IS DISTINCT FROM (NEW.erased_at, NEW.records, NEW.first_id, NEW.last_id, NEW.root, NEW.act)
        OR OLD.certificate IS NOT NULL AND OLD.certificate IS DISTINCT FROM NEW.certificate
    THEN
        RAISE EXCEPTION 'an erasure that was decided stays as it is' USING ERRCODE = 'restrict_violation';
    END IF;
    RETURN NEW;
END
$$;
CREATE TRIGGER only_forward BEFORE UPDATE ON erasure FOR EACH ROW EXECUTE FUNCTION only_forward();
CREATE TRIGGER no_deletion BEFORE DELETE OR TRUNCATE ON erasure EXECUTE FUNCTION refuse_deletion();

-- Which of the data keys must seal nothing now, and whether the erasure of their subject is decided. Until the caller's
-- transaction ends, none of their tenants' erasures is decided (`erasures.py`): what it writes comes before that, and is
-- seen there. It is volatile, so that what is read once the locks are had is of then, not of when the caller began.
CREATE FUNCTION shut_data_keys(keys uuid[]) RETURNS TABLE (data_key uuid, decided boolean)
    LANGUAGE plpgsql VOLATILE SET search_path = afdp_metadata, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('afdp_metadata.erasing.' || t.tenant, 0)) FROM (
        SELECT DISTINCT k.tenant FROM data_key k
        WHERE k.id = ANY(keys) AND octet_length(k.subject) > 0 ORDER BY k.tenant
    ) AS t;
    RETURN QUERY SELECT k.id, e.decided_at IS NOT NULL
        FROM data_key k JOIN erasure e ON e.tenant = k.tenant AND e.subject = k.subject
        WHERE k.id = ANY(keys) AND e.closing_since IS NOT NULL;
END
$$;

GRANT SELECT, INSERT,
    UPDATE (deferred, closing_since, decided_at, erased_at, records, first_id, last_id, root, act, certificate)
    ON erasure TO afdp_metadata_writer;
-- Readers need none of it: what a caller is told is looked up by the service itself.
ALTER TABLE erasure ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
CREATE POLICY of_all_tenants ON erasure TO afdp_metadata_writer USING (true) WITH CHECK (true);
