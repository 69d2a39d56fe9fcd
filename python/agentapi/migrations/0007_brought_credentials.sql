-- Credentials that users bring: what an upstream asks each of them for, and what each of them gave.

-- Fields and where their values go, as the API takes it.
ALTER TABLE upstreams ADD COLUMN credential_form jsonb;
ALTER TABLE upstreams DROP CONSTRAINT upstreams_auth_check;
ALTER TABLE upstreams ADD CONSTRAINT upstreams_auth_check
    CHECK (auth IN ('none', 'bearer', 'api_key', 'oauth', 'user'));
ALTER TABLE upstreams ADD CONSTRAINT upstreams_form_has_use
    CHECK ((auth = 'user') = (credential_form IS NOT NULL));

-- One user's values for one upstream, sealed for this row together with where they may be sent. The id is a new one
-- whenever values are stored, so that nothing that was made with older ones is taken for theirs.
CREATE TABLE brought_credentials (
    org_id      uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    user_id     uuid NOT NULL,
    upstream_id uuid NOT NULL,
    id          uuid NOT NULL,
    sealed      bytea NOT NULL,
    status      text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'narrow', 'rejected')),
    created_at  timestamptz NOT NULL DEFAULT now(),
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, user_id, upstream_id),
    FOREIGN KEY (org_id, user_id) REFERENCES members (org_id, user_id) ON DELETE CASCADE,
    FOREIGN KEY (org_id, upstream_id) REFERENCES upstreams (org_id, id) ON DELETE CASCADE
);

-- The cascade from upstreams looks here; that from members uses the primary key.
CREATE INDEX brought_credentials_by_upstream ON brought_credentials (org_id, upstream_id);

ALTER TABLE brought_credentials ENABLE ROW LEVEL SECURITY;
ALTER TABLE brought_credentials FORCE ROW LEVEL SECURITY;

CREATE POLICY brought_credentials_select ON brought_credentials FOR SELECT USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
);
CREATE POLICY brought_credentials_insert ON brought_credentials FOR INSERT WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
    -- The foreign key would take an upstream that this user does not see.
    AND EXISTS (SELECT FROM upstreams WHERE upstreams.org_id = brought_credentials.org_id AND upstreams.id = upstream_id)
);
CREATE POLICY brought_credentials_update ON brought_credentials FOR UPDATE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
) WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
);
CREATE POLICY brought_credentials_delete ON brought_credentials FOR DELETE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
);

-- Whose a row is and what it is about is never updated.
DO $$
DECLARE app_role text := current_setting('agentapi.app_role');
BEGIN
    EXECUTE format('GRANT UPDATE (credential_form) ON upstreams TO %I', app_role);
    EXECUTE format(
        'GRANT SELECT, INSERT, DELETE, UPDATE (id, sealed, status, updated_at) ON brought_credentials TO %I', app_role
    );
END
$$;
