-- A session ends with the API key that it was made with, and with the workspace that it is for.

ALTER TABLE sessions DROP CONSTRAINT sessions_end_reason_check;
ALTER TABLE sessions ADD CONSTRAINT sessions_end_reason_check CHECK (end_reason IN (
    'ended', 'idle', 'expired', 'quota', 'key_revoked', 'member_removed', 'workspace_deleted', 'organization_deleted'
));
