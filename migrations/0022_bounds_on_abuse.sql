-- Bounds on what one movement of credits may be, on unpaid work and on unpaid storage; and operators' requests that may be repeated.
-- Programs of the version before neither know nor need any of it: their writes pass, and triggers keep what they do not.

-- Credits. A figure far from what a bigint holds, so that no sum of a wallet can overflow and no job's end can fail by it. What a job
-- captures or releases is never refused, and neither is a change that does not make a wallet larger: an older one that is over the
-- bound can still be settled.
ALTER TABLE transfers ADD CONSTRAINT movements_are_bounded CHECK (amount <= 1000000000000 OR kind IN ('capture', 'release', 'refund')) NOT VALID;
CREATE FUNCTION too_many_credits() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  RAISE EXCEPTION '%: one movement is of at most 10^12 credits, and a wallet holds at most 10^15', TG_NAME USING ERRCODE = 'check_violation';
END $$;
CREATE TRIGGER grants_are_bounded BEFORE INSERT ON grants FOR EACH ROW WHEN (NEW.amount > 1000000000000) EXECUTE FUNCTION too_many_credits();
CREATE TRIGGER wallets_are_bounded BEFORE UPDATE ON wallets FOR EACH ROW
  WHEN (NEW.available::numeric + NEW.held > greatest(OLD.available::numeric + OLD.held, 1000000000000000)) EXECUTE FUNCTION too_many_credits();

-- What operators asked for under a key, and what they were answered.
CREATE TABLE operator_requests (
  key          text PRIMARY KEY CHECK (length(key) BETWEEN 1 AND 255),
  request_hash bytea NOT NULL CHECK (length(request_hash) = 32),
  jobs         uuid[],
  has_more     boolean NOT NULL DEFAULT false,
  status       smallint CHECK (status BETWEEN 200 AND 299),
  body         bytea,
  created_at   timestamptz NOT NULL DEFAULT now(),
  CONSTRAINT answers_are_whole CHECK ((status IS NULL) = (body IS NULL))
);
CREATE INDEX operator_requests_by_age ON operator_requests (created_at);
COMMENT ON TABLE  operator_requests IS 'Requests of operators that may be repeated, with their answers; written in the transaction whose effect they report, deleted by age';
COMMENT ON COLUMN operator_requests.key IS 'As the operator sent it, or one we made';
COMMENT ON COLUMN operator_requests.request_hash IS 'SHA-256 of method, path and body: the same key for something else is refused';
COMMENT ON COLUMN operator_requests.jobs IS 'Of a request for many jobs: which it is for, chosen once; null for all others';
COMMENT ON COLUMN operator_requests.has_more IS 'Whether more jobs fitted than were chosen';
COMMENT ON COLUMN operator_requests.status IS 'HTTP status of the answer; null while a request for many jobs is not done to its end';
COMMENT ON COLUMN operator_requests.body IS 'Body of the answer, byte for byte';
COMMENT ON COLUMN operator_requests.created_at IS 'When it was first asked for';
ALTER TABLE operator_requests ENABLE ROW LEVEL SECURITY;
ALTER TABLE operator_requests FORCE ROW LEVEL SECURITY;
CREATE POLICY operators_api ON operator_requests FOR ALL TO platen_api USING (true) WITH CHECK (true);
CREATE POLICY read_all ON operator_requests FOR SELECT TO platen_reader USING (true);
CREATE POLICY old_answers_are_seen ON operator_requests FOR SELECT TO platen_worker USING (created_at < now() - interval '1 hour');
CREATE POLICY old_answers_are_deleted ON operator_requests FOR DELETE TO platen_worker USING (created_at < now() - interval '1 hour');
GRANT SELECT ON operator_requests TO platen_reader;
GRANT SELECT, INSERT, UPDATE (jobs, has_more, status, body) ON operator_requests TO platen_api;
GRANT SELECT (created_at), DELETE ON operator_requests TO platen_worker;

-- Calls that began and that their owner abandoned, by canceling the job or by its deadline: nobody pays for them but us.
CREATE TABLE abandoned_calls (
  call_id   uuid PRIMARY KEY REFERENCES calls,
  tenant_id uuid NOT NULL REFERENCES wallets,
  at        timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX abandoned_calls_of_tenant ON abandoned_calls (tenant_id, at);
CREATE INDEX abandoned_calls_by_age ON abandoned_calls (at);
COMMENT ON TABLE  abandoned_calls IS 'Calls that were open or had made their picture when their owner gave the job up; append-only';
COMMENT ON COLUMN abandoned_calls.call_id IS 'The call; its row says what it cost us';
COMMENT ON COLUMN abandoned_calls.tenant_id IS 'Whose allowance it counts against';
COMMENT ON COLUMN abandoned_calls.at IS 'When it was abandoned: for an hour from then on it counts';
CREATE TRIGGER abandoned_calls_are_never_rewritten BEFORE UPDATE OR DELETE ON abandoned_calls FOR EACH ROW EXECUTE FUNCTION append_only();
CREATE TRIGGER abandoned_calls_are_never_truncated BEFORE TRUNCATE ON abandoned_calls FOR EACH STATEMENT EXECUTE FUNCTION append_only();
ALTER TABLE abandoned_calls ENABLE ROW LEVEL SECURITY;
ALTER TABLE abandoned_calls FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant_api ON abandoned_calls FOR ALL TO platen_api USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());
CREATE POLICY own_tenant_worker ON abandoned_calls FOR ALL TO platen_worker USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());
CREATE POLICY read_all ON abandoned_calls FOR SELECT TO platen_reader USING (true);
GRANT SELECT ON abandoned_calls TO platen_reader;
GRANT SELECT, INSERT ON abandoned_calls TO platen_api, platen_worker;

ALTER TABLE jobs ADD COLUMN extended boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN jobs.extended IS 'Whether its deadline was moved, once: its calls had begun, and its owner had abandoned as many as allowed';

-- Bytes that a tenant keeps with us: a total, and the lines that are not folded into it yet, as in 0012.
CREATE TABLE storage_totals (
  tenant_id uuid PRIMARY KEY REFERENCES wallets,
  bytes     bigint
);
COMMENT ON TABLE  storage_totals IS 'What the files of a tenant that rows name take in the bucket, of what has been folded';
COMMENT ON COLUMN storage_totals.tenant_id IS 'Whose files';
COMMENT ON COLUMN storage_totals.bytes IS 'Their size; null: a tenant from before this table, which no worker has counted yet';
CREATE TABLE storage_lines (
  id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id uuid   NOT NULL,
  bytes     bigint NOT NULL
);
CREATE INDEX storage_lines_of_tenant ON storage_lines (tenant_id);
COMMENT ON TABLE  storage_lines IS 'What single transactions add to storage_totals, until it is folded';
COMMENT ON COLUMN storage_lines.id IS 'For whoever folds: which lines; says nothing about their order';
COMMENT ON COLUMN storage_lines.tenant_id IS 'Whose files';
COMMENT ON COLUMN storage_lines.bytes IS 'Bytes more, or where negative less';

-- Triggers, so that no code path and no older program forgets.
CREATE FUNCTION count_storage() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE more bigint;
BEGIN
  IF TG_TABLE_NAME = 'wallets' THEN
    INSERT INTO storage_totals (tenant_id, bytes) VALUES (NEW.tenant_id, 0);
    RETURN NULL;
  ELSIF TG_TABLE_NAME = 'job_requests' THEN
    SELECT coalesce(sum((i ->> 'bytes')::bigint), 0) INTO more FROM jsonb_array_elements(NEW.generation -> 'inputs') i WHERE NOT i ? 'upload';
  ELSIF TG_TABLE_NAME = 'deletions' THEN
    more := -NEW.bytes;
  ELSIF TG_OP = 'UPDATE' THEN
    more := coalesce(NEW.bytes, 0) - coalesce(OLD.bytes, 0);
  ELSE
    more := NEW.bytes;
  END IF;
  IF more <> 0 THEN
    INSERT INTO storage_lines (tenant_id, bytes) VALUES (NEW.tenant_id, more);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER wallets_begin_empty AFTER INSERT ON wallets FOR EACH ROW EXECUTE FUNCTION count_storage();
CREATE TRIGGER inputs_are_counted AFTER INSERT ON job_requests FOR EACH ROW WHEN (NEW.generation -> 'inputs' <> '[]') EXECUTE FUNCTION count_storage();
CREATE TRIGGER originals_may_begin_counted AFTER INSERT ON calls FOR EACH ROW WHEN (NEW.bytes IS NOT NULL) EXECUTE FUNCTION count_storage();
CREATE TRIGGER originals_are_counted AFTER UPDATE ON calls FOR EACH ROW WHEN (OLD.bytes IS DISTINCT FROM NEW.bytes) EXECUTE FUNCTION count_storage();
-- An original is its call's.
CREATE TRIGGER renditions_are_counted AFTER INSERT ON artifacts FOR EACH ROW WHEN (NEW.role <> 'original') EXECUTE FUNCTION count_storage();
CREATE TRIGGER uploads_are_counted AFTER INSERT ON uploads FOR EACH ROW EXECUTE FUNCTION count_storage();
CREATE TRIGGER deletions_are_counted AFTER UPDATE ON deletions FOR EACH ROW
  WHEN (OLD.deleted_at IS NULL AND NEW.deleted_at IS NOT NULL AND NEW.class <> 'prompt') EXECUTE FUNCTION count_storage();

-- Tenants there are. The owner is bound by the policies, too.
ALTER TABLE wallets NO FORCE ROW LEVEL SECURITY;
INSERT INTO storage_totals (tenant_id) SELECT tenant_id FROM wallets;
ALTER TABLE wallets FORCE ROW LEVEL SECURITY;

CREATE TRIGGER storage_totals_stay BEFORE DELETE OR TRUNCATE ON storage_totals FOR EACH STATEMENT EXECUTE FUNCTION append_only();
CREATE TRIGGER storage_lines_are_never_truncated BEFORE TRUNCATE ON storage_lines FOR EACH STATEMENT EXECUTE FUNCTION append_only();
ALTER TABLE storage_totals ENABLE ROW LEVEL SECURITY;
ALTER TABLE storage_totals FORCE ROW LEVEL SECURITY;
ALTER TABLE storage_lines ENABLE ROW LEVEL SECURITY;
ALTER TABLE storage_lines FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant_api ON storage_totals FOR ALL TO platen_api USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());
CREATE POLICY worker_folds ON storage_totals FOR ALL TO platen_worker USING (true) WITH CHECK (true);
CREATE POLICY read_all ON storage_totals FOR SELECT TO platen_reader USING (true);
CREATE POLICY own_tenant_api ON storage_lines FOR ALL TO platen_api USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());
CREATE POLICY worker_folds ON storage_lines FOR ALL TO platen_worker USING (true) WITH CHECK (true);
CREATE POLICY read_all ON storage_lines FOR SELECT TO platen_reader USING (true);
GRANT SELECT ON storage_totals, storage_lines TO platen_reader;
GRANT SELECT, INSERT ON storage_totals, storage_lines TO platen_api;
GRANT SELECT, UPDATE ON storage_totals TO platen_worker;
GRANT SELECT, INSERT, DELETE ON storage_lines TO platen_worker;

-- Jobs that delivered nothing and whose own inputs have a term. A job leaves the list when the deletion of its inputs is planned.
CREATE TABLE undelivered_inputs (
  job_id    uuid PRIMARY KEY REFERENCES jobs,
  tenant_id uuid NOT NULL REFERENCES wallets,
  since     timestamptz NOT NULL
);
CREATE INDEX undelivered_inputs_by_age ON undelivered_inputs (since);
COMMENT ON TABLE  undelivered_inputs IS 'Ended jobs that delivered nothing and have pictures of their own, until the deletion of these is planned';
COMMENT ON COLUMN undelivered_inputs.job_id IS 'The job';
COMMENT ON COLUMN undelivered_inputs.tenant_id IS 'Whose it is';
COMMENT ON COLUMN undelivered_inputs.since IS 'From when on the term runs: its end; of a job from before this table the time at which a worker found it';
CREATE FUNCTION list_undelivered_inputs() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  INSERT INTO undelivered_inputs (job_id, tenant_id, since)
  SELECT NEW.id, NEW.tenant_id, NEW.finished_at FROM job_requests q
  WHERE q.job_id = NEW.id AND EXISTS (SELECT FROM jsonb_array_elements(q.generation -> 'inputs') i WHERE NOT i ? 'upload');
  RETURN NULL;
END $$;
CREATE TRIGGER undelivered_inputs_are_listed AFTER UPDATE ON jobs FOR EACH ROW
  WHEN (OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL AND NEW.n_delivered = 0) EXECUTE FUNCTION list_undelivered_inputs();
ALTER TABLE undelivered_inputs ENABLE ROW LEVEL SECURITY;
ALTER TABLE undelivered_inputs FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant_api ON undelivered_inputs FOR INSERT TO platen_api WITH CHECK (tenant_id = current_tenant());
CREATE POLICY every_job ON undelivered_inputs FOR ALL TO platen_worker USING (true) WITH CHECK (true);
CREATE POLICY read_all ON undelivered_inputs FOR SELECT TO platen_reader USING (true);
GRANT SELECT ON undelivered_inputs TO platen_reader;
GRANT INSERT ON undelivered_inputs TO platen_api;
GRANT SELECT, INSERT, DELETE ON undelivered_inputs TO platen_worker;

-- Uploads of tenants that never paid have a term. Whether one did is seen in all tenants at once: a grant was consumed.
CREATE POLICY every_grant ON grants FOR SELECT TO platen_worker USING (true);
