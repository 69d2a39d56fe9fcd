-- Answers that may have to be given again: of requests that carried an Idempotency-Key. A row is written in the
-- transaction that did what the request asked for, so that there is an answer exactly where it was done.

CREATE TABLE idempotency_keys (
    org_id      uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    user_id     uuid NOT NULL,
    -- Of the key and of the credential that came with it.
    key_hash    bytea NOT NULL CHECK (length(key_hash) = 32),
    fingerprint bytea NOT NULL CHECK (length(fingerprint) = 32),
    -- It may hold a secret that is shown once.
    answer      bytea NOT NULL,
    expires_at  timestamptz NOT NULL,
    PRIMARY KEY (org_id, user_id, key_hash)
);
CREATE INDEX idempotency_keys_by_end ON idempotency_keys (org_id, expires_at);

ALTER TABLE idempotency_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE idempotency_keys FORCE ROW LEVEL SECURITY;

-- A row is its user's. What is over, the organisation may see and sweep.
CREATE POLICY idempotency_keys_select ON idempotency_keys FOR SELECT USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND (user_id = NULLIF(current_setting('app.user_id', true), '')::uuid OR expires_at <= now())
);
CREATE POLICY idempotency_keys_insert ON idempotency_keys FOR INSERT WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
);
CREATE POLICY idempotency_keys_update ON idempotency_keys FOR UPDATE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
) WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
);
CREATE POLICY idempotency_keys_delete ON idempotency_keys FOR DELETE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND (user_id = NULLIF(current_setting('app.user_id', true), '')::uuid OR expires_at <= now())
);
CREATE POLICY idempotency_keys_keys_select ON idempotency_keys FOR SELECT TO CURRENT_USER USING (
    current_setting('app.maintenance', true) = 'keys'
);
CREATE POLICY idempotency_keys_keys_update ON idempotency_keys FOR UPDATE TO CURRENT_USER USING (
    current_setting('app.maintenance', true) = 'keys'
) WITH CHECK (
    current_setting('app.maintenance', true) = 'keys'
);

-- An answer is never updated by the application.
DO $$
DECLARE app_role text := current_setting('agentapi.app_role');
BEGIN
    EXECUTE format('GRANT SELECT, INSERT, DELETE ON idempotency_keys TO %I', app_role);
END
$$;
