-- Whoever remembers rows is told when they change, as the change commits.
--
-- A line has a topic and ids, and never what a row holds, since every connection of the application hears it. It is no
-- secret and no proof: anybody who can connect can send one, so all it may cause is that something is read again. Of
-- lines that are alike a transaction sends one.

-- What changed, by its ids. The topic is the table.
CREATE FUNCTION tell_row() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed jsonb := CASE WHEN TG_OP = 'DELETE' THEN to_jsonb(OLD) ELSE to_jsonb(NEW) END;
BEGIN
    PERFORM pg_notify('agentapi_changes', concat_ws(' ', TG_TABLE_NAME,
        COALESCE(changed ->> 'org_id', '00000000-0000-0000-0000-000000000000'),
        COALESCE(changed ->> 'workspace_id', '-'),
        COALESCE(changed ->> 'owner_id', changed ->> 'user_id', '-'),
        COALESCE(changed ->> 'upstream_id', changed ->> 'id', '-')
    ));
    RETURN NULL;
END
$$;

-- That something of an organisation changed, where a cascade may take thousands of rows.
CREATE FUNCTION tell_organization() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    changed jsonb := CASE WHEN TG_OP = 'DELETE' THEN to_jsonb(OLD) ELSE to_jsonb(NEW) END;
BEGIN
    PERFORM pg_notify('agentapi_changes', concat_ws(' ', TG_ARGV[0],
        CASE TG_TABLE_NAME WHEN 'organizations' THEN changed ->> 'id' ELSE changed ->> 'org_id' END, '- - -'
    ));
    RETURN NULL;
END
$$;

-- Of organisations and members only what decides who is admitted to what: counters and visits change all the time.
CREATE TRIGGER tell_deletion AFTER DELETE ON organizations
    FOR EACH ROW EXECUTE FUNCTION tell_organization('organizations');
CREATE TRIGGER tell_update AFTER UPDATE ON organizations FOR EACH ROW
    WHEN ((OLD.slug, OLD.suspended_at, OLD.join_rule, OLD.requests_per_minute)
        IS DISTINCT FROM (NEW.slug, NEW.suspended_at, NEW.join_rule, NEW.requests_per_minute))
    EXECUTE FUNCTION tell_organization('organizations');
CREATE TRIGGER tell_deletion AFTER DELETE ON members
    FOR EACH ROW EXECUTE FUNCTION tell_organization('members');
CREATE TRIGGER tell_update AFTER UPDATE ON members FOR EACH ROW
    WHEN ((OLD.assigned_role, OLD.removed_at) IS DISTINCT FROM (NEW.assigned_role, NEW.removed_at))
    EXECUTE FUNCTION tell_row();
-- The role that an issuer gives comes with each token and decides for that token alone, but for the keys of its owner.
-- Somebody with two tokens of two roles changes it all the time, and nobody else's admission is to be asked anew for it.
CREATE TRIGGER tell_role AFTER UPDATE ON members FOR EACH ROW
    WHEN (OLD.role IS DISTINCT FROM NEW.role) EXECUTE FUNCTION tell_organization('member_roles');
CREATE TRIGGER tell_change AFTER INSERT OR UPDATE OR DELETE ON workspaces
    FOR EACH ROW EXECUTE FUNCTION tell_organization('workspaces');

CREATE TRIGGER tell_change AFTER INSERT OR UPDATE OR DELETE ON upstreams
    FOR EACH ROW EXECUTE FUNCTION tell_row();
CREATE TRIGGER tell_change AFTER INSERT OR UPDATE OR DELETE ON tool_policies
    FOR EACH ROW EXECUTE FUNCTION tell_row();
CREATE TRIGGER tell_change AFTER INSERT OR UPDATE OR DELETE ON toolsets
    FOR EACH ROW EXECUTE FUNCTION tell_row();
-- Each change of an approval counts up in the one, and a decision shows in the other.
CREATE TRIGGER tell_decision AFTER UPDATE ON tool_approvals
    FOR EACH ROW EXECUTE FUNCTION tell_row();
CREATE TRIGGER tell_change AFTER INSERT OR UPDATE OR DELETE ON tool_approval_revisions
    FOR EACH ROW EXECUTE FUNCTION tell_row();
CREATE TRIGGER tell_change AFTER INSERT OR UPDATE OR DELETE ON prompts
    FOR EACH ROW EXECUTE FUNCTION tell_row();

-- A key that was used is no other key.
CREATE TRIGGER tell_change AFTER INSERT OR DELETE OR UPDATE OF hash, previous_hash, previous_until, revoked_at ON api_keys
    FOR EACH ROW EXECUTE FUNCTION tell_row();

-- A user's credentials are told apart by their upstream. That a refresh has begun changes none.
CREATE TRIGGER tell_change AFTER INSERT OR DELETE OR UPDATE OF sealed, status ON oauth_connections
    FOR EACH ROW EXECUTE FUNCTION tell_row();
CREATE TRIGGER tell_change AFTER INSERT OR UPDATE OR DELETE ON brought_credentials
    FOR EACH ROW EXECUTE FUNCTION tell_row();
