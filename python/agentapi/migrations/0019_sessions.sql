-- Sessions: what an agent works in. A plan limits how many live at once, of an organisation and of each of its users.

ALTER TABLE organizations
    ADD COLUMN max_sessions integer CHECK (max_sessions >= 0),
    ADD COLUMN max_sessions_per_user integer DEFAULT 20 CHECK (max_sessions_per_user >= 0),
    ADD COLUMN sessions_used integer NOT NULL DEFAULT 0;
ALTER TABLE members ADD COLUMN sessions_used integer NOT NULL DEFAULT 0;

-- As in 0013, with the new limits among what makes another version; how many there are is none.
DROP TRIGGER organizations_version ON organizations;
CREATE TRIGGER organizations_version BEFORE UPDATE ON organizations FOR EACH ROW WHEN (
    (OLD.slug, OLD.name, OLD.owner_id, OLD.suspended_at, OLD.join_rule, OLD.requests_per_minute, OLD.max_members,
     OLD.max_upstreams, OLD.max_sessions, OLD.max_sessions_per_user)
    IS DISTINCT FROM
    (NEW.slug, NEW.name, NEW.owner_id, NEW.suspended_at, NEW.join_rule, NEW.requests_per_minute, NEW.max_members,
     NEW.max_upstreams, NEW.max_sessions, NEW.max_sessions_per_user)
) EXECUTE FUNCTION next_version();

CREATE TABLE sessions (
    org_id       uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    id           uuid NOT NULL,
    user_id      uuid NOT NULL,
    workspace_id uuid NOT NULL,
    key_id       uuid,
    name         text NOT NULL CHECK (length(name) <= 100),
    role         text NOT NULL CHECK (role IN ('org_admin', 'member', 'viewer', 'agent')),
    scopes       text[] NOT NULL,
    idle_s       integer NOT NULL CHECK (idle_s > 0),
    created_at   timestamptz NOT NULL,
    last_used_at timestamptz NOT NULL,
    expires_at   timestamptz NOT NULL,
    ended_at     timestamptz,
    end_reason   text CHECK (end_reason IN ('ended', 'idle', 'expired', 'quota', 'member_removed', 'organization_deleted')),
    PRIMARY KEY (org_id, id),
    CHECK ((ended_at IS NULL) = (end_reason IS NULL)),
    -- A session goes with whom it acts for, with the key that it was made with, and with the workspace that it is for.
    FOREIGN KEY (org_id, user_id) REFERENCES members (org_id, user_id) ON DELETE CASCADE,
    FOREIGN KEY (org_id, workspace_id) REFERENCES workspaces (org_id, id) ON DELETE CASCADE,
    FOREIGN KEY (org_id, key_id) REFERENCES api_keys (org_id, id) ON DELETE CASCADE
);

-- Lists go by time, of everybody's sessions or of one user's; the sweep and the limits look at those that live.
CREATE INDEX sessions_by_time ON sessions (org_id, created_at, id);
CREATE INDEX sessions_by_user ON sessions (org_id, user_id, created_at, id);
CREATE INDEX sessions_live ON sessions (org_id, user_id) WHERE ended_at IS NULL;
CREATE INDEX sessions_over ON sessions (org_id, ended_at) WHERE ended_at IS NOT NULL;
CREATE INDEX sessions_by_workspace ON sessions (org_id, workspace_id);
CREATE INDEX sessions_by_key ON sessions (org_id, key_id) WHERE key_id IS NOT NULL;

ALTER TABLE sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE sessions FORCE ROW LEVEL SECURITY;
CREATE POLICY sessions_select ON sessions FOR SELECT USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY sessions_insert ON sessions FOR INSERT WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY sessions_update ON sessions FOR UPDATE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
) WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY sessions_delete ON sessions FOR DELETE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);

-- As in 0008: the update of the organisation's row waits for every other one, so that both limits are exact however many
-- try at once. The user's row comes second, as in every other change, so that nobody waits in a circle.
CREATE FUNCTION plan_sessions() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    change integer := 0;
    org uuid;
    member uuid;
    of_user integer;
BEGIN
    IF TG_OP <> 'DELETE' THEN
        org := NEW.org_id;
        member := NEW.user_id;
        change := (NEW.ended_at IS NULL)::integer;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        org := OLD.org_id;
        member := OLD.user_id;
        change := change - (OLD.ended_at IS NULL)::integer;
    END IF;
    IF change = 0 THEN
        RETURN NULL;
    END IF;
    UPDATE organizations SET sessions_used = sessions_used + change
    WHERE id = org AND (change < 0 OR max_sessions IS NULL OR sessions_used + change <= max_sessions)
    RETURNING max_sessions_per_user INTO of_user;
    IF NOT FOUND AND change > 0 THEN
        RAISE EXCEPTION 'sessions' USING ERRCODE = 'AG001';
    END IF;
    UPDATE members SET sessions_used = sessions_used + change
    WHERE org_id = org AND user_id = member AND (change < 0 OR of_user IS NULL OR sessions_used + change <= of_user);
    IF NOT FOUND AND change > 0 THEN
        RAISE EXCEPTION 'sessions of one user' USING ERRCODE = 'AG001';
    END IF;
    RETURN NULL;
END
$$;
CREATE TRIGGER plan_sessions AFTER INSERT OR DELETE OR UPDATE OF ended_at ON sessions
    FOR EACH ROW EXECUTE FUNCTION plan_sessions();

-- Whoever remembers a session is told that it ended. One that begins is known to nobody, and a use is no change.
CREATE TRIGGER tell_end AFTER DELETE OR UPDATE OF ended_at ON sessions FOR EACH ROW EXECUTE FUNCTION tell_row();

-- What a session may do is never updated, and none comes back to life.
DO $$
DECLARE app_role text := current_setting('agentapi.app_role');
BEGIN
    EXECUTE format(
        'GRANT SELECT, INSERT, DELETE, UPDATE (last_used_at, ended_at, end_reason) ON sessions TO %I', app_role
    );
    EXECUTE format(
        'GRANT UPDATE (max_sessions, max_sessions_per_user, sessions_used) ON organizations TO %I', app_role
    );
    EXECUTE format('GRANT UPDATE (sessions_used) ON members TO %I', app_role);
END
$$;
