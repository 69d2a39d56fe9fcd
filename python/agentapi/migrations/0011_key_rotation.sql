-- The rotation of keys goes through the sealed values of all organisations (storage/resealing.py). It runs as the owner
-- of the schema, who sees nothing of tenants either, unless the transaction says what it is for. A later table with a
-- sealed column needs the same two policies.

CREATE POLICY upstreams_keys_select ON upstreams FOR SELECT TO CURRENT_USER USING (
    current_setting('app.maintenance', true) = 'keys'
);
CREATE POLICY upstreams_keys_update ON upstreams FOR UPDATE TO CURRENT_USER USING (
    current_setting('app.maintenance', true) = 'keys'
) WITH CHECK (
    current_setting('app.maintenance', true) = 'keys'
);
CREATE POLICY oauth_clients_keys_select ON oauth_clients FOR SELECT TO CURRENT_USER USING (
    current_setting('app.maintenance', true) = 'keys'
);
CREATE POLICY oauth_clients_keys_update ON oauth_clients FOR UPDATE TO CURRENT_USER USING (
    current_setting('app.maintenance', true) = 'keys'
) WITH CHECK (
    current_setting('app.maintenance', true) = 'keys'
);
CREATE POLICY oauth_flows_keys_select ON oauth_flows FOR SELECT TO CURRENT_USER USING (
    current_setting('app.maintenance', true) = 'keys'
);
CREATE POLICY oauth_flows_keys_update ON oauth_flows FOR UPDATE TO CURRENT_USER USING (
    current_setting('app.maintenance', true) = 'keys'
) WITH CHECK (
    current_setting('app.maintenance', true) = 'keys'
);
CREATE POLICY oauth_connections_keys_select ON oauth_connections FOR SELECT TO CURRENT_USER USING (
    current_setting('app.maintenance', true) = 'keys'
);
CREATE POLICY oauth_connections_keys_update ON oauth_connections FOR UPDATE TO CURRENT_USER USING (
    current_setting('app.maintenance', true) = 'keys'
) WITH CHECK (
    current_setting('app.maintenance', true) = 'keys'
);
CREATE POLICY brought_credentials_keys_select ON brought_credentials FOR SELECT TO CURRENT_USER USING (
    current_setting('app.maintenance', true) = 'keys'
);
CREATE POLICY brought_credentials_keys_update ON brought_credentials FOR UPDATE TO CURRENT_USER USING (
    current_setting('app.maintenance', true) = 'keys'
) WITH CHECK (
    current_setting('app.maintenance', true) = 'keys'
);
