-- Tool policy, toolsets, and what was approved of the tools that upstreams offer.

CREATE TABLE tool_policies (
    org_id       uuid NOT NULL REFERENCES organizations (id),
    workspace_id uuid NOT NULL,
    document     jsonb NOT NULL,
    version      bigint NOT NULL DEFAULT 1 CHECK (version > 0),
    updated_by   uuid NOT NULL,
    updated_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, workspace_id),
    FOREIGN KEY (org_id, workspace_id) REFERENCES workspaces (org_id, id) ON DELETE CASCADE
);

CREATE TABLE toolsets (
    id           uuid NOT NULL,
    org_id       uuid NOT NULL REFERENCES organizations (id),
    workspace_id uuid NOT NULL,
    name         text COLLATE "C" NOT NULL
                 CHECK (name ~ '^[a-z0-9]+(-[a-z0-9]+)*$' AND length(name) <= 63),
    description  text NOT NULL DEFAULT '',
    tools        text[] NOT NULL,
    prompts      text[] NOT NULL,
    resources    text[] NOT NULL,
    search_mode  boolean NOT NULL DEFAULT false,
    version      bigint NOT NULL DEFAULT 1 CHECK (version > 0),
    created_by   uuid NOT NULL,
    created_at   timestamptz NOT NULL DEFAULT now(),
    updated_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, id),
    UNIQUE (org_id, workspace_id, name),
    FOREIGN KEY (org_id, workspace_id) REFERENCES workspaces (org_id, id) ON DELETE CASCADE
);

-- Counts the changes to a workspace's approvals: who remembers them reads one number to learn whether they still hold,
-- and who writes them takes its row first, so that two processes never both meet a tool for the first time.
CREATE TABLE tool_approval_revisions (
    org_id       uuid NOT NULL REFERENCES organizations (id),
    workspace_id uuid NOT NULL,
    revision     bigint NOT NULL DEFAULT 1,
    PRIMARY KEY (org_id, workspace_id),
    FOREIGN KEY (org_id, workspace_id) REFERENCES workspaces (org_id, id) ON DELETE CASCADE
);

-- One row for each definition of a tool that was met: an upstream may describe a tool differently to different people,
-- and each description is approved by itself. The owner is that of a private upstream, who alone sees its tools.
CREATE TABLE tool_approvals (
    id            uuid NOT NULL,
    org_id        uuid NOT NULL REFERENCES organizations (id),
    workspace_id  uuid NOT NULL,
    upstream_id   uuid NOT NULL,
    owner_id      uuid,
    tool          text COLLATE "C" NOT NULL CHECK (length(tool) <= 128),
    fingerprint   bytea NOT NULL CHECK (length(fingerprint) = 32),
    definition    text,
    state         text NOT NULL CHECK (state IN ('approved', 'changed', 'held')),
    first_seen_at timestamptz NOT NULL DEFAULT now(),
    decided_by    uuid,
    decided_at    timestamptz,
    PRIMARY KEY (org_id, id),
    UNIQUE (org_id, upstream_id, tool, fingerprint),
    FOREIGN KEY (org_id, workspace_id) REFERENCES workspaces (org_id, id) ON DELETE CASCADE,
    FOREIGN KEY (org_id, upstream_id) REFERENCES upstreams (org_id, id) ON DELETE CASCADE,
    CONSTRAINT tool_approvals_decision_names_who CHECK ((decided_by IS NULL) = (decided_at IS NULL))
);

-- Pages of the list, whole and by state, and what a process remembers.
CREATE INDEX tool_approvals_by_tool ON tool_approvals (org_id, workspace_id, tool, id);
CREATE INDEX tool_approvals_by_state ON tool_approvals (org_id, workspace_id, state, tool, id);

-- An admin names a member by subject or email address.
CREATE INDEX members_by_subject ON members (org_id, subject);
CREATE INDEX members_by_email ON members (org_id, email);

ALTER TABLE tool_policies ENABLE ROW LEVEL SECURITY;
ALTER TABLE tool_policies FORCE ROW LEVEL SECURITY;
ALTER TABLE toolsets ENABLE ROW LEVEL SECURITY;
ALTER TABLE toolsets FORCE ROW LEVEL SECURITY;
ALTER TABLE tool_approval_revisions ENABLE ROW LEVEL SECURITY;
ALTER TABLE tool_approval_revisions FORCE ROW LEVEL SECURITY;
ALTER TABLE tool_approvals ENABLE ROW LEVEL SECURITY;
ALTER TABLE tool_approvals FORCE ROW LEVEL SECURITY;

CREATE POLICY tool_policies_select ON tool_policies FOR SELECT USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY tool_policies_insert ON tool_policies FOR INSERT WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY tool_policies_update ON tool_policies FOR UPDATE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
) WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY tool_policies_delete ON tool_policies FOR DELETE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);

CREATE POLICY toolsets_select ON toolsets FOR SELECT USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY toolsets_insert ON toolsets FOR INSERT WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY toolsets_update ON toolsets FOR UPDATE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
) WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY toolsets_delete ON toolsets FOR DELETE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);

CREATE POLICY tool_approval_revisions_select ON tool_approval_revisions FOR SELECT USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY tool_approval_revisions_insert ON tool_approval_revisions FOR INSERT WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY tool_approval_revisions_update ON tool_approval_revisions FOR UPDATE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
) WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY tool_approval_revisions_delete ON tool_approval_revisions FOR DELETE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);

CREATE POLICY tool_approvals_select ON tool_approvals FOR SELECT USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND (owner_id IS NULL OR owner_id = NULLIF(current_setting('app.user_id', true), '')::uuid)
);
CREATE POLICY tool_approvals_insert ON tool_approvals FOR INSERT WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND (owner_id IS NULL OR owner_id = NULLIF(current_setting('app.user_id', true), '')::uuid)
);
CREATE POLICY tool_approvals_update ON tool_approvals FOR UPDATE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND (owner_id IS NULL OR owner_id = NULLIF(current_setting('app.user_id', true), '')::uuid)
) WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND (owner_id IS NULL OR owner_id = NULLIF(current_setting('app.user_id', true), '')::uuid)
);
CREATE POLICY tool_approvals_delete ON tool_approvals FOR DELETE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND (owner_id IS NULL OR owner_id = NULLIF(current_setting('app.user_id', true), '')::uuid)
);

-- What a row is about is never updated.
DO $$
DECLARE app_role text := current_setting('agentapi.app_role');
BEGIN
    EXECUTE format(
        'GRANT SELECT, INSERT, DELETE, UPDATE (document, version, updated_by, updated_at) ON tool_policies TO %I',
        app_role
    );
    EXECUTE format(
        'GRANT SELECT, INSERT, DELETE, UPDATE (name, description, tools, prompts, resources, search_mode, version,'
        ' updated_at) ON toolsets TO %I',
        app_role
    );
    EXECUTE format('GRANT SELECT, INSERT, DELETE, UPDATE (revision) ON tool_approval_revisions TO %I', app_role);
    EXECUTE format(
        'GRANT SELECT, INSERT, DELETE, UPDATE (state, decided_by, decided_at) ON tool_approvals TO %I', app_role
    );
END
$$;
