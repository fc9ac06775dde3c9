-- Which key seals secrets: workers that do not hold it leave the work to others.
-- oldest program: 1

CREATE TABLE secret_key (
    only_row INTEGER PRIMARY KEY,
    key_id TEXT NOT NULL
);
