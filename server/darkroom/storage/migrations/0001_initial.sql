-- Contents, resources, operations and idempotency keys.
-- Written in the SQL that SQLite and PostgreSQL share. Times: microseconds since the epoch.

CREATE TABLE content (
    id TEXT PRIMARY KEY,
    virtual_size_bytes BIGINT NOT NULL,
    stored_size_bytes BIGINT NOT NULL,
    sha256 TEXT NOT NULL,
    source_sha256 TEXT NOT NULL,
    created_at_us BIGINT NOT NULL,
    -- 1 from the moment nothing may refer to it any more until the collector has looked.
    check_due INTEGER NOT NULL
);
-- What the collector looks at every second: small however many contents there are.
CREATE INDEX content_check_due ON content (id) WHERE check_due = 1;

-- Images, disks and snapshots: what they share and what listings look at has a column, the rest
-- of a kind's fields is JSON in `details`, those with their default value left out.
CREATE TABLE resource (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    folder_id TEXT NOT NULL,
    created_at_us BIGINT NOT NULL,
    status INTEGER NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    labels TEXT NOT NULL,
    family TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    storage_size_bytes BIGINT NOT NULL,
    content_id TEXT REFERENCES content (id) ON DELETE RESTRICT,
    details TEXT NOT NULL
);

-- A name is unique among the live resources of a kind in a folder; 3 is ERROR, whose name is free.
CREATE UNIQUE INDEX resource_unique_name ON resource (kind, folder_id, name)
    WHERE name <> '' AND status <> 3;
-- One index for each order of a listing.
CREATE INDEX resource_by_id ON resource (kind, folder_id, id);
CREATE INDEX resource_by_name ON resource (kind, folder_id, name, id);
CREATE INDEX resource_by_time ON resource (kind, folder_id, created_at_us, id);
-- And for the filters that usually leave few rows; 2 is READY, which nearly all are.
CREATE INDEX resource_by_family ON resource (kind, folder_id, family, id) WHERE family <> '';
CREATE INDEX resource_unready ON resource (kind, folder_id, status, id) WHERE status <> 2;
-- The newest image of a family.
CREATE INDEX resource_latest ON resource (kind, folder_id, family, created_at_us, id)
    WHERE family <> '' AND status = 2;
CREATE INDEX resource_content ON resource (content_id) WHERE content_id IS NOT NULL;

CREATE TABLE access_binding (
    resource_id TEXT NOT NULL REFERENCES resource (id) ON DELETE CASCADE,
    role_id TEXT NOT NULL,
    subject_type TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    PRIMARY KEY (resource_id, role_id, subject_type, subject_id)
);

CREATE TABLE operation (
    id TEXT PRIMARY KEY,
    kind TEXT NOT NULL,
    folder_id TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    created_at_us BIGINT NOT NULL,
    created_by TEXT NOT NULL,
    modified_at_us BIGINT NOT NULL,
    state INTEGER NOT NULL,
    cancel_requested INTEGER NOT NULL,
    owner TEXT NOT NULL,
    fence BIGINT NOT NULL,
    beat BIGINT NOT NULL,
    attempt INTEGER NOT NULL,
    delay_ms BIGINT NOT NULL,
    phase TEXT NOT NULL,
    progress_done_bytes BIGINT NOT NULL,
    progress_total_bytes BIGINT,
    metadata TEXT NOT NULL,
    payload TEXT NOT NULL,
    sealed TEXT NOT NULL,
    error TEXT NOT NULL,
    response TEXT NOT NULL
);

CREATE INDEX operation_resource ON operation (resource_id, created_at_us, id);
-- Small whatever the history: only unfinished operations are in it.
CREATE INDEX operation_unfinished ON operation (created_at_us, id) WHERE state < 2;
CREATE INDEX operation_finished ON operation (modified_at_us) WHERE state = 2;

CREATE TABLE idempotency_key (
    subject TEXT NOT NULL,
    idempotency_key TEXT NOT NULL,
    request_hash TEXT NOT NULL,
    operation_id TEXT NOT NULL REFERENCES operation (id) ON DELETE CASCADE,
    PRIMARY KEY (subject, idempotency_key)
);
CREATE INDEX idempotency_operation ON idempotency_key (operation_id);
