-- How long files are kept, what is due to be deleted, and the receipts of what was.

CREATE TABLE retention (
  tenant_id  uuid PRIMARY KEY REFERENCES wallets,
  inputs     bigint CHECK (inputs BETWEEN 0 AND 315360000),
  originals  bigint CHECK (originals BETWEEN 0 AND 315360000),
  renditions bigint CHECK (renditions BETWEEN 0 AND 315360000)
);
COMMENT ON TABLE  retention IS 'What a tenant wants kept, by class; a tenant without a row keeps everything for its account''s lifetime';
COMMENT ON COLUMN retention.tenant_id IS 'Whose files';
COMMENT ON COLUMN retention.inputs IS 'Pictures sent along: seconds after their job''s end; null is the account''s lifetime';
COMMENT ON COLUMN retention.originals IS 'Pictures as the model gave them: seconds after their job''s end; null is the account''s lifetime';
COMMENT ON COLUMN retention.renditions IS 'What was made of them, thumbnails too: seconds after their job''s end; null is the account''s lifetime';

CREATE TABLE deletions (
  id         bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id  uuid   NOT NULL REFERENCES wallets,
  job_id     uuid   NOT NULL REFERENCES jobs,
  class      text   NOT NULL CHECK (class IN ('input', 'original', 'rendition', 'thumbnail')),
  object_key text   NOT NULL UNIQUE,
  sha256     bytea  NOT NULL CHECK (length(sha256) = 32),
  bytes      bigint NOT NULL CHECK (bytes >= 0),
  due_at     timestamptz NOT NULL,
  tried_at   timestamptz,
  deleted_at timestamptz
);
CREATE INDEX deletions_due ON deletions (due_at) WHERE deleted_at IS NULL;
CREATE INDEX deletions_of_job ON deletions (job_id);
CREATE INDEX deletions_of_tenant ON deletions (tenant_id, id) WHERE deleted_at IS NOT NULL;
COMMENT ON TABLE  deletions IS 'Files that are to be deleted; one that was is a receipt, and stays';
COMMENT ON COLUMN deletions.id IS 'Order in which they were planned';
COMMENT ON COLUMN deletions.tenant_id IS 'Whose file';
COMMENT ON COLUMN deletions.job_id IS 'The job it was sent along with, or made by';
COMMENT ON COLUMN deletions.class IS 'What it is to its job';
COMMENT ON COLUMN deletions.object_key IS 'Where it was stored; no key is ever written twice';
COMMENT ON COLUMN deletions.sha256 IS 'SHA-256 of what was deleted';
COMMENT ON COLUMN deletions.bytes IS 'Size of what was deleted';
COMMENT ON COLUMN deletions.due_at IS 'From when on it is to be gone';
COMMENT ON COLUMN deletions.tried_at IS 'When a worker took it last; after a while another may';
COMMENT ON COLUMN deletions.deleted_at IS 'When the bucket said that it is gone';

CREATE TABLE holds (
  id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  tenant_id uuid NOT NULL REFERENCES wallets,
  job_id    uuid NOT NULL REFERENCES jobs,
  purpose   text NOT NULL CHECK (purpose IN ('delivery', 'analytics', 'support')),
  reason    text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
  placed_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  until     timestamptz NOT NULL,
  lifted_at timestamptz
);
CREATE INDEX holds_of_job ON holds (job_id) WHERE lifted_at IS NULL;
COMMENT ON TABLE  holds IS 'What keeps a job''s files though they are due: for a purpose, with a reason, and not for ever';
COMMENT ON COLUMN holds.id IS 'For whoever lifts it';
COMMENT ON COLUMN holds.tenant_id IS 'Whose job';
COMMENT ON COLUMN holds.job_id IS 'Whose files are kept';
COMMENT ON COLUMN holds.purpose IS 'What they are needed for';
COMMENT ON COLUMN holds.reason IS 'Why, in words';
COMMENT ON COLUMN holds.placed_at IS 'Since when';
COMMENT ON COLUMN holds.until IS 'When it ends by itself';
COMMENT ON COLUMN holds.lifted_at IS 'When somebody ended it before';

-- A receipt says what was deleted and when; nobody changes that afterwards.
CREATE FUNCTION receipts_stand() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'DELETE' OR OLD.deleted_at IS NOT NULL OR
     (NEW.tenant_id, NEW.job_id, NEW.class, NEW.object_key, NEW.sha256, NEW.bytes) IS DISTINCT FROM
     (OLD.tenant_id, OLD.job_id, OLD.class, OLD.object_key, OLD.sha256, OLD.bytes) THEN
    RAISE EXCEPTION 'deletion % is a receipt, or is to be one', OLD.id;
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER receipts_stand BEFORE UPDATE OR DELETE ON deletions FOR EACH ROW EXECUTE FUNCTION receipts_stand();

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['retention', 'deletions', 'holds'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    EXECUTE format('CREATE POLICY own_tenant_api ON %I FOR ALL TO platen_api USING (tenant_id = current_tenant()) WITH CHECK (tenant_id = current_tenant())', t);
    EXECUTE format('CREATE POLICY read_all ON %I FOR SELECT TO platen_reader USING (true)', t);
  END LOOP;
END $$;
CREATE POLICY own_tenant_worker ON retention FOR SELECT TO platen_worker USING (tenant_id = current_tenant());
-- Workers delete over all tenants, as they claim and reap.
CREATE POLICY every_deletion ON deletions FOR ALL TO platen_worker USING (true) WITH CHECK (true);
CREATE POLICY every_hold ON holds FOR SELECT TO platen_worker USING (true);

GRANT SELECT ON retention, deletions, holds TO platen_reader;
GRANT SELECT, INSERT, UPDATE ON retention TO platen_api;
GRANT SELECT, INSERT ON deletions TO platen_api, platen_worker;
GRANT UPDATE (due_at) ON deletions TO platen_api;
GRANT UPDATE (due_at, tried_at, deleted_at) ON deletions TO platen_worker;
GRANT SELECT, INSERT ON holds TO platen_api;
GRANT UPDATE (lifted_at) ON holds TO platen_api;
GRANT SELECT ON retention, holds TO platen_worker;
GRANT UPDATE (deleted_at) ON artifacts TO platen_worker;
