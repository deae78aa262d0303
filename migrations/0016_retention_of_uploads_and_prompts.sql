-- Uploads and prompts are kept for a time of their own, as files are.

ALTER TABLE retention
  ADD COLUMN uploads bigint CHECK (uploads BETWEEN 0 AND 315360000),
  ADD COLUMN prompts bigint CHECK (prompts BETWEEN 0 AND 315360000);
COMMENT ON TABLE  retention IS 'How long a tenant''s files and prompts are kept, by class; a tenant without a row keeps everything for its account''s lifetime';
COMMENT ON COLUMN retention.tenant_id IS 'Whose files and prompts';
COMMENT ON COLUMN retention.uploads IS 'Uploads: seconds after they were kept, or after the end of the last job that named them; null is the account''s lifetime';
COMMENT ON COLUMN retention.prompts IS 'The text of requests (prompt, art direction): seconds after their job''s end; null is the account''s lifetime';

-- What an upload's time counts from. Uploads that are older than this column count from now: none is deleted too early.
ALTER TABLE uploads ADD COLUMN last_used_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX uploads_by_use ON uploads (tenant_id, last_used_at) WHERE deleted_at IS NULL;
COMMENT ON COLUMN uploads.last_used_at IS 'When it was kept, when the last job that named it ended, or when an open job was seen to need it: the newest of these';
COMMENT ON COLUMN uploads.deleted_at IS 'When its owner deleted it, or its time was over; from then on no job may name it';

-- Workers look for uploads whose time is over in all tenants, as they do for files that are due. They change only their job's tenant's.
DROP POLICY own_tenant_worker ON uploads;
CREATE POLICY every_upload ON uploads FOR SELECT TO platen_worker USING (true);
CREATE POLICY own_tenant_worker ON uploads FOR UPDATE TO platen_worker USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());
DROP POLICY own_tenant_worker ON retention;
CREATE POLICY every_retention ON retention FOR SELECT TO platen_worker USING (true);
GRANT UPDATE (last_used_at) ON uploads TO platen_api, platen_worker;
GRANT UPDATE (deleted_at) ON uploads TO platen_worker;

-- The text of a request is deleted in its time; its settings and inputs stay with the job. Nothing else of it ever changes.
CREATE FUNCTION requests_stand() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF (NEW.job_id, NEW.tenant_id) IS DISTINCT FROM (OLD.job_id, OLD.tenant_id)
     OR NEW.generation <> OLD.generation - '{prompt,art_direction}'::text[]
     OR EXISTS (SELECT FROM jobs WHERE id = OLD.job_id AND finished_at IS NULL) THEN
    RAISE EXCEPTION 'the request of job % cannot change; only its text may be deleted, after the job has ended', OLD.job_id;
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER requests_stand BEFORE UPDATE ON job_requests FOR EACH ROW EXECUTE FUNCTION requests_stand();
GRANT UPDATE (generation) ON job_requests TO platen_worker;
COMMENT ON COLUMN job_requests.generation IS 'Prompt, settings and inputs by object key; shape by kind in common/src/generation/. Without prompt and art direction once their time was over';

-- A prompt leaves a receipt like that of a file, but without a hash: whoever guesses a short text could confirm it by one. The checks
-- are weaker than those they replace, so every row passes them; 0017 says so to Postgres, without a lock that stops anybody.
ALTER TABLE deletions ALTER COLUMN sha256 DROP NOT NULL;
ALTER TABLE deletions DROP CONSTRAINT deletions_class_check;
ALTER TABLE deletions ADD CONSTRAINT deletions_class_check CHECK (class IN ('input', 'original', 'rendition', 'thumbnail', 'upload', 'prompt')) NOT VALID;
ALTER TABLE deletions ADD CONSTRAINT files_have_a_hash CHECK ((class = 'prompt') = (sha256 IS NULL)) NOT VALID;
COMMENT ON TABLE  deletions IS 'Files and prompts that are to be deleted; one that was is a receipt, and stays';
COMMENT ON COLUMN deletions.tenant_id IS 'Whose it is';
COMMENT ON COLUMN deletions.object_key IS 'Where it was stored; no key is ever written twice. Of a prompt: job_requests/ and its job';
COMMENT ON COLUMN deletions.sha256 IS 'SHA-256 of the file; null for a prompt';
