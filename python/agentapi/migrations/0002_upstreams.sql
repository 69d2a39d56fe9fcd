-- The registry of upstream servers.

-- A trusted extension: the owner of the database may create it (PostgreSQL 13 and later).
CREATE EXTENSION IF NOT EXISTS btree_gist;

-- Who sees an upstream, as a range of user ids: one user, or all.
CREATE TYPE user_range AS RANGE (subtype = uuid, multirange_type_name = user_multirange);

CREATE TABLE upstreams (
    id           uuid NOT NULL,
    org_id       uuid NOT NULL REFERENCES organizations (id),
    workspace_id uuid NOT NULL,
    name         text COLLATE "C" NOT NULL
                 CHECK (name ~ '^[a-z0-9]+(-[a-z0-9]+)*$' AND length(name) <= 32),
    transport    text NOT NULL CHECK (transport IN ('http', 'sse', 'stdio')),
    endpoint     text,
    command      text,
    auth         text NOT NULL CHECK (auth IN ('none', 'bearer', 'api_key', 'oauth')),
    auth_header  text,
    secret       bytea,
    scope        text NOT NULL CHECK (scope IN ('organization', 'user')),
    owner_id     uuid,
    enabled      boolean NOT NULL DEFAULT true,
    description  text NOT NULL DEFAULT '',
    version      bigint NOT NULL DEFAULT 1 CHECK (version > 0),
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    created_by   uuid NOT NULL,
    visible_to   user_range NOT NULL GENERATED ALWAYS AS (
        CASE WHEN owner_id IS NULL THEN user_range(NULL, NULL) ELSE user_range(owner_id, owner_id, '[]') END
    ) STORED,
    PRIMARY KEY (org_id, id),
    FOREIGN KEY (org_id, workspace_id) REFERENCES workspaces (org_id, id),
    CONSTRAINT upstreams_scope_names_owner CHECK ((scope = 'user') = (owner_id IS NOT NULL)),
    CONSTRAINT upstreams_stdio_has_command CHECK ((transport = 'stdio') = (command IS NOT NULL)),
    CONSTRAINT upstreams_remote_has_endpoint CHECK ((transport <> 'stdio') = (endpoint IS NOT NULL)),
    CONSTRAINT upstreams_secret_has_use CHECK (secret IS NULL OR auth <> 'none'),
    -- No two upstreams of one name in one workspace are visible to the same person: the organisation's names are
    -- unique, each user's names are unique, and the two never meet, under concurrent writes as well. The constraint
    -- sees rows that row-level security hides. Of another user's names a user therefore learns nothing, since theirs
    -- do not overlap; who registers for the whole organisation learns that *somebody* has taken a name, not who.
    CONSTRAINT upstreams_name_is_unambiguous EXCLUDE USING gist (
        org_id WITH =, workspace_id WITH =, name WITH =, visible_to WITH &&
    )
);

-- Pages of the registry, and the upstreams of a workspace, in the order of their names.
CREATE INDEX upstreams_by_name ON upstreams (org_id, name, id);
CREATE INDEX upstreams_by_workspace ON upstreams (org_id, workspace_id, name, id);

ALTER TABLE upstreams ENABLE ROW LEVEL SECURITY;
ALTER TABLE upstreams FORCE ROW LEVEL SECURITY;

CREATE POLICY upstreams_select ON upstreams FOR SELECT USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND (scope = 'organization' OR owner_id = NULLIF(current_setting('app.user_id', true), '')::uuid)
);
CREATE POLICY upstreams_insert ON upstreams FOR INSERT WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND (scope = 'organization' OR owner_id = NULLIF(current_setting('app.user_id', true), '')::uuid)
);
CREATE POLICY upstreams_update ON upstreams FOR UPDATE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND (scope = 'organization' OR owner_id = NULLIF(current_setting('app.user_id', true), '')::uuid)
) WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND (scope = 'organization' OR owner_id = NULLIF(current_setting('app.user_id', true), '')::uuid)
);
CREATE POLICY upstreams_delete ON upstreams FOR DELETE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND (scope = 'organization' OR owner_id = NULLIF(current_setting('app.user_id', true), '')::uuid)
);

-- What says whose an upstream is and where it belongs is never updated.
DO $$
DECLARE app_role text := current_setting('agentapi.app_role');
BEGIN
    EXECUTE format(
        'GRANT SELECT, INSERT, DELETE, UPDATE (name, transport, endpoint, command, auth, auth_header, secret,'
        ' enabled, description, version, updated_at) ON upstreams TO %I',
        app_role
    );
END
$$;
