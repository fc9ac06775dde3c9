-- Credentials and tokens that were declared worthless before their time.
-- oldest program: 1
CREATE TABLE revocation (
    -- What: a token, an account, a key, each with a prefix of its own.
    mark TEXT PRIMARY KEY,
    -- What was issued under the mark until then is worthless.
    before_us BIGINT NOT NULL,
    at_us BIGINT NOT NULL,
    -- Nothing that it is about can be good any more then.
    forget_at_us BIGINT NOT NULL
);
CREATE INDEX revocation_by_time ON revocation (at_us);
