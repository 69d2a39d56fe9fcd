-- Prompts and their versions. Without an organisation a prompt is global: every tenant reads it, and it is written only in
-- the context of the deployment, whose id is all zeros and no organisation's.

CREATE TABLE prompts (
    id           uuid NOT NULL,
    org_id       uuid REFERENCES organizations (id) ON DELETE CASCADE,
    workspace_id uuid,
    owner_id     uuid,
    name         text COLLATE "C" NOT NULL
                 CHECK (name ~ '^[a-z0-9]+(-[a-z0-9]+)*$' AND length(name) <= 63),
    text         text NOT NULL CHECK (length(text) <= 32768),
    variables    jsonb NOT NULL DEFAULT '[]',
    priority     integer NOT NULL DEFAULT 0 CHECK (priority BETWEEN -1000 AND 1000),
    description  text NOT NULL DEFAULT '',
    enabled      boolean NOT NULL DEFAULT true,
    version      bigint NOT NULL DEFAULT 1 CHECK (version > 0),
    created_by   uuid NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_by   uuid NOT NULL,
    updated_at   timestamptz NOT NULL DEFAULT now(),
    UNIQUE (org_id, id),
    UNIQUE NULLS NOT DISTINCT (org_id, workspace_id, owner_id, name),
    FOREIGN KEY (org_id, workspace_id) REFERENCES workspaces (org_id, id) ON DELETE CASCADE,
    FOREIGN KEY (org_id, owner_id) REFERENCES members (org_id, user_id) ON DELETE CASCADE,
    CONSTRAINT prompts_have_one_scope CHECK (num_nonnulls(workspace_id, owner_id) <= (org_id IS NOT NULL)::integer)
);

-- Pages of the list, and the cascade from members; that from workspaces uses the key of names.
CREATE INDEX prompts_by_name ON prompts (org_id, name, id);
CREATE INDEX prompts_by_owner ON prompts (org_id, owner_id);

-- Of a global prompt the foreign key says nothing, so its versions are deleted with it by hand.
CREATE TABLE prompt_versions (
    org_id      uuid,
    prompt_id   uuid NOT NULL,
    version     bigint NOT NULL,
    text        text NOT NULL,
    variables   jsonb NOT NULL,
    priority    integer NOT NULL,
    description text NOT NULL,
    enabled     boolean NOT NULL,
    updated_by  uuid NOT NULL,
    updated_at  timestamptz NOT NULL,
    UNIQUE NULLS NOT DISTINCT (org_id, prompt_id, version),
    FOREIGN KEY (org_id, prompt_id) REFERENCES prompts (org_id, id) ON DELETE CASCADE
);

ALTER TABLE prompts ENABLE ROW LEVEL SECURITY;
ALTER TABLE prompts FORCE ROW LEVEL SECURITY;
ALTER TABLE prompt_versions ENABLE ROW LEVEL SECURITY;
ALTER TABLE prompt_versions FORCE ROW LEVEL SECURITY;

CREATE POLICY prompts_select ON prompts FOR SELECT USING (
    (
        org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
        AND (owner_id IS NULL OR owner_id = NULLIF(current_setting('app.user_id', true), '')::uuid)
    )
    OR (org_id IS NULL AND NULLIF(current_setting('app.org_id', true), '') IS NOT NULL)
);
CREATE POLICY prompts_insert ON prompts FOR INSERT WITH CHECK (
    (
        org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
        AND (owner_id IS NULL OR owner_id = NULLIF(current_setting('app.user_id', true), '')::uuid)
    )
    OR (org_id IS NULL AND current_setting('app.org_id', true) = '00000000-0000-0000-0000-000000000000')
);
CREATE POLICY prompts_update ON prompts FOR UPDATE USING (
    (
        org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
        AND (owner_id IS NULL OR owner_id = NULLIF(current_setting('app.user_id', true), '')::uuid)
    )
    OR (org_id IS NULL AND current_setting('app.org_id', true) = '00000000-0000-0000-0000-000000000000')
) WITH CHECK (
    (
        org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
        AND (owner_id IS NULL OR owner_id = NULLIF(current_setting('app.user_id', true), '')::uuid)
    )
    OR (org_id IS NULL AND current_setting('app.org_id', true) = '00000000-0000-0000-0000-000000000000')
);
CREATE POLICY prompts_delete ON prompts FOR DELETE USING (
    (
        org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
        AND (owner_id IS NULL OR owner_id = NULLIF(current_setting('app.user_id', true), '')::uuid)
    )
    OR (org_id IS NULL AND current_setting('app.org_id', true) = '00000000-0000-0000-0000-000000000000')
);

-- A version is seen and written by whoever sees and writes its prompt: the policies of prompts hold in the subqueries.
CREATE POLICY prompt_versions_select ON prompt_versions FOR SELECT USING (
    EXISTS (
        SELECT FROM prompts p WHERE p.id = prompt_id
        AND (p.org_id = prompt_versions.org_id OR (p.org_id IS NULL AND prompt_versions.org_id IS NULL))
    )
);
CREATE POLICY prompt_versions_insert ON prompt_versions FOR INSERT WITH CHECK (
    (
        org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
        OR (org_id IS NULL AND current_setting('app.org_id', true) = '00000000-0000-0000-0000-000000000000')
    )
    AND EXISTS (
        SELECT FROM prompts p WHERE p.id = prompt_id
        AND (p.org_id = prompt_versions.org_id OR (p.org_id IS NULL AND prompt_versions.org_id IS NULL))
    )
);
CREATE POLICY prompt_versions_update ON prompt_versions FOR UPDATE USING (false);
CREATE POLICY prompt_versions_delete ON prompt_versions FOR DELETE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    OR (org_id IS NULL AND current_setting('app.org_id', true) = '00000000-0000-0000-0000-000000000000')
);

-- Where a prompt holds and whose it is is never updated, and a version not at all.
DO $$
DECLARE app_role text := current_setting('agentapi.app_role');
BEGIN
    EXECUTE format(
        'GRANT SELECT, INSERT, DELETE, UPDATE (text, variables, priority, description, enabled, version, updated_by,'
        ' updated_at) ON prompts TO %I',
        app_role
    );
    EXECUTE format('GRANT SELECT, INSERT, DELETE ON prompt_versions TO %I', app_role);
END
$$;
