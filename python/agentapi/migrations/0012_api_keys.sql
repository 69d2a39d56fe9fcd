-- API keys: credentials that members make for programs. Of a key there is a hash alone.

CREATE TABLE api_keys (
    org_id         uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    id             uuid NOT NULL,
    name           text COLLATE "C" NOT NULL CHECK (length(name) BETWEEN 1 AND 100),
    created_by     uuid NOT NULL,
    user_id        uuid NOT NULL,
    role           text NOT NULL CHECK (role IN ('org_admin', 'member', 'viewer', 'agent')),
    scopes         text[] NOT NULL,
    workspace_id   uuid,
    hash           bytea NOT NULL CHECK (length(hash) = 32),
    previous_hash  bytea CHECK (length(previous_hash) = 32),
    previous_until timestamptz,
    created_at     timestamptz NOT NULL,
    rotated_at     timestamptz,
    expires_at     timestamptz,
    last_used_at   timestamptz,
    revoked_at     timestamptz,
    PRIMARY KEY (org_id, id),
    CHECK ((previous_hash IS NULL) = (previous_until IS NULL)),
    -- A key ends with whoever made it, with whom it acts as, and with the only workspace that it is for.
    FOREIGN KEY (org_id, created_by) REFERENCES members (org_id, user_id) ON DELETE CASCADE,
    FOREIGN KEY (org_id, user_id) REFERENCES members (org_id, user_id) ON DELETE CASCADE,
    FOREIGN KEY (org_id, workspace_id) REFERENCES workspaces (org_id, id) ON DELETE CASCADE
);

-- Lists go by name, of everybody's keys or of one maker's; the cascades look by user and by workspace.
CREATE INDEX api_keys_by_name ON api_keys (org_id, name, id);
CREATE INDEX api_keys_by_maker ON api_keys (org_id, created_by, name, id);
CREATE INDEX api_keys_by_user ON api_keys (org_id, user_id);
CREATE INDEX api_keys_by_workspace ON api_keys (org_id, workspace_id);

ALTER TABLE api_keys ENABLE ROW LEVEL SECURITY;
ALTER TABLE api_keys FORCE ROW LEVEL SECURITY;

-- A key names its organisation itself, so that it is found like any other row of a tenant.
CREATE POLICY api_keys_select ON api_keys FOR SELECT USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY api_keys_insert ON api_keys FOR INSERT WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY api_keys_update ON api_keys FOR UPDATE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
) WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY api_keys_delete ON api_keys FOR DELETE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);

-- What a key may do is never updated: who wants another one makes another one.
DO $$
DECLARE app_role text := current_setting('agentapi.app_role');
BEGIN
    EXECUTE format(
        'GRANT SELECT, INSERT, DELETE,'
        ' UPDATE (hash, previous_hash, previous_until, rotated_at, last_used_at, revoked_at) ON api_keys TO %I',
        app_role
    );
END
$$;
