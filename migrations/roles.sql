-- The four roles every Platen database needs (see ARCHITECTURE.md, "Roles"). Safe to run again.
-- `platen migrate` runs this; where it may not create roles it prints it for whoever may.
--   platen_owner   owns the tables; used by migrations only
--   platen_api     the rows of the tenant set in the transaction
--   platen_worker  every job for claim, renew, reap and dispatch; everything else under the job's tenant
--   platen_reader  reads everything: verify and billing metrics
DO $$
DECLARE name text;
BEGIN
  FOREACH name IN ARRAY ARRAY['platen_owner', 'platen_api', 'platen_worker', 'platen_reader'] LOOP
    IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = name) THEN
      BEGIN
        EXECUTE format('CREATE ROLE %I NOLOGIN', name);
      EXCEPTION WHEN duplicate_object OR unique_violation THEN
        NULL; -- another migration made it in the same instant
      END;
    END IF;
  END LOOP;
END $$;
GRANT USAGE, CREATE ON SCHEMA public TO platen_owner;
GRANT USAGE ON SCHEMA public TO platen_api, platen_worker, platen_reader;
