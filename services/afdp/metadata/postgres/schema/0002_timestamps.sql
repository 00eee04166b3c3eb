-- The RFC 3161 response over a record's signature, DER. Records of before this column have none, and so has a record
-- that was signed while no authority stamped. No constraint: it would read the whole table under a lock.
ALTER TABLE record_content ADD COLUMN timestamp bytea;
