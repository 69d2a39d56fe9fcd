-- Which era of the protocol an upstream is spoken to in; auto asks it.
ALTER TABLE upstreams ADD COLUMN protocol text NOT NULL DEFAULT 'auto';
ALTER TABLE upstreams ADD CONSTRAINT upstreams_protocol_check CHECK (protocol IN ('auto', 'modern', 'legacy'));

DO $$
DECLARE app_role text := current_setting('agentapi.app_role');
BEGIN
    EXECUTE format('GRANT UPDATE (protocol) ON upstreams TO %I', app_role);
END $$;
