-- Organisations, workspaces, members.
--
-- Row-level security is the tenancy boundary: a transaction sees the organisation that app.org_id names, or nothing.
-- Keys of tenant tables lead with org_id, so that a duplicate key never tells of a row of another organisation.
-- Foreign keys are checked with row-level security forced off by PostgreSQL itself (ri_triggers.c).

CREATE TABLE organizations (
    id         uuid PRIMARY KEY,
    slug       text COLLATE "C" NOT NULL UNIQUE
               CHECK (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' AND length(slug) <= 63),
    name       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE workspaces (
    id         uuid NOT NULL,
    org_id     uuid NOT NULL REFERENCES organizations (id),
    slug       text COLLATE "C" NOT NULL
               CHECK (slug ~ '^[a-z0-9]+(-[a-z0-9]+)*$' AND length(slug) <= 63),
    name       text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, id),
    UNIQUE (org_id, slug)
);

CREATE TABLE members (
    org_id       uuid NOT NULL REFERENCES organizations (id),
    user_id      uuid NOT NULL,
    issuer       text NOT NULL,
    subject      text NOT NULL,
    email        text,
    role         text NOT NULL
                 CHECK (role IN ('platform_admin', 'org_admin', 'member', 'viewer', 'agent')),
    created_at   timestamptz NOT NULL DEFAULT now(),
    last_seen_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, user_id),
    UNIQUE (org_id, issuer, subject)
);

ALTER TABLE organizations ENABLE ROW LEVEL SECURITY;
ALTER TABLE organizations FORCE ROW LEVEL SECURITY;
ALTER TABLE workspaces ENABLE ROW LEVEL SECURITY;
ALTER TABLE workspaces FORCE ROW LEVEL SECURITY;
ALTER TABLE members ENABLE ROW LEVEL SECURITY;
ALTER TABLE members FORCE ROW LEVEL SECURITY;

-- An organisation is also found by its slug, before it is known who calls.
CREATE POLICY organizations_select ON organizations FOR SELECT USING (
    id = NULLIF(current_setting('app.org_id', true), '')::uuid
    OR slug = NULLIF(current_setting('app.org_slug', true), '')
);
CREATE POLICY organizations_insert ON organizations FOR INSERT WITH CHECK (
    id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY organizations_update ON organizations FOR UPDATE USING (
    id = NULLIF(current_setting('app.org_id', true), '')::uuid
) WITH CHECK (
    id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY organizations_delete ON organizations FOR DELETE USING (
    id = NULLIF(current_setting('app.org_id', true), '')::uuid
);

CREATE POLICY workspaces_select ON workspaces FOR SELECT USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY workspaces_insert ON workspaces FOR INSERT WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY workspaces_update ON workspaces FOR UPDATE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
) WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY workspaces_delete ON workspaces FOR DELETE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);

CREATE POLICY members_select ON members FOR SELECT USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY members_insert ON members FOR INSERT WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY members_update ON members FOR UPDATE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
) WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY members_delete ON members FOR DELETE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);

-- Keys are never updated, and organisations are never deleted by the application.
DO $$
DECLARE app_role text := current_setting('agentapi.app_role');
BEGIN
    EXECUTE format('GRANT USAGE ON SCHEMA public TO %I', app_role);
    EXECUTE format('GRANT SELECT ON schema_migrations TO %I', app_role);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE (slug, name) ON organizations TO %I', app_role);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE (slug, name), DELETE ON workspaces TO %I', app_role);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE (email, role, last_seen_at), DELETE ON members TO %I', app_role);
END
$$;
