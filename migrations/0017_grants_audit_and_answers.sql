-- What operators give is unique for each tenant, records cannot be emptied, and answers for repeated requests are deleted in their time.

-- The checks that 0016 added: this reads the table and stops nobody.
ALTER TABLE deletions VALIDATE CONSTRAINT deletions_class_check;
ALTER TABLE deletions VALIDATE CONSTRAINT files_have_a_hash;

-- A source gives once to each tenant. One from outside, such as a payment, gives once in the whole installation.
-- The constraint keeps its name, by which older programs call it (`ON CONFLICT ON CONSTRAINT`): they work on, by the new rule.
-- Both indexes are built under one lock, so that no grant slips in between. A table of a million grants takes a few seconds, in
-- which no job is admitted or settled; there is one row for each gift, so few installations have as many.
LOCK TABLE grants IN ACCESS EXCLUSIVE MODE;
CREATE UNIQUE INDEX one_grant_per_source_and_tenant ON grants (tenant_id, source_type, source_id);
CREATE UNIQUE INDEX one_grant_per_source_outside ON grants (source_type, source_id) WHERE source_type IN ('purchase', 'refund');
ALTER TABLE grants DROP CONSTRAINT one_grant_per_source;
ALTER TABLE grants ADD CONSTRAINT one_grant_per_source UNIQUE USING INDEX one_grant_per_source_and_tenant;
COMMENT ON COLUMN grants.source_id IS 'What it was given for; a source gives once to each tenant, one from outside (purchase, refund) once in all';

-- Records: what no statement may empty. Row triggers do not see a TRUNCATE.
CREATE TRIGGER operator_actions_are_never_truncated BEFORE TRUNCATE ON operator_actions FOR EACH STATEMENT EXECUTE FUNCTION append_only();
CREATE TRIGGER receipts_are_never_truncated BEFORE TRUNCATE ON deletions FOR EACH STATEMENT EXECUTE FUNCTION append_only();
CREATE TRIGGER holds_stay_on_record BEFORE DELETE OR TRUNCATE ON holds FOR EACH STATEMENT EXECUTE FUNCTION append_only();
CREATE TRIGGER pauses_stay_on_record BEFORE DELETE OR TRUNCATE ON pauses FOR EACH STATEMENT EXECUTE FUNCTION append_only();
CREATE TRIGGER totals_stay_on_record BEFORE DELETE OR TRUNCATE ON billing_totals FOR EACH STATEMENT EXECUTE FUNCTION append_only();
-- Lines are deleted when they are folded, each with its sum; never all at once.
CREATE TRIGGER lines_are_never_truncated BEFORE TRUNCATE ON billing_lines FOR EACH STATEMENT EXECUTE FUNCTION append_only();
COMMENT ON COLUMN operator_actions.by IS 'Who: api; platen up; or the login and the machine that ran the program, as the operating system knows them';

-- Workers delete answers whose time is over, in all tenants, and see nothing else of them. None that is younger than an hour, whatever
-- the configuration says.
DROP POLICY own_tenant_worker ON idempotency_keys;
CREATE POLICY old_answers_are_seen ON idempotency_keys FOR SELECT TO platen_worker USING (created_at < now() - interval '1 hour');
CREATE POLICY old_answers_are_deleted ON idempotency_keys FOR DELETE TO platen_worker USING (created_at < now() - interval '1 hour');
GRANT SELECT (created_at), DELETE ON idempotency_keys TO platen_worker;
COMMENT ON TABLE  idempotency_keys IS 'Answers kept for whoever repeats a request; written in the transaction whose effect they report, deleted by age';
