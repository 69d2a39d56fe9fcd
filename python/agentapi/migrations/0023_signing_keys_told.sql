-- Every process is told when a key of the own issuer comes or goes, so that a token of one that was replaced ends at once.
--
-- A key's id is no UUID and nobody's business here: all there is to tell is that the keys are to be read again.
CREATE FUNCTION tell_signing_keys() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM pg_notify('agentapi_changes', 'signing_keys 00000000-0000-0000-0000-000000000000 - - -');
    RETURN NULL;
END
$$;
CREATE TRIGGER tell_change AFTER INSERT OR DELETE ON signing_keys
    FOR EACH STATEMENT EXECUTE FUNCTION tell_signing_keys();
