-- Who may see and change which rows. Policies are per role and readable from the catalogue;
-- FORCE binds the owner too. A test fails when a table lacks its policies.

-- The tenant of this transaction, or null: then no tenant's row is visible.
CREATE FUNCTION current_tenant() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE AS $$
  SELECT nullif(current_setting('platen.tenant', true), '')::uuid
$$;

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['wallets', 'grants', 'job_requests', 'job_lots', 'calls', 'artifacts', 'transfers', 'idempotency_keys', 'jobs', 'api_keys'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY own_tenant_api ON %I FOR ALL TO platen_api USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant())', t);
    EXECUTE format('CREATE POLICY read_all ON %I FOR SELECT TO platen_reader USING (true)', t);
    IF t NOT IN ('jobs', 'api_keys') THEN
      EXECUTE format('CREATE POLICY own_tenant_worker ON %I FOR ALL TO platen_worker USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant())', t);
    END IF;
  END LOOP;
END $$;

-- Workers claim, renew, reap and dispatch over all tenants.
CREATE POLICY every_job ON jobs FOR ALL TO platen_worker USING (true) WITH CHECK (true);

-- Before the tenant is known, the api may see just the one key it was shown.
CREATE POLICY shown_key ON api_keys FOR SELECT TO platen_api USING (id = nullif(current_setting('platen.key', true), ''));

ALTER TABLE tenants ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenants FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant_api ON tenants FOR ALL TO platen_api USING (id = current_tenant()) WITH CHECK (id = current_tenant());
CREATE POLICY own_tenant_worker ON tenants FOR SELECT TO platen_worker USING (id = current_tenant());
CREATE POLICY read_all ON tenants FOR SELECT TO platen_reader USING (true);

GRANT SELECT ON ALL TABLES IN SCHEMA public TO platen_reader;

GRANT SELECT, INSERT ON tenants, wallets, grants, jobs, job_requests, job_lots, transfers, api_keys, idempotency_keys TO platen_api;
GRANT SELECT ON calls, artifacts TO platen_api;
GRANT UPDATE ON wallets, grants, jobs TO platen_api;
GRANT UPDATE (revoked_at) ON api_keys TO platen_api;

GRANT SELECT ON tenants, wallets, grants, jobs, job_requests, job_lots, calls, artifacts, transfers TO platen_worker;
GRANT UPDATE ON wallets, grants, jobs, calls TO platen_worker;
GRANT INSERT ON calls, artifacts, transfers TO platen_worker;
