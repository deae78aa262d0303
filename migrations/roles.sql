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
-- What processes log in with may act as these roles and has no rights of its own. `platen migrate` makes the logins that
-- DATABASE_API_URL, DATABASE_WORKER_URL and DATABASE_READER_URL name; where it may not, someone who may runs this, with passwords and
-- with limits that together leave a few connections for operators:
--   CREATE ROLE platen_login_api    LOGIN NOINHERIT CONNECTION LIMIT 40 PASSWORD '…';  GRANT platen_api    TO platen_login_api;
--   CREATE ROLE platen_login_worker LOGIN NOINHERIT CONNECTION LIMIT 40 PASSWORD '…';  GRANT platen_worker TO platen_login_worker;
--   CREATE ROLE platen_login_reader LOGIN NOINHERIT CONNECTION LIMIT 10 PASSWORD '…';  GRANT platen_reader TO platen_login_reader;
