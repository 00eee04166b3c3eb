-- A log: its entries, the hashes that make its tiles, and the checkpoint that readers see.
--
-- Rows of `entry` and `node` are written once and never changed, and no partial tile is ever stored: a tile is a range
-- of hashes. There are no foreign keys: whatever is written is written under the lock of the log's row in `tree`.

-- One row per log. Its lock orders all who append. What stands in it besides the log's identity is the right edge of
-- the tree, which is all that growing it needs.
CREATE TABLE tree (
    log_id     smallint NOT NULL PRIMARY KEY,
    origin     text     NOT NULL UNIQUE,
    -- Raw Ed25519, for ever.
    public_key bytea    NOT NULL CHECK (octet_length(public_key) = 32),
    size       bigint   NOT NULL CHECK (size >= 0),
    root       bytea    NOT NULL CHECK (octet_length(root) = 32),
    -- The size as 8 bytes, then the roots of the complete subtrees, largest first.
    frontier   bytea    NOT NULL CHECK (octet_length(frontier) % 32 = 8)
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

-- The largest checkpoint that was published, at most one row per log. Apart from `tree`, so that publishing waits for
-- no append.
CREATE TABLE checkpoint (
    log_id smallint NOT NULL PRIMARY KEY,
    size   bigint   NOT NULL CHECK (size > 0),
    root   bytea    NOT NULL CHECK (octet_length(root) = 32),
    note   text     NOT NULL
) WITH (fillfactor = 10, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 1000);

CREATE TABLE entry (
    leaf_index bigint   NOT NULL CHECK (leaf_index >= 0),
    log_id     smallint NOT NULL,
    leaf_hash  bytea    NOT NULL CHECK (octet_length(leaf_hash) = 32),
    body       bytea    NOT NULL CHECK (octet_length(body) BETWEEN 1 AND 65535),
    PRIMARY KEY (log_id, leaf_index) WITH (fillfactor = 100)
);
-- Digests and signatures do not compress.
ALTER TABLE entry ALTER COLUMN body SET STORAGE EXTERNAL;
-- Finds an entry that is there already. It keeps 4 of the 32 bytes.
CREATE INDEX entry_by_leaf_hash ON entry USING hash (leaf_hash) WITH (fillfactor = 90);

-- The root of each complete subtree of 256^level leaves: the hashes in tiles of level 1 and above.
CREATE TABLE node (
    node_index bigint   NOT NULL CHECK (node_index >= 0),
    log_id     smallint NOT NULL,
    level      smallint NOT NULL CHECK (level BETWEEN 1 AND 7),
    hash       bytea    NOT NULL CHECK (octet_length(hash) = 32),
    PRIMARY KEY (log_id, level, node_index)
);
