-- What guards the data cannot be turned aside: functions know where their names lead, and a revoked key stays revoked.

-- Bodies in the form of the standard: their names are looked up once, here, and not by whoever calls. Unlike a setting on the function
-- this costs nothing: Postgres still puts the expression in place of the call. `platen verify` compares both.
CREATE OR REPLACE FUNCTION current_tenant() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
  RETURN nullif(current_setting('platen.tenant', true), '')::uuid;
CREATE OR REPLACE FUNCTION transfer_hash(previous bytea, tenant uuid, seq bigint, debit text, credit text, amount bigint, kind text, ref text, at timestamptz)
  RETURNS bytea LANGUAGE sql STABLE PARALLEL SAFE
  RETURN sha256(previous || convert_to(concat_ws('|', tenant, seq, debit, credit, amount, kind, ref, (extract(epoch FROM at) * 1000000)::bigint), 'UTF8'));

-- A key is revoked once: nobody may set another time, or none.
CREATE FUNCTION revoked_keys_stay_revoked() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION 'key % was revoked at % and stays so', OLD.id, OLD.revoked_at;
END $$;
CREATE TRIGGER revoked_keys_stay_revoked BEFORE UPDATE ON api_keys FOR EACH ROW
  WHEN (OLD.revoked_at IS NOT NULL AND NEW.revoked_at IS DISTINCT FROM OLD.revoked_at) EXECUTE FUNCTION revoked_keys_stay_revoked();

-- Functions of triggers look their names up in `public`, and in a temporary schema last, whatever their caller has set. A later
-- migration that makes or replaces a function says `SET search_path` itself: a replaced one forgets the setting.
DO $$
DECLARE unpinned regprocedure;
BEGIN
  FOR unpinned IN
    SELECT p.oid FROM pg_proc p JOIN pg_language l ON l.oid = p.prolang
    WHERE p.pronamespace = 'public'::regnamespace AND l.lanname = 'plpgsql' AND p.proconfig IS NULL
      AND p.proowner = (SELECT oid FROM pg_roles WHERE rolname = current_user)
  LOOP
    EXECUTE format('ALTER FUNCTION %s SET search_path = public, pg_temp', unpinned);
  END LOOP;
END $$;
