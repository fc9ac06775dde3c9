-- Who did what: rows are only ever added, and removed when they are old.
-- oldest program: 1
CREATE TABLE audit (
    at_us BIGINT NOT NULL,
    id TEXT NOT NULL,
    subject_type TEXT NOT NULL,
    subject_id TEXT NOT NULL,
    action TEXT NOT NULL,
    result TEXT NOT NULL,
    reason TEXT NOT NULL,
    resource_id TEXT NOT NULL,
    folder_id TEXT NOT NULL,
    operation_id TEXT NOT NULL,
    request_id TEXT NOT NULL,
    PRIMARY KEY (at_us, id)
);
CREATE INDEX audit_of_resource ON audit (resource_id, at_us);
