-- How often an operator has let a log of others in again: a replica that was idle meanwhile learns by it that what it has
-- seen of the log before then does not count any more.
ALTER TABLE external_log ADD COLUMN readmissions integer NOT NULL DEFAULT 0;
