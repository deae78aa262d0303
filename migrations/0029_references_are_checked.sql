-- Checks the references to tenants of 0027 against old rows. A transaction of its own, because it reads whole tables: nothing waits for it.
ALTER TABLE jobs VALIDATE CONSTRAINT jobs_tenant_id_fkey;
ALTER TABLE transfers VALIDATE CONSTRAINT transfers_tenant_id_fkey;
ALTER TABLE idempotency_keys VALIDATE CONSTRAINT idempotency_keys_tenant_id_fkey;
