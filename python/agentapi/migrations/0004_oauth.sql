-- OAuth: the gateway as a client of authorization servers, flows under way, and each user's connections.
--
-- What is sealed names its table, row, organisation, user and provider in its AAD, so it opens nowhere else.

-- The gateway as a client of one issuer. A client id that is the URL of the gateway's own metadata needs no row.
CREATE TABLE oauth_clients (
    org_id            uuid NOT NULL REFERENCES organizations (id),
    issuer            text COLLATE "C" NOT NULL CHECK (length(issuer) BETWEEN 1 AND 2048),
    client_id         text NOT NULL,
    secret            bytea,
    auth_method       text NOT NULL CHECK (auth_method IN ('client_secret_basic', 'client_secret_post', 'none')),
    registration      text NOT NULL CHECK (registration IN ('manual', 'dynamic')),
    redirect_uri      text,
    secret_expires_at timestamptz,
    updated_by        uuid NOT NULL,
    updated_at        timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, issuer),
    CONSTRAINT oauth_clients_secret_has_use CHECK ((secret IS NULL) = (auth_method = 'none'))
);

-- Which provider an upstream uses. Without a row it is the one that the upstream's own metadata names.
CREATE TABLE oauth_upstreams (
    org_id      uuid NOT NULL REFERENCES organizations (id),
    upstream_id uuid NOT NULL,
    provider    text NOT NULL CHECK (provider IN ('github', 'google', 'entra', 'auth0', 'oidc', 'mcp')),
    parameters  jsonb NOT NULL DEFAULT '{}',
    scopes      text[] NOT NULL DEFAULT '{}',
    updated_by  uuid NOT NULL,
    updated_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, upstream_id),
    FOREIGN KEY (org_id, upstream_id) REFERENCES upstreams (org_id, id) ON DELETE CASCADE
);

-- One authorization under way; its callback deletes the row, and whoever deletes it has the flow.
CREATE TABLE oauth_flows (
    id           uuid NOT NULL,
    org_id       uuid NOT NULL REFERENCES organizations (id),
    user_id      uuid NOT NULL,
    upstream_id  uuid NOT NULL,
    state_hash   bytea NOT NULL CHECK (length(state_hash) = 32),
    browser_hash bytea NOT NULL CHECK (length(browser_hash) = 32),
    sealed       bytea NOT NULL,
    expires_at   timestamptz NOT NULL,
    PRIMARY KEY (org_id, id),
    UNIQUE (org_id, user_id, state_hash),
    FOREIGN KEY (org_id, upstream_id) REFERENCES upstreams (org_id, id) ON DELETE CASCADE
);
CREATE INDEX oauth_flows_by_end ON oauth_flows (org_id, user_id, expires_at, id);

-- One user's grant for one upstream.
CREATE TABLE oauth_connections (
    id                 uuid NOT NULL,
    org_id             uuid NOT NULL REFERENCES organizations (id),
    user_id            uuid NOT NULL,
    upstream_id        uuid NOT NULL,
    provider           text NOT NULL CHECK (provider IN ('github', 'google', 'entra', 'auth0', 'oidc', 'mcp')),
    sealed             bytea NOT NULL,
    scopes             text[] NOT NULL,
    status             text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'reconnect_needed')),
    status_reason      text,
    expires_at         timestamptz,
    generation         bigint NOT NULL DEFAULT 1 CHECK (generation > 0),
    refresh_begun_at   timestamptz,
    refresh_failures   integer NOT NULL DEFAULT 0 CHECK (refresh_failures >= 0),
    refresh_not_before timestamptz,
    created_at         timestamptz NOT NULL DEFAULT now(),
    updated_at         timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (org_id, id),
    UNIQUE (org_id, user_id, upstream_id),
    FOREIGN KEY (org_id, upstream_id) REFERENCES upstreams (org_id, id) ON DELETE CASCADE
);
CREATE INDEX oauth_connections_by_end ON oauth_connections (org_id, expires_at) WHERE status = 'active';

-- The cascades from upstreams look here.
CREATE INDEX oauth_flows_by_upstream ON oauth_flows (org_id, upstream_id);
CREATE INDEX oauth_connections_by_upstream ON oauth_connections (org_id, upstream_id);

ALTER TABLE oauth_clients ENABLE ROW LEVEL SECURITY;
ALTER TABLE oauth_clients FORCE ROW LEVEL SECURITY;
ALTER TABLE oauth_upstreams ENABLE ROW LEVEL SECURITY;
ALTER TABLE oauth_upstreams FORCE ROW LEVEL SECURITY;
ALTER TABLE oauth_flows ENABLE ROW LEVEL SECURITY;
ALTER TABLE oauth_flows FORCE ROW LEVEL SECURITY;
ALTER TABLE oauth_connections ENABLE ROW LEVEL SECURITY;
ALTER TABLE oauth_connections FORCE ROW LEVEL SECURITY;

CREATE POLICY oauth_clients_select ON oauth_clients FOR SELECT USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY oauth_clients_insert ON oauth_clients FOR INSERT WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY oauth_clients_update ON oauth_clients FOR UPDATE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
) WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY oauth_clients_delete ON oauth_clients FOR DELETE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);

-- Who sees the upstream sees its provider.
CREATE POLICY oauth_upstreams_select ON oauth_upstreams FOR SELECT USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND EXISTS (SELECT FROM upstreams WHERE upstreams.org_id = oauth_upstreams.org_id AND upstreams.id = upstream_id)
);
CREATE POLICY oauth_upstreams_insert ON oauth_upstreams FOR INSERT WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND EXISTS (SELECT FROM upstreams WHERE upstreams.org_id = oauth_upstreams.org_id AND upstreams.id = upstream_id)
);
CREATE POLICY oauth_upstreams_update ON oauth_upstreams FOR UPDATE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND EXISTS (SELECT FROM upstreams WHERE upstreams.org_id = oauth_upstreams.org_id AND upstreams.id = upstream_id)
) WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND EXISTS (SELECT FROM upstreams WHERE upstreams.org_id = oauth_upstreams.org_id AND upstreams.id = upstream_id)
);
CREATE POLICY oauth_upstreams_delete ON oauth_upstreams FOR DELETE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND EXISTS (SELECT FROM upstreams WHERE upstreams.org_id = oauth_upstreams.org_id AND upstreams.id = upstream_id)
);

-- What belongs to a user is seen in a transaction of that user, and in no other of the organisation.
CREATE POLICY oauth_flows_select ON oauth_flows FOR SELECT USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
);
CREATE POLICY oauth_flows_insert ON oauth_flows FOR INSERT WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
);
CREATE POLICY oauth_flows_update ON oauth_flows FOR UPDATE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
) WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
);
CREATE POLICY oauth_flows_delete ON oauth_flows FOR DELETE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
);

CREATE POLICY oauth_connections_select ON oauth_connections FOR SELECT USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
);
CREATE POLICY oauth_connections_insert ON oauth_connections FOR INSERT WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
);
CREATE POLICY oauth_connections_update ON oauth_connections FOR UPDATE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
) WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
);
CREATE POLICY oauth_connections_delete ON oauth_connections FOR DELETE USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
    AND user_id = NULLIF(current_setting('app.user_id', true), '')::uuid
);

-- Whose a row is and what it is about is never updated, and a flow is not updated at all.
DO $$
DECLARE app_role text := current_setting('agentapi.app_role');
BEGIN
    EXECUTE format(
        'GRANT SELECT, INSERT, DELETE, UPDATE (client_id, secret, auth_method, registration, redirect_uri,'
        ' secret_expires_at, updated_by, updated_at) ON oauth_clients TO %I',
        app_role
    );
    EXECUTE format(
        'GRANT SELECT, INSERT, DELETE, UPDATE (provider, parameters, scopes, updated_by, updated_at)'
        ' ON oauth_upstreams TO %I',
        app_role
    );
    EXECUTE format('GRANT SELECT, INSERT, DELETE ON oauth_flows TO %I', app_role);
    EXECUTE format(
        'GRANT SELECT, INSERT, DELETE, UPDATE (provider, sealed, scopes, status, status_reason, expires_at,'
        ' generation, refresh_begun_at, refresh_failures, refresh_not_before, updated_at) ON oauth_connections TO %I',
        app_role
    );
END
$$;
