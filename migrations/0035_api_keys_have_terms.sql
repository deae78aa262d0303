-- What a tenant chooses for an API key: what it may do, from where, and until when; when it was used, and what replaced it.

ALTER TABLE api_keys
  ADD COLUMN scopes       text[],
  ADD COLUMN networks     text[] NOT NULL DEFAULT '{}',
  ADD COLUMN expires_at   timestamptz,
  ADD COLUMN last_used_at timestamptz,
  ADD COLUMN successor    text;
COMMENT ON COLUMN api_keys.scopes IS 'The permissions of the key; null for keys made before they could be chosen: what keys hold by default';
COMMENT ON COLUMN api_keys.networks IS 'The networks it may be used from, in CIDR notation; empty for all';
COMMENT ON COLUMN api_keys.expires_at IS 'From when on it is refused; null for never';
COMMENT ON COLUMN api_keys.last_used_at IS 'When it was last used, to a minute; null if it was not used since uses are recorded';
COMMENT ON COLUMN api_keys.successor IS 'The id of the key that replaces it, if it was rotated';

-- What a key may do is chosen once. Later it can only end sooner.
CREATE FUNCTION keys_gain_nothing() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  IF NEW.tenant_id <> OLD.tenant_id OR NEW.sha256 <> OLD.sha256 OR NEW.scopes IS DISTINCT FROM OLD.scopes OR NEW.networks <> OLD.networks THEN
    RAISE EXCEPTION 'key % keeps its tenant, secret, scopes and networks', OLD.id;
  END IF;
  IF NEW.expires_at IS DISTINCT FROM OLD.expires_at AND (NEW.expires_at IS NULL OR NEW.expires_at > OLD.expires_at) THEN
    RAISE EXCEPTION 'key % can only expire sooner', OLD.id;
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER keys_gain_nothing BEFORE UPDATE ON api_keys FOR EACH ROW EXECUTE FUNCTION keys_gain_nothing();

GRANT UPDATE (expires_at, last_used_at, successor) ON api_keys TO platen_api;
