-- An api remembers for a few seconds whose key it was shown. Whoever revokes a key tells every api, in the transaction that does it:
-- a trigger, so that no code path and no older program forgets.
CREATE FUNCTION tell_revoked_key() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  PERFORM pg_notify('platen_revoked_keys', NEW.id);
  RETURN NULL;
END $$;
CREATE TRIGGER revoked_keys_are_told AFTER UPDATE ON api_keys FOR EACH ROW
  WHEN (OLD.revoked_at IS NULL AND NEW.revoked_at IS NOT NULL) EXECUTE FUNCTION tell_revoked_key();
