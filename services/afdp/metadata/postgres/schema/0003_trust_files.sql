-- The trust root's TUF repository: its files as they are served. One publication is one transaction, and each is made
-- from the one before: `revision` counts them, and a writer who has not seen the newest is sent back to read.
CREATE TABLE trust_repository (
    only_one boolean NOT NULL PRIMARY KEY DEFAULT true CHECK (only_one),
    revision bigint  NOT NULL CHECK (revision > 0)
);

-- A file that the newest publication does not have any more is served a while longer, for readers on their way.
CREATE TABLE trust_file (
    name       text        NOT NULL PRIMARY KEY,
    content    bytea       NOT NULL,
    retired_at timestamptz
);
