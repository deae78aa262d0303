-- Pictures that tenants keep with us and name in their jobs.

CREATE TABLE uploads (
  id         uuid PRIMARY KEY,
  tenant_id  uuid NOT NULL REFERENCES wallets,
  name       text CHECK (length(name) BETWEEN 1 AND 200),
  object_key text NOT NULL UNIQUE,
  sha256     bytea NOT NULL CHECK (length(sha256) = 32),
  bytes      bigint NOT NULL CHECK (bytes > 0),
  media_type text NOT NULL,
  width      integer NOT NULL CHECK (width > 0),
  height     integer NOT NULL CHECK (height > 0),
  created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  deleted_at timestamptz
);
CREATE INDEX uploads_of_tenant ON uploads (tenant_id, id) WHERE deleted_at IS NULL;
COMMENT ON TABLE  uploads IS 'Pictures that tenants keep with us and name in their jobs; named only after the object is written';
COMMENT ON COLUMN uploads.id IS 'UUIDv7; shown as upl_…';
COMMENT ON COLUMN uploads.tenant_id IS 'Whose it is';
COMMENT ON COLUMN uploads.name IS 'What its owner calls it';
COMMENT ON COLUMN uploads.object_key IS 'Where it is stored; no key is ever written twice';
COMMENT ON COLUMN uploads.sha256 IS 'SHA-256 of the bytes as they are kept';
COMMENT ON COLUMN uploads.bytes IS 'Size, as it is kept';
COMMENT ON COLUMN uploads.media_type IS 'Media type';
COMMENT ON COLUMN uploads.width IS 'Pixels';
COMMENT ON COLUMN uploads.height IS 'Pixels';
COMMENT ON COLUMN uploads.created_at IS 'When it was kept';
COMMENT ON COLUMN uploads.deleted_at IS 'When its owner wanted it gone; from then on no job may name it';

ALTER TABLE uploads ENABLE ROW LEVEL SECURITY;
ALTER TABLE uploads FORCE ROW LEVEL SECURITY;
CREATE POLICY own_tenant_api ON uploads FOR ALL TO platen_api USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant());
CREATE POLICY own_tenant_worker ON uploads FOR SELECT TO platen_worker USING (tenant_id = current_tenant());
CREATE POLICY read_all ON uploads FOR SELECT TO platen_reader USING (true);
GRANT SELECT, INSERT ON uploads TO platen_api;
GRANT UPDATE (deleted_at) ON uploads TO platen_api;
GRANT SELECT ON uploads TO platen_worker, platen_reader;

-- What is deleted hangs on a job, or is an upload.
ALTER TABLE deletions ALTER COLUMN job_id DROP NOT NULL;
ALTER TABLE deletions ADD COLUMN upload_id uuid REFERENCES uploads;
ALTER TABLE deletions DROP CONSTRAINT deletions_class_check;
ALTER TABLE deletions ADD CONSTRAINT deletions_class_check CHECK (class IN ('input', 'original', 'rendition', 'thumbnail', 'upload'));
ALTER TABLE deletions ADD CONSTRAINT of_a_job_or_an_upload CHECK ((class = 'upload') = (upload_id IS NOT NULL) AND (upload_id IS NULL) = (job_id IS NOT NULL));
COMMENT ON COLUMN deletions.job_id IS 'The job it was sent along with, or made by; null for an upload';
COMMENT ON COLUMN deletions.upload_id IS 'The upload it is';

CREATE OR REPLACE FUNCTION receipts_stand() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' OR OLD.deleted_at IS NOT NULL OR
     (NEW.tenant_id, NEW.job_id, NEW.upload_id, NEW.class, NEW.object_key, NEW.sha256, NEW.bytes) IS DISTINCT FROM
     (OLD.tenant_id, OLD.job_id, OLD.upload_id, OLD.class, OLD.object_key, OLD.sha256, OLD.bytes) THEN
    RAISE EXCEPTION 'deletion % is a receipt, or is to be one', OLD.id;
  END IF;
  RETURN NEW;
END $$;
