-- Rows of many organisations, made by the database itself: what a deployment holds after its first year.
--
-- They are as the application makes them, but for what no list reads: sealed values are no values, and rows of the audit
-- log are numbered as chains are and have hashes that chain nothing. scale.py sets how much there is of everything.

CREATE SCHEMA scale;
SET search_path = scale, public;
SET session_replication_role = replica;
SET synchronous_commit = off;
SET work_mem = '64MB';

CREATE FUNCTION organizations() RETURNS int STABLE LANGUAGE sql RETURN current_setting('scale.organizations')::int;
CREATE FUNCTION users() RETURNS int STABLE LANGUAGE sql RETURN current_setting('scale.users')::int;
CREATE FUNCTION audit_rows() RETURNS int STABLE LANGUAGE sql RETURN current_setting('scale.audit_rows')::int;
CREATE FUNCTION issuer() RETURNS text STABLE LANGUAGE sql RETURN current_setting('scale.issuer');
CREATE FUNCTION admin() RETURNS uuid STABLE LANGUAGE sql RETURN current_setting('scale.admin')::uuid;
CREATE FUNCTION org(o int) RETURNS uuid IMMUTABLE LANGUAGE sql RETURN md5('org' || o)::uuid;
CREATE FUNCTION main(o int) RETURNS uuid IMMUTABLE LANGUAGE sql RETURN md5('main' || o)::uuid;
-- The first of each organisation's people is the one who asks.
CREATE FUNCTION person(o int, u int) RETURNS uuid STABLE LANGUAGE sql
    RETURN CASE u WHEN 1 THEN admin() ELSE md5('user' || o || '.' || u)::uuid END;

INSERT INTO organizations (id, slug, name, owner_id)
SELECT org(o), 'org-' || o, 'Organisation ' || o, admin() FROM generate_series(1, organizations()) o;

INSERT INTO workspaces (id, org_id, slug, name)
SELECT CASE n WHEN 1 THEN main(o) ELSE md5('workspace' || o || '.' || n)::uuid END, org(o),
    CASE n WHEN 1 THEN 'main' ELSE 'team-' || n END, 'Team ' || n
FROM generate_series(1, organizations()) o, generate_series(1, 5) n;

INSERT INTO members (org_id, user_id, issuer, subject, email, role)
SELECT org(o), person(o, u), issuer(),
    CASE u WHEN 1 THEN 'admin' ELSE 'user-' || o || '-' || u END, 'user' || u || '@org' || o || '.example',
    CASE WHEN u = 1 THEN 'org_admin' WHEN u % 10 = 0 THEN 'viewer' ELSE 'member' END
FROM generate_series(1, organizations()) o, generate_series(1, users()) u;

INSERT INTO upstreams (id, org_id, workspace_id, name, transport, endpoint, auth, scope, owner_id, description,
                       created_by)
SELECT md5('upstream' || o || '.' || n)::uuid, org(o), main(o), 'server-' || n, 'http',
    'https://server' || n || '.org' || o || '.example/mcp', 'none',
    CASE WHEN n % 4 = 0 THEN 'user' ELSE 'organization' END,
    CASE WHEN n % 4 = 0 THEN person(o, n + 1) END, 'What it is for', admin()
FROM generate_series(1, organizations()) o, generate_series(1, 40) n;

INSERT INTO toolsets (id, org_id, workspace_id, name, tools, prompts, resources, created_by)
SELECT md5('toolset' || o || '.' || n)::uuid, org(o), main(o), 'toolset-' || n, '{server-1__*}', '{}', '{}',
    admin()
FROM generate_series(1, organizations()) o, generate_series(1, 10) n;

INSERT INTO tool_policies (org_id, workspace_id, document, updated_by)
SELECT org(o), main(o), '{"default": "allow"}', admin() FROM generate_series(1, organizations()) o;

INSERT INTO tool_approvals (id, org_id, workspace_id, upstream_id, tool, fingerprint, definition, state)
SELECT md5('approval' || o || '.' || n || '.' || t)::uuid, org(o), main(o),
    md5('upstream' || o || '.' || n)::uuid, 'tool-' || t, sha256((o || '.' || n || '.' || t)::bytea),
    '{"name": "tool-' || t || '", "inputSchema": {"type": "object"}}',
    CASE WHEN t % 10 = 0 THEN 'held' ELSE 'approved' END
FROM generate_series(1, organizations()) o, generate_series(1, 10) n, generate_series(1, 20) t;

INSERT INTO api_keys (org_id, id, name, created_by, user_id, role, scopes, hash, created_at)
SELECT org(o), md5('key' || o || '.' || u)::uuid, 'key-' || u, person(o, u),
    person(o, u), 'member', '{mcp:tools}', sha256((o || '.' || u)::bytea), now()
FROM generate_series(1, organizations()) o, generate_series(1, users()) u;

INSERT INTO prompts (id, org_id, workspace_id, owner_id, name, text, created_by, updated_by)
SELECT md5('prompt' || o || '.' || n)::uuid, org(o), CASE n % 3 WHEN 1 THEN main(o) END,
    CASE n % 3 WHEN 2 THEN person(o, n + 1) END, 'prompt-' || n, repeat('Be kind. ', 40),
    admin(), admin()
FROM generate_series(1, organizations()) o, generate_series(1, 60) n;

INSERT INTO prompts (id, name, text, created_by, updated_by)
SELECT md5('global' || n)::uuid, 'global-' || n, 'Everybody is kind.', admin(), admin()
FROM generate_series(1, 20) n;

INSERT INTO prompt_versions (org_id, prompt_id, version, text, variables, priority, description, enabled,
                             updated_by, updated_at)
SELECT org_id, id, v, text, variables, priority, description, enabled, updated_by, updated_at
FROM prompts, generate_series(1, 3) v;

INSERT INTO invitations (id, org_id, token_hash, role, email, created_by, expires_at)
SELECT md5('invitation' || o || '.' || n)::uuid, org(o), sha256((o || '.' || n)::bytea), 'member',
    'new' || n || '@org' || o || '.example', admin(), now() + interval '7 days'
FROM generate_series(1, organizations()) o, generate_series(1, 20) n;

INSERT INTO oauth_clients (org_id, issuer, client_id, auth_method, registration, updated_by)
SELECT org(o), 'https://issuer' || n || '.example', 'client-' || n, 'none', 'manual', admin()
FROM generate_series(1, organizations()) o, generate_series(1, 5) n;

INSERT INTO oauth_connections (id, org_id, user_id, upstream_id, provider, sealed, scopes)
SELECT md5('connection' || o || '.' || u || '.' || n)::uuid, org(o),
    person(o, u), md5('upstream' || o || '.' || n)::uuid, 'mcp', 'x', '{}'
FROM generate_series(1, organizations()) o, generate_series(1, users()) u, generate_series(1, 3) n;

UPDATE organizations SET members_used = users(), upstreams_used = 40;

-- A partition for each month of the year that is over, as there would be.
DO $$
DECLARE
    parent text;
    partition text;
    first timestamptz;
BEGIN
    FOR back IN 1 .. 12 LOOP
        first := date_trunc('month', now() - make_interval(months => back), 'UTC');
        FOREACH parent IN ARRAY ARRAY['audit_log', 'audit_checkpoints'] LOOP
            partition := parent || '_' || to_char(first AT TIME ZONE 'UTC', 'YYYY_MM');
            EXECUTE format(
                'CREATE TABLE public.%I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)',
                partition, parent, first, date_trunc('month', first + interval '32 days', 'UTC')
            );
            PERFORM audit_seal_partition(partition);
        END LOOP;
    END LOOP;
END
$$;

-- A chain of calls and one of changes for each organisation; the rows of a year, the newest a moment old.
CREATE PROCEDURE audit(first int, last int, rows int) LANGUAGE sql BEGIN ATOMIC
    INSERT INTO audit_log (org_id, writer_id, sequence, recorded_at, actor_id, action, outcome, resource, address, agent,
                           request_id, details, previous, hash)
    SELECT org(o), md5('writer' || n % 2)::uuid, n / 2 + 1, now() - interval '360 days' * (1 - n::float / rows),
        person(o, 1 + n % users()),
        CASE WHEN n % 20 = 0 THEN 'configuration.updated' ELSE 'tools.call' END,
        CASE WHEN n % 50 = 0 THEN 'denied' ELSE 'success' END,
        'upstream:' || md5('upstream' || o || '.' || n % 40)::uuid, '192.0.2.' || n % 250, 'claude-code/2.0',
        md5('request' || o || '.' || n), '{"duration_ms":12,"name":"search","request_bytes":120}',
        sha256(('p' || o || '.' || n)::bytea), sha256((o || '.' || n)::bytea)
    FROM generate_series(first, last) o, generate_series(1, rows) n;
END;
CALL audit(1, 1, audit_rows() / 10);
CALL audit(2, organizations(), (audit_rows() - audit_rows() / 10) / (organizations() - 1));

RESET session_replication_role;
RESET search_path;
DROP SCHEMA scale CASCADE;
