-- The audit log: rows are added and read, and nothing else is ever done to them.
--
-- Each row belongs to a chain: that of one organisation and one writer, numbered from 1, each row with the hash of the
-- one before it. audit/chain.py says what is hashed, docs/how-to/audit.md says how it is checked.
-- No foreign key: the log outlives what it tells of, and a row would pay for the look-up.
-- The organisation 00000000-0000-0000-0000-000000000000 is the deployment: what concerned it, or nobody that is known.

CREATE TABLE audit_log (
    org_id      uuid NOT NULL,
    writer_id   uuid NOT NULL,
    sequence    bigint NOT NULL CHECK (sequence > 0),
    recorded_at timestamptz NOT NULL,
    actor_id    uuid,
    action      text COLLATE "C" NOT NULL CHECK (length(action) BETWEEN 1 AND 64),
    outcome     text COLLATE "C" NOT NULL CHECK (outcome IN ('success', 'failure', 'denied', 'cancelled')),
    resource    text COLLATE "C" NOT NULL CHECK (octet_length(resource) <= 1024),
    address     text NOT NULL CHECK (octet_length(address) <= 64),
    agent       text NOT NULL CHECK (octet_length(agent) <= 1024),
    request_id  text COLLATE "C" NOT NULL CHECK (octet_length(request_id) <= 64),
    details     text NOT NULL CHECK (octet_length(details) <= 32768),
    previous    bytea NOT NULL CHECK (length(previous) = 32),
    hash        bytea NOT NULL CHECK (length(hash) = 32),
    PRIMARY KEY (org_id, writer_id, sequence, recorded_at)
) PARTITION BY RANGE (recorded_at);

-- What may be asked for, newest first. Successes are nearly all rows, so that an index of them would serve nobody.
CREATE INDEX audit_log_by_time ON audit_log (org_id, recorded_at, writer_id, sequence);
CREATE INDEX audit_log_by_actor ON audit_log (org_id, actor_id, recorded_at);
CREATE INDEX audit_log_by_action ON audit_log (org_id, action, recorded_at);
CREATE INDEX audit_log_by_resource ON audit_log (org_id, resource, recorded_at);
CREATE INDEX audit_log_by_request ON audit_log (org_id, request_id) WHERE request_id <> '';
CREATE INDEX audit_log_by_outcome ON audit_log (org_id, outcome, recorded_at) WHERE outcome <> 'success';

-- Where the chains of an organisation ended at a time, signed with a key that the database does not have. The
-- checkpoints of an organisation are a chain themselves. audit/checkpoints.py says what a statement is.
CREATE TABLE audit_checkpoints (
    org_id    uuid NOT NULL,
    sequence  bigint NOT NULL CHECK (sequence > 0),
    taken_at  timestamptz NOT NULL,
    kind      text NOT NULL CHECK (kind IN ('periodic', 'retention')),
    statement text NOT NULL,
    previous  bytea NOT NULL CHECK (length(previous) = 32),
    hash      bytea NOT NULL CHECK (length(hash) = 32),
    key_id    text NOT NULL,
    signature bytea NOT NULL CHECK (length(signature) = 64),
    PRIMARY KEY (org_id, sequence, taken_at)
) PARTITION BY RANGE (taken_at);

CREATE FUNCTION audit_refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'The audit log is append-only: % of % is refused.', TG_OP, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER audit_log_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_log
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse_change();
CREATE TRIGGER audit_checkpoints_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit_checkpoints
    FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse_change();

ALTER TABLE audit_log ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_log FORCE ROW LEVEL SECURITY;
ALTER TABLE audit_checkpoints ENABLE ROW LEVEL SECURITY;
ALTER TABLE audit_checkpoints FORCE ROW LEVEL SECURITY;

CREATE POLICY audit_log_select ON audit_log FOR SELECT USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY audit_log_insert ON audit_log FOR INSERT WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY audit_checkpoints_select ON audit_checkpoints FOR SELECT USING (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);
CREATE POLICY audit_checkpoints_insert ON audit_checkpoints FOR INSERT WITH CHECK (
    org_id = NULLIF(current_setting('app.org_id', true), '')::uuid
);

-- The owner of the schema verifies all organisations and drops what is older than they keep.
CREATE POLICY audit_log_verify ON audit_log FOR SELECT TO CURRENT_USER USING (
    NULLIF(current_setting('app.org_id', true), '') IS NULL
);
CREATE POLICY audit_checkpoints_verify ON audit_checkpoints FOR SELECT TO CURRENT_USER USING (
    NULLIF(current_setting('app.org_id', true), '') IS NULL
);

-- A partition is reached through its table alone: nobody has rights to it, and no policy lets anybody see its rows.
CREATE FUNCTION audit_seal_partition(partition text) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', partition);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', partition);
    EXECUTE format(
        'CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON %I'
        ' FOR EACH STATEMENT EXECUTE FUNCTION audit_refuse_change()',
        partition
    );
END
$$;

-- Makes the partitions of as many months, from this one on, that are missing. Rows of a month without one are kept in
-- the default partition, and such a month gets none any more.
CREATE FUNCTION audit_create_partitions(months integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    parent text;
    partition text;
    first timestamptz;
    next timestamptz;
    taken boolean;
BEGIN
    FOR ahead IN 0 .. months - 1 LOOP
        first := date_trunc('month', now(), 'UTC') + make_interval(months => ahead);
        first := date_trunc('month', first + interval '12 hours', 'UTC');
        next := date_trunc('month', first + interval '32 days', 'UTC');
        FOREACH parent IN ARRAY ARRAY['audit_log', 'audit_checkpoints'] LOOP
            partition := parent || '_' || to_char(first AT TIME ZONE 'UTC', 'YYYY_MM');
            CONTINUE WHEN to_regclass(partition) IS NOT NULL;
            EXECUTE format(
                'SELECT EXISTS (SELECT FROM %I WHERE %I >= $1 AND %2$I < $2)',
                parent, CASE parent WHEN 'audit_log' THEN 'recorded_at' ELSE 'taken_at' END
            ) INTO taken USING first, next;
            CONTINUE WHEN taken;
            EXECUTE format('CREATE TABLE %I PARTITION OF %I FOR VALUES FROM (%L) TO (%L)', partition, parent, first, next);
            PERFORM audit_seal_partition(partition);
        END LOOP;
    END LOOP;
END
$$;

CREATE TABLE audit_log_default PARTITION OF audit_log DEFAULT;
CREATE TABLE audit_checkpoints_default PARTITION OF audit_checkpoints DEFAULT;
SELECT audit_seal_partition('audit_log_default'), audit_seal_partition('audit_checkpoints_default');
SELECT audit_create_partitions(24);

DO $$
DECLARE app_role text := current_setting('agentapi.app_role');
BEGIN
    EXECUTE format('GRANT SELECT, INSERT ON audit_log, audit_checkpoints TO %I', app_role);
END
$$;
