-- The gateway's own issuer: the keys that it signs with, and tokens of any issuer that are refused before their end.
--
-- Both tables belong to the deployment and know no tenant. Row-level security shows them in the context of the
-- deployment alone, whose id is all zeros and no organisation's, so that no query of a tenant reads a key.

CREATE TABLE signing_keys (
    id         text PRIMARY KEY CHECK (length(id) BETWEEN 1 AND 64),
    public     text NOT NULL,
    private    bytea NOT NULL,
    created_at timestamptz NOT NULL,
    signs_from timestamptz NOT NULL
);
ALTER TABLE signing_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE signing_keys FORCE ROW LEVEL SECURITY;
CREATE POLICY signing_keys_select ON signing_keys FOR SELECT USING (
    current_setting('app.org_id', true) = '00000000-0000-0000-0000-000000000000'
);
CREATE POLICY signing_keys_insert ON signing_keys FOR INSERT WITH CHECK (
    current_setting('app.org_id', true) = '00000000-0000-0000-0000-000000000000'
);
CREATE POLICY signing_keys_delete ON signing_keys FOR DELETE USING (
    current_setting('app.org_id', true) = '00000000-0000-0000-0000-000000000000'
);
-- For the rotation of the sealing keys, as on every table with a sealed column (0011).
CREATE POLICY signing_keys_keys_select ON signing_keys FOR SELECT TO CURRENT_USER USING (
    current_setting('app.maintenance', true) = 'keys'
);
CREATE POLICY signing_keys_keys_update ON signing_keys FOR UPDATE TO CURRENT_USER USING (
    current_setting('app.maintenance', true) = 'keys'
) WITH CHECK (
    current_setting('app.maintenance', true) = 'keys'
);

CREATE TABLE revoked_tokens (
    issuer     text NOT NULL CHECK (length(issuer) <= 2048),
    token_id   text NOT NULL CHECK (length(token_id) BETWEEN 1 AND 255),
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (issuer, token_id)
);
-- Every process is told, or asks once a second where it does not hear; and asks now and then for what is over.
CREATE INDEX revoked_tokens_by_time ON revoked_tokens (revoked_at);
CREATE INDEX revoked_tokens_by_end ON revoked_tokens (expires_at);
ALTER TABLE revoked_tokens ENABLE ROW LEVEL SECURITY;
ALTER TABLE revoked_tokens FORCE ROW LEVEL SECURITY;
CREATE POLICY revoked_tokens_select ON revoked_tokens FOR SELECT USING (
    current_setting('app.org_id', true) = '00000000-0000-0000-0000-000000000000'
);
-- A revocation is written in the transaction of whoever asks for it, beside its row in the organisation's audit log.
CREATE POLICY revoked_tokens_insert ON revoked_tokens FOR INSERT WITH CHECK (
    NULLIF(current_setting('app.org_id', true), '') IS NOT NULL
);
-- What is over may go; nobody takes a revocation back.
CREATE POLICY revoked_tokens_delete ON revoked_tokens FOR DELETE USING (
    current_setting('app.org_id', true) = '00000000-0000-0000-0000-000000000000' AND expires_at < now()
);

CREATE TRIGGER tell_change AFTER INSERT ON revoked_tokens FOR EACH ROW EXECUTE FUNCTION tell_row();

DO $$
DECLARE app_role text := current_setting('agentapi.app_role');
BEGIN
    EXECUTE format('GRANT SELECT, INSERT, DELETE ON signing_keys TO %I', app_role);
    EXECUTE format('GRANT SELECT, INSERT, DELETE ON revoked_tokens TO %I', app_role);
END
$$;
