-- A job: what a tenant pays for, ends once, and carries its own settlement as constraints.

CREATE TABLE jobs (
  id            uuid PRIMARY KEY,
  tenant_id     uuid NOT NULL REFERENCES wallets,
  kind          text NOT NULL CHECK (kind IN ('image')),
  model         text NOT NULL CHECK (length(model) BETWEEN 1 AND 100),
  name          text CHECK (length(name) <= 200),
  metadata      jsonb NOT NULL DEFAULT '{}',
  request_id    text NOT NULL CHECK (length(request_id) BETWEEN 1 AND 64),

  state         text NOT NULL DEFAULT 'queued'
                CHECK (state IN ('queued', 'running', 'succeeded', 'partial', 'failed', 'canceled', 'expired')),
  outcome       text,
  reason        text CHECK (length(reason) <= 2000),
  fence         integer NOT NULL DEFAULT 0 CHECK (fence >= 0),
  lease_until   timestamptz,
  worker        text,
  crash_count   integer NOT NULL DEFAULT 0 CHECK (crash_count >= 0),
  calls_started integer NOT NULL DEFAULT 0 CHECK (calls_started >= 0),
  max_calls     integer NOT NULL CHECK (max_calls > 0),

  priority      smallint NOT NULL DEFAULT 0 CHECK (priority BETWEEN -10 AND 10),
  turn          bigint NOT NULL,
  run_after     timestamptz NOT NULL,
  deadline      timestamptz NOT NULL,

  price_version text NOT NULL,
  unit_price    bigint NOT NULL CHECK (unit_price >= 0),
  n_requested   integer NOT NULL CHECK (n_requested BETWEEN 1 AND 16),
  n_delivered   integer NOT NULL DEFAULT 0,
  hold_amount   bigint NOT NULL,
  captured      bigint NOT NULL DEFAULT 0 CHECK (captured >= 0),
  released      bigint NOT NULL DEFAULT 0 CHECK (released >= 0),
  refunded      bigint NOT NULL DEFAULT 0 CHECK (refunded >= 0),

  created_at    timestamptz NOT NULL,
  started_at    timestamptz,
  finished_at   timestamptz,

  CONSTRAINT hold_is_price_times_requested CHECK (hold_amount = unit_price * n_requested),
  CONSTRAINT delivered_within_requested CHECK (n_delivered BETWEEN 0 AND n_requested),
  CONSTRAINT charged_is_delivered CHECK (captured = unit_price * n_delivered),
  CONSTRAINT refund_follows_capture CHECK (refunded <= captured),
  CONSTRAINT calls_are_bounded CHECK (calls_started <= max_calls),
  CONSTRAINT finished_when_terminal CHECK ((state IN ('queued', 'running')) = (finished_at IS NULL)),
  CONSTRAINT leased_while_running CHECK ((state = 'running') = (lease_until IS NOT NULL)),
  CONSTRAINT terminal_has_an_outcome CHECK (state IN ('queued', 'running') OR outcome IS NOT NULL),
  CONSTRAINT one_full_settlement CHECK (
    CASE WHEN state IN ('queued', 'running') THEN captured = 0 AND released = 0
         ELSE captured + released = hold_amount END),
  CONSTRAINT state_tells_delivery CHECK (
    CASE state WHEN 'succeeded' THEN n_delivered = n_requested
               WHEN 'partial'   THEN n_delivered > 0 AND n_delivered < n_requested
               ELSE n_delivered = 0 END)
);
CREATE INDEX jobs_of_tenant ON jobs (tenant_id, id);
CREATE INDEX jobs_by_turn   ON jobs (turn, id) WHERE state = 'queued';
CREATE INDEX jobs_by_lease  ON jobs (lease_until) WHERE state = 'running';
CREATE INDEX jobs_by_deadline ON jobs (deadline) WHERE state IN ('queued', 'running');
COMMENT ON TABLE  jobs IS 'One request a tenant pays for; begins in admission, ends once in settlement';
COMMENT ON COLUMN jobs.id IS 'UUIDv7; shown as job_…';
COMMENT ON COLUMN jobs.tenant_id IS 'Who pays';
COMMENT ON COLUMN jobs.kind IS 'What is made; decides the shape of job_requests.generation';
COMMENT ON COLUMN jobs.model IS 'Name in the catalogue';
COMMENT ON COLUMN jobs.name IS 'What the tenant calls it';
COMMENT ON COLUMN jobs.metadata IS 'The tenant''s own strings, given back as they came';
COMMENT ON COLUMN jobs.request_id IS 'Id of the HTTP request that submitted it; joins the logs of api and worker';
COMMENT ON COLUMN jobs.state IS 'See the state diagram in common/src/job.rs';
COMMENT ON COLUMN jobs.outcome IS 'Class of the newest outcome (docs/outcomes.md); final once the job has ended';
COMMENT ON COLUMN jobs.reason IS 'The outcome in plain words, for the tenant';
COMMENT ON COLUMN jobs.fence IS 'Number of the newest attempt; every write of a worker names it; has no upper bound';
COMMENT ON COLUMN jobs.lease_until IS 'Until when the attempt may work, on the database''s clock';
COMMENT ON COLUMN jobs.worker IS 'Which worker holds the lease, or held it last';
COMMENT ON COLUMN jobs.crash_count IS 'How many leases ran out';
COMMENT ON COLUMN jobs.calls_started IS 'Paid calls begun; a throttled or unsent call gives its count back';
COMMENT ON COLUMN jobs.max_calls IS 'Paid calls allowed in all';
COMMENT ON COLUMN jobs.priority IS 'Moves the turn within the tenant''s own queue: each step is ten seconds, never before its own time';
COMMENT ON COLUMN jobs.turn IS 'Place in the fair queue, microseconds of the tenant''s virtual clock; lower goes first';
COMMENT ON COLUMN jobs.run_after IS 'Not rung and not claimed before';
COMMENT ON COLUMN jobs.deadline IS 'From when on the job is expired and its hold released';
COMMENT ON COLUMN jobs.price_version IS 'Which price of the catalogue was quoted';
COMMENT ON COLUMN jobs.unit_price IS 'Credits for one delivered output, frozen at admission';
COMMENT ON COLUMN jobs.n_requested IS 'Outputs asked for';
COMMENT ON COLUMN jobs.n_delivered IS 'Outputs delivered';
COMMENT ON COLUMN jobs.hold_amount IS 'Credits held at admission';
COMMENT ON COLUMN jobs.captured IS 'Credits charged at settlement';
COMMENT ON COLUMN jobs.released IS 'Credits given back at settlement';
COMMENT ON COLUMN jobs.refunded IS 'Credits given back after settlement';
COMMENT ON COLUMN jobs.created_at IS 'When it was admitted';
COMMENT ON COLUMN jobs.started_at IS 'When it was first claimed';
COMMENT ON COLUMN jobs.finished_at IS 'When it was settled';

CREATE TABLE job_requests (
  job_id     uuid PRIMARY KEY REFERENCES jobs,
  tenant_id  uuid NOT NULL REFERENCES wallets,
  generation jsonb NOT NULL
);
COMMENT ON TABLE  job_requests IS 'What was asked for; apart from jobs because it is personal and may be erased first';
COMMENT ON COLUMN job_requests.job_id IS 'The job it belongs to';
COMMENT ON COLUMN job_requests.tenant_id IS 'Whose it is';
COMMENT ON COLUMN job_requests.generation IS 'Prompt, settings and inputs by object key; shape by kind in common/src/generation/';

CREATE TABLE job_lots (
  job_id    uuid NOT NULL REFERENCES jobs,
  grant_id  uuid NOT NULL REFERENCES grants,
  tenant_id uuid NOT NULL REFERENCES wallets,
  ord       integer NOT NULL CHECK (ord > 0),
  amount    bigint NOT NULL CHECK (amount > 0),
  PRIMARY KEY (job_id, grant_id),
  UNIQUE (job_id, ord)
);
CREATE INDEX job_lots_grant ON job_lots (grant_id);
COMMENT ON TABLE  job_lots IS 'Which lots a hold took from: capture consumes them in order, release gives back to the same';
COMMENT ON COLUMN job_lots.job_id IS 'The job that holds';
COMMENT ON COLUMN job_lots.grant_id IS 'The lot held from';
COMMENT ON COLUMN job_lots.tenant_id IS 'Whose they are';
COMMENT ON COLUMN job_lots.ord IS 'Burn-down order, from 1';
COMMENT ON COLUMN job_lots.amount IS 'Credits taken from this lot';

CREATE TABLE calls (
  id          uuid PRIMARY KEY,
  tenant_id   uuid NOT NULL REFERENCES wallets,
  job_id      uuid NOT NULL REFERENCES jobs,
  fence       integer NOT NULL CHECK (fence > 0),
  output_idx  integer NOT NULL CHECK (output_idx >= 0),
  provider    text NOT NULL,
  model       text NOT NULL,
  started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
  ended_at    timestamptz,
  outcome     text,
  detail      text CHECK (length(detail) <= 4000),
  counted     boolean NOT NULL DEFAULT true,
  provider_request_id text CHECK (length(provider_request_id) <= 500),
  operation   text CHECK (length(operation) <= 1000),
  usage       jsonb,
  cost_micros bigint CHECK (cost_micros >= 0),
  object_key  text UNIQUE,
  sha256      bytea CHECK (length(sha256) = 32),
  bytes       bigint CHECK (bytes > 0),
  media_type  text,
  width       integer CHECK (width > 0),
  height      integer CHECK (height > 0),
  CONSTRAINT ended_calls_have_outcomes CHECK ((ended_at IS NULL) = (outcome IS NULL)),
  CONSTRAINT originals_are_whole CHECK (num_nonnulls(object_key, sha256, bytes, media_type, width, height) IN (0, 6))
);
CREATE INDEX calls_of_job ON calls (job_id, output_idx);
COMMENT ON TABLE  calls IS 'The journal of paid calls: written before the call, ended after it';
COMMENT ON COLUMN calls.id IS 'UUIDv7; shown as cal_…; its original''s object key is made from it';
COMMENT ON COLUMN calls.tenant_id IS 'Whose job';
COMMENT ON COLUMN calls.job_id IS 'The job it was made for';
COMMENT ON COLUMN calls.fence IS 'The attempt that made it';
COMMENT ON COLUMN calls.output_idx IS 'Which output, from 0';
COMMENT ON COLUMN calls.provider IS 'Who was called';
COMMENT ON COLUMN calls.model IS 'The model by the provider''s name for it';
COMMENT ON COLUMN calls.started_at IS 'Just before the request was sent';
COMMENT ON COLUMN calls.ended_at IS 'When its outcome was known; null is unknown: possibly billed';
COMMENT ON COLUMN calls.outcome IS 'Class of the outcome (docs/outcomes.md)';
COMMENT ON COLUMN calls.detail IS 'What the provider said, for the operator';
COMMENT ON COLUMN calls.counted IS 'Whether it counts against max_calls';
COMMENT ON COLUMN calls.provider_request_id IS 'The provider''s id for this answer';
COMMENT ON COLUMN calls.operation IS 'The provider''s handle for long work, stored before it is polled';
COMMENT ON COLUMN calls.usage IS 'What the provider metered';
COMMENT ON COLUMN calls.cost_micros IS 'What it cost us, in millionths of a US dollar';
COMMENT ON COLUMN calls.object_key IS 'Where the original is stored, write-once';
COMMENT ON COLUMN calls.sha256 IS 'SHA-256 of the original';
COMMENT ON COLUMN calls.bytes IS 'Size of the original';
COMMENT ON COLUMN calls.media_type IS 'Media type of the original';
COMMENT ON COLUMN calls.width IS 'Pixels';
COMMENT ON COLUMN calls.height IS 'Pixels';

CREATE TABLE artifacts (
  id         uuid PRIMARY KEY,
  tenant_id  uuid NOT NULL REFERENCES wallets,
  job_id     uuid NOT NULL REFERENCES jobs,
  output_idx integer NOT NULL CHECK (output_idx >= 0),
  role       text NOT NULL CHECK (role IN ('original', 'rendition', 'thumbnail')),
  fence      integer NOT NULL CHECK (fence > 0),
  object_key text NOT NULL UNIQUE,
  sha256     bytea NOT NULL CHECK (length(sha256) = 32),
  bytes      bigint NOT NULL CHECK (bytes > 0),
  media_type text NOT NULL,
  width      integer NOT NULL CHECK (width > 0),
  height     integer NOT NULL CHECK (height > 0),
  synthetic  boolean NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL DEFAULT now(),
  deleted_at timestamptz,
  CONSTRAINT one_artifact_per_output_and_role UNIQUE (job_id, output_idx, role)
);
COMMENT ON TABLE  artifacts IS 'Files we made and keep; named only after the object is written';
COMMENT ON COLUMN artifacts.id IS 'UUIDv7; shown as art_…';
COMMENT ON COLUMN artifacts.tenant_id IS 'Whose it is';
COMMENT ON COLUMN artifacts.job_id IS 'The job that made it';
COMMENT ON COLUMN artifacts.output_idx IS 'Which output, from 0';
COMMENT ON COLUMN artifacts.role IS 'The original as the model gave it, or what we made of it';
COMMENT ON COLUMN artifacts.fence IS 'The attempt that stored it';
COMMENT ON COLUMN artifacts.object_key IS 'Where it is stored; no key is ever written twice';
COMMENT ON COLUMN artifacts.sha256 IS 'SHA-256 of the bytes';
COMMENT ON COLUMN artifacts.bytes IS 'Size';
COMMENT ON COLUMN artifacts.media_type IS 'Media type';
COMMENT ON COLUMN artifacts.width IS 'Pixels';
COMMENT ON COLUMN artifacts.height IS 'Pixels';
COMMENT ON COLUMN artifacts.synthetic IS 'Made by a fake: no AI model was called';
COMMENT ON COLUMN artifacts.created_at IS 'When it was named';
COMMENT ON COLUMN artifacts.deleted_at IS 'From when on the object is gone';

-- What no code path may do to a job, whichever code it is.
CREATE FUNCTION job_guard() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF OLD.state NOT IN ('queued', 'running') AND
     (NEW.state, NEW.outcome, NEW.captured, NEW.released, NEW.n_delivered, NEW.fence, NEW.finished_at) IS DISTINCT FROM
     (OLD.state, OLD.outcome, OLD.captured, OLD.released, OLD.n_delivered, OLD.fence, OLD.finished_at) THEN
    RAISE EXCEPTION 'job % has ended as % and cannot change', OLD.id, OLD.state;
  END IF;
  IF (NEW.id, NEW.tenant_id, NEW.kind, NEW.model, NEW.price_version, NEW.unit_price, NEW.n_requested, NEW.hold_amount, NEW.created_at) IS DISTINCT FROM
     (OLD.id, OLD.tenant_id, OLD.kind, OLD.model, OLD.price_version, OLD.unit_price, OLD.n_requested, OLD.hold_amount, OLD.created_at) THEN
    RAISE EXCEPTION 'what job % was quoted cannot change', OLD.id;
  END IF;
  IF NEW.fence < OLD.fence THEN
    RAISE EXCEPTION 'the fence of job % cannot go back', OLD.id;
  END IF;
  IF OLD.state = 'queued' AND NEW.state = 'running' AND NEW.fence <> OLD.fence + 1 THEN
    RAISE EXCEPTION 'claiming job % must raise its fence by one', OLD.id;
  END IF;
  IF OLD.state = 'queued' AND NEW.state IN ('succeeded', 'partial') THEN
    RAISE EXCEPTION 'job % cannot succeed without having run', OLD.id;
  END IF;
  RETURN NEW;
END $$;
CREATE TRIGGER job_guard BEFORE UPDATE ON jobs FOR EACH ROW EXECUTE FUNCTION job_guard();
