-- Two rows of a tenant change with every job: its wallet, and the lot that it spends. A long snapshot keeps all their versions, and whoever
-- looks for the newest one by key alone reads them all, oldest first.

-- Versions with the same key stand in an index in the order of their places, so the newest one is found from its end. The primary key
-- cannot be read from its end, because the planner knows that it has one row for a tenant, and sees no order in that. `status` seldom changes, so an
-- update of the balance still changes the row in its place (HOT), without a look at the other versions.
CREATE INDEX wallets_newest ON wallets (tenant_id, status);
ALTER TABLE wallets SET (fillfactor = 50);

-- Whether a lot is spent changes seldom, what remains of it with every hold: an index that names `remaining` is written each time.
-- Postgres rewrites the table for the new column; there is one row for each gift, so few installations have many.
ALTER TABLE grants ADD COLUMN spent boolean GENERATED ALWAYS AS (remaining = 0) STORED;
COMMENT ON COLUMN grants.spent IS 'Whether nothing remains of it';
CREATE INDEX grants_to_spend ON grants (tenant_id, priority, expires_at NULLS LAST, created_at, id) WHERE NOT spent;
DROP INDEX grants_burn_order;
ALTER TABLE grants SET (fillfactor = 50);
COMMENT ON TABLE grants IS 'Lots of credits given or bought; holds burn them down in the order of grants_to_spend';

-- A reference is checked by a look at the row that it names. So nothing refers to a busy row any more. A tenant and its wallet begin
-- together and are never deleted. What names a job needs no reference to a tenant besides: the job has it, and `platen verify` compares the two.
-- The references that are new are checked for old rows by 0029.
ALTER TABLE job_requests DROP CONSTRAINT job_requests_tenant_id_fkey;
ALTER TABLE job_lots DROP CONSTRAINT job_lots_tenant_id_fkey;
ALTER TABLE calls DROP CONSTRAINT calls_tenant_id_fkey;
ALTER TABLE artifacts DROP CONSTRAINT artifacts_tenant_id_fkey;
ALTER TABLE jobs DROP CONSTRAINT jobs_tenant_id_fkey, ADD CONSTRAINT jobs_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants NOT VALID;
ALTER TABLE transfers DROP CONSTRAINT transfers_tenant_id_fkey, ADD CONSTRAINT transfers_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants NOT VALID;
ALTER TABLE idempotency_keys DROP CONSTRAINT idempotency_keys_tenant_id_fkey, ADD CONSTRAINT idempotency_keys_tenant_id_fkey FOREIGN KEY (tenant_id) REFERENCES tenants NOT VALID;
-- The statement that writes a share joins it with the lot that it has just taken the credits from. No role may delete a lot.
ALTER TABLE job_lots DROP CONSTRAINT job_lots_grant_id_fkey;
DROP INDEX job_lots_grant;
