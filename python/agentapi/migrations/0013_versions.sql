-- Versions of what the API changes, for entity tags (RFC 9110, section 8.8.3). The database counts them itself, so that no
-- statement can forget to. When something was last seen or used is no version of it.

CREATE FUNCTION next_version() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.version := OLD.version + 1;
    RETURN NEW;
END
$$;

ALTER TABLE organizations ADD COLUMN version bigint NOT NULL DEFAULT 1;
CREATE TRIGGER organizations_version BEFORE UPDATE ON organizations FOR EACH ROW WHEN (
    (OLD.slug, OLD.name, OLD.owner_id, OLD.suspended_at, OLD.join_rule, OLD.requests_per_minute, OLD.max_members,
     OLD.max_upstreams)
    IS DISTINCT FROM
    (NEW.slug, NEW.name, NEW.owner_id, NEW.suspended_at, NEW.join_rule, NEW.requests_per_minute, NEW.max_members,
     NEW.max_upstreams)
) EXECUTE FUNCTION next_version();

ALTER TABLE workspaces ADD COLUMN version bigint NOT NULL DEFAULT 1;
CREATE TRIGGER workspaces_version BEFORE UPDATE ON workspaces FOR EACH ROW WHEN (
    (OLD.slug, OLD.name) IS DISTINCT FROM (NEW.slug, NEW.name)
) EXECUTE FUNCTION next_version();

ALTER TABLE members ADD COLUMN version bigint NOT NULL DEFAULT 1;
CREATE TRIGGER members_version BEFORE UPDATE ON members FOR EACH ROW WHEN (
    (OLD.email, OLD.role, OLD.assigned_role, OLD.removed_at)
    IS DISTINCT FROM (NEW.email, NEW.role, NEW.assigned_role, NEW.removed_at)
) EXECUTE FUNCTION next_version();

ALTER TABLE api_keys ADD COLUMN version bigint NOT NULL DEFAULT 1;
CREATE TRIGGER api_keys_version BEFORE UPDATE ON api_keys FOR EACH ROW WHEN (
    (OLD.hash, OLD.rotated_at, OLD.revoked_at) IS DISTINCT FROM (NEW.hash, NEW.rotated_at, NEW.revoked_at)
) EXECUTE FUNCTION next_version();

-- One that is made anew stands where another one stood, whose versions it must not repeat.
ALTER TABLE oauth_upstreams ADD COLUMN version bigint NOT NULL DEFAULT extract(epoch FROM clock_timestamp()) * 1000000;
CREATE TRIGGER oauth_upstreams_version BEFORE UPDATE ON oauth_upstreams FOR EACH ROW WHEN (
    (OLD.provider, OLD.parameters, OLD.scopes) IS DISTINCT FROM (NEW.provider, NEW.parameters, NEW.scopes)
) EXECUTE FUNCTION next_version();
