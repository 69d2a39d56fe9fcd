-- Owners, suspension, plans and invitations; and the deletion of an organisation with all that is its.

ALTER TABLE organizations
    ADD COLUMN owner_id uuid,
    ADD COLUMN suspended_at timestamptz,
    ADD COLUMN join_rule text NOT NULL DEFAULT 'token' CHECK (join_rule IN ('token', 'invitation')),
    ADD COLUMN requests_per_minute integer CHECK (requests_per_minute > 0),
    ADD COLUMN max_members integer CHECK (max_members > 0),
    ADD COLUMN max_upstreams integer CHECK (max_upstreams >= 0),
    ADD COLUMN members_used integer NOT NULL DEFAULT 0,
    ADD COLUMN upstreams_used integer NOT NULL DEFAULT 0;

-- Who was removed keeps a row, or their next token would make another one.
ALTER TABLE members
    ADD COLUMN assigned_role text CHECK (assigned_role IN ('org_admin', 'member', 'viewer', 'agent')),
    ADD COLUMN removed_at timestamptz;

CREATE TABLE invitations (
    id         uuid NOT NULL,
    org_id     uuid NOT NULL REFERENCES organizations (id) ON DELETE CASCADE,
    token_hash bytea NOT NULL CHECK (length(token_hash) = 32),
    role       text NOT NULL CHECK (role IN ('org_admin', 'member', 'viewer', 'agent')),
    email      text CHECK (length(email) <= 320),
    subject    text CHECK (length(subject) <= 255),
    created_by uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    PRIMARY KEY (org_id, id),
    UNIQUE (org_id, token_hash)
);
ALTER TABLE invitations ENABLE ROW LEVEL SECURITY;
ALTER TABLE invitations FORCE ROW LEVEL SECURITY;
CREATE POLICY invitations_select ON invitations FOR SELECT USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY invitations_insert ON invitations FOR INSERT WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY invitations_update ON invitations FOR UPDATE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
) WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY invitations_delete ON invitations FOR DELETE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);

-- The platform admin lists all organisations, and of each nothing but this row.
CREATE POLICY organizations_platform ON organizations FOR SELECT USING (
    current_setting('app.platform', true) = 'on'
);

-- What an organisation uses is counted in its own row: the update waits for every other one, so that a limit is exact
-- however many try at once, and it counts rows that the one who adds another may not see.
CREATE FUNCTION plan_members() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    change integer := 0;
    org uuid;
BEGIN
    IF TG_OP <> 'DELETE' THEN
        org := NEW.org_id;
        change := (NEW.removed_at IS NULL)::integer;
    END IF;
    IF TG_OP <> 'INSERT' THEN
        org := OLD.org_id;
        change := change - (OLD.removed_at IS NULL)::integer;
    END IF;
    IF change = 0 THEN
        RETURN NULL;
    END IF;
    UPDATE organizations SET members_used = members_used + change
    WHERE id = org AND (change < 0 OR max_members IS NULL OR members_used + change <= max_members);
    IF NOT FOUND AND change > 0 THEN
        RAISE EXCEPTION 'members' USING ERRCODE = 'AG001';
    END IF;
    RETURN NULL;
END
$$;
CREATE FUNCTION plan_upstreams() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'DELETE' THEN
        UPDATE organizations SET upstreams_used = upstreams_used - 1 WHERE id = OLD.org_id;
        RETURN NULL;
    END IF;
    UPDATE organizations SET upstreams_used = upstreams_used + 1
    WHERE id = NEW.org_id AND (max_upstreams IS NULL OR upstreams_used < max_upstreams);
    IF NOT FOUND THEN
        RAISE EXCEPTION 'upstreams' USING ERRCODE = 'AG001';
    END IF;
    RETURN NULL;
END
$$;

-- The owner of the tables is bound by their policies too, and counts before it binds itself again.
ALTER TABLE organizations NO FORCE ROW LEVEL SECURITY;
ALTER TABLE members NO FORCE ROW LEVEL SECURITY;
ALTER TABLE upstreams NO FORCE ROW LEVEL SECURITY;
UPDATE organizations SET
    members_used = (SELECT count(*) FROM members WHERE members.org_id = organizations.id),
    upstreams_used = (SELECT count(*) FROM upstreams WHERE upstreams.org_id = organizations.id);
ALTER TABLE organizations FORCE ROW LEVEL SECURITY;
ALTER TABLE members FORCE ROW LEVEL SECURITY;
ALTER TABLE upstreams FORCE ROW LEVEL SECURITY;

CREATE TRIGGER plan_members AFTER INSERT OR DELETE OR UPDATE OF removed_at ON members
    FOR EACH ROW EXECUTE FUNCTION plan_members();
CREATE TRIGGER plan_upstreams AFTER INSERT OR DELETE ON upstreams
    FOR EACH ROW EXECUTE FUNCTION plan_upstreams();

-- An organisation takes all its rows along, those of its users that no transaction sees together as well.
DO $$
DECLARE
    app_role text := current_setting('agentapi.app_role');
    key record;
BEGIN
    FOR key IN
        SELECT conname, conrelid::regclass AS owner, pg_get_constraintdef(oid) AS definition FROM pg_constraint
        WHERE contype = 'f' AND confrelid = 'organizations'::regclass AND confdeltype = 'a' AND conparentid = 0
    LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', key.owner, key.conname);
        EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I %s ON DELETE CASCADE', key.owner, key.conname, key.definition);
    END LOOP;
    EXECUTE format('GRANT DELETE ON organizations TO %I', app_role);
    EXECUTE format(
        'GRANT UPDATE (owner_id, suspended_at, join_rule, requests_per_minute, max_members, max_upstreams,'
        ' members_used, upstreams_used) ON organizations TO %I', app_role
    );
    EXECUTE format('GRANT UPDATE (assigned_role, removed_at) ON members TO %I', app_role);
    EXECUTE format('GRANT SELECT, INSERT, DELETE ON invitations TO %I', app_role);
END
$$;
