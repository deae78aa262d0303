-- Checks the rules of 0030 against old rows, which the constraints before did with the same rules. A transaction of its own, because it reads whole tables:
-- nothing waits for it.
ALTER TABLE jobs VALIDATE CONSTRAINT jobs_keep_rules;
ALTER TABLE calls VALIDATE CONSTRAINT calls_keep_rules;
ALTER TABLE artifacts VALIDATE CONSTRAINT artifacts_keep_rules;
ALTER TABLE wallets VALIDATE CONSTRAINT wallets_keep_rules;
ALTER TABLE grants VALIDATE CONSTRAINT grants_keep_rules;
ALTER TABLE transfers VALIDATE CONSTRAINT transfers_keep_rules;
ALTER TABLE idempotency_keys VALIDATE CONSTRAINT idempotency_keys_keep_rules;
