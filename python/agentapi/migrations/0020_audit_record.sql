-- A row of the audit log behind the last one of its chain: lock, look, hash and insert in one round trip of a change. The
-- lock comes first and the last row is read by a statement of its own, so that it is the one that the last holder
-- committed. Its time is between two bounds, or every partition would be looked at, those of months to come as well. What
-- is hashed is said in audit/chain.py, which verifies it. Returned is the row's place in its chain.
-- audit_lock_head of 0014 stays for processes of the version before, which write to chains of their own.

CREATE FUNCTION audit_hashed(content bytea) RETURNS bytea LANGUAGE sql IMMUTABLE
RETURN COALESCE(int4send(octet_length(content)) || content, '\xffffffff');

CREATE FUNCTION audit_record(
    key bigint, org uuid, writer uuid, since timestamptz, until timestamptz, made_at timestamptz, actor uuid, act text,
    result text, subject text, client text, program text, request text, more text
) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    place bigint := 1;
    moment timestamptz := made_at;
    before bytea := decode(repeat('00', 32), 'hex');
    head record;
BEGIN
    PERFORM pg_advisory_xact_lock(key);
    SELECT l.sequence, l.hash, l.recorded_at INTO head FROM audit_log l
    WHERE l.org_id = org AND l.writer_id = writer AND l.recorded_at BETWEEN since AND until
    ORDER BY l.sequence DESC LIMIT 1;
    IF FOUND THEN
        place := head.sequence + 1;
        moment := greatest(made_at, head.recorded_at);
        before := head.hash;
    END IF;
    INSERT INTO audit_log (org_id, writer_id, sequence, recorded_at, actor_id, action, outcome, resource, address, agent,
                           request_id, details, previous, hash)
    VALUES (
        org, writer, place, moment, actor, act, result, subject, client, program, request, more, before,
        sha256(
            'agentapi-audit-row-1'::bytea
            || audit_hashed(uuid_send(org)) || audit_hashed(uuid_send(writer)) || audit_hashed(int8send(place))
            || audit_hashed(int8send((extract(epoch FROM moment) * 1000000)::bigint)) || audit_hashed(uuid_send(actor))
            || audit_hashed(convert_to(act, 'UTF8')) || audit_hashed(convert_to(result, 'UTF8'))
            || audit_hashed(convert_to(subject, 'UTF8')) || audit_hashed(convert_to(client, 'UTF8'))
            || audit_hashed(convert_to(program, 'UTF8')) || audit_hashed(convert_to(request, 'UTF8'))
            || audit_hashed(convert_to(more, 'UTF8')) || audit_hashed(before)
        )
    );
    RETURN place;
END
$$;
