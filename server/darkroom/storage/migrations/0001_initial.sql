-- Contents, images, operations and idempotency keys.
-- Written in the SQL that SQLite and PostgreSQL share. Times: microseconds since the epoch.

CREATE TABLE content (
    id TEXT PRIMARY KEY,
    virtual_size_bytes BIGINT NOT NULL,
    stored_size_bytes BIGINT NOT NULL,
    sha256 TEXT NOT NULL,
    source_sha256 TEXT NOT NULL,
    created_at_us BIGINT NOT NULL
);

CREATE TABLE image (
    id TEXT PRIMARY KEY,
    folder_id TEXT NOT NULL,
    created_at_us BIGINT NOT NULL,
    status INTEGER NOT NULL,
    name TEXT NOT NULL,
    description TEXT NOT NULL,
    labels TEXT NOT NULL,
    family TEXT NOT NULL,
    size_bytes BIGINT NOT NULL,
    storage_size_bytes BIGINT NOT NULL,
    min_disk_size_bytes BIGINT NOT NULL,
    product_ids TEXT NOT NULL,
    os_type INTEGER NOT NULL,
    os_nvidia_driver TEXT NOT NULL,
    pooled INTEGER NOT NULL,
    hardware TEXT NOT NULL,
    kms_key TEXT NOT NULL,
    content_id TEXT REFERENCES content (id) ON DELETE RESTRICT
);

-- A name is unique among the live images of a folder; 3 is ERROR, whose name is free again.
CREATE UNIQUE INDEX image_name ON image (folder_id, name) WHERE name <> '' AND status <> 3;
CREATE INDEX image_folder ON image (folder_id, id);
CREATE INDEX image_content ON image (content_id) WHERE content_id IS NOT NULL;

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
    payload TEXT NOT NULL,
    sealed TEXT NOT NULL,
    error TEXT NOT NULL,
    response TEXT NOT NULL
);

CREATE INDEX operation_resource ON operation (resource_id, created_at_us);
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
