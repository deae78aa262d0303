-- Workers are shared by tenants: which jobs of which tenant are due, and whose share is larger.

-- The next job of each tenant, where the jobs of some are left out: without it a dispatcher would read their whole
-- backlog to find what is behind it. This reads the table of jobs once; of a million jobs it takes a few seconds,
-- in which none is admitted or settled.
CREATE INDEX jobs_by_model_tenant_and_turn ON jobs (model, tenant_id, turn, id) WHERE state = 'queued';

CREATE TABLE tenant_weights (
  tenant_id uuid PRIMARY KEY REFERENCES tenants,
  weight    smallint NOT NULL CONSTRAINT weight_is_sensible CHECK (weight BETWEEN 1 AND 100)
);
COMMENT ON TABLE  tenant_weights IS 'How much larger a tenant''s share of a worker is than that of others; who has no row has weight 1';
COMMENT ON COLUMN tenant_weights.tenant_id IS 'Whose';
COMMENT ON COLUMN tenant_weights.weight IS 'Times the share that PLATEN_TENANT_SLOTS_PERCENT gives every tenant';

ALTER TABLE tenant_weights ENABLE ROW LEVEL SECURITY;
ALTER TABLE tenant_weights FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant_api ON tenant_weights FOR ALL TO platen_api USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());
CREATE POLICY every_weight ON tenant_weights FOR SELECT TO platen_worker USING (true);
CREATE POLICY read_all ON tenant_weights FOR SELECT TO platen_reader USING (true);
GRANT SELECT, INSERT, UPDATE ON tenant_weights TO platen_api;
GRANT SELECT ON tenant_weights TO platen_worker, platen_reader;
