-- A new session, for a statement that records it as well: a function, so that its trigger has counted it, and holds the
-- rows of the organisation and the user, before the chain of the audit log is locked, as in every other change.
-- Nothing is returned where there is no such workspace.

CREATE FUNCTION session_start(
    org uuid, session uuid, member uuid, slug_of_workspace text, api_key uuid, label text, as_role text, may text[],
    idle integer, begins_at timestamptz, ends_at timestamptz
) RETURNS SETOF uuid LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY
    INSERT INTO sessions (org_id, id, user_id, workspace_id, key_id, name, role, scopes, idle_s, created_at, last_used_at,
                          expires_at)
    SELECT org, session, member, w.id, api_key, label, as_role, may, idle, begins_at, begins_at, ends_at
    FROM workspaces w WHERE w.slug = slug_of_workspace
    RETURNING id;
END
$$;
