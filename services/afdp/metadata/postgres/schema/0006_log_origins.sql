-- Which log a PENDING record's entry goes to: decided when it is prepared, so that whoever finishes it asks the same log,
-- and only a successor of that one where it is frozen meanwhile. Empty: that of the log service's `AFDP_LOG_ORIGIN`, as of
-- all that was prepared before there were several. Once LOGGED, `log_entry` says where it is.
ALTER TABLE pending ADD COLUMN log_origin text NOT NULL DEFAULT '';
