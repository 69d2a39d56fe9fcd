-- The last row of a chain, read by whoever alone may add to it from then on: one round trip within each change. The lock
-- comes first and the row is read by a statement of its own, so that it is the one that the last holder committed.

CREATE FUNCTION audit_lock_head(key bigint, org uuid, writer uuid, since timestamptz)
RETURNS TABLE (sequence bigint, hash bytea, recorded_at timestamptz) LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(key);
    RETURN QUERY SELECT l.sequence, l.hash, l.recorded_at FROM audit_log l
    WHERE l.org_id = org AND l.writer_id = writer AND l.recorded_at >= since ORDER BY l.sequence DESC LIMIT 1;
END
$$;
