-- What operators do: what they paused, and a record of everything they did.

CREATE TABLE operator_actions (
  id      bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  at      timestamptz NOT NULL DEFAULT clock_timestamp(),
  by      text  NOT NULL CHECK (length(by) BETWEEN 1 AND 200),
  action  text  NOT NULL CHECK (length(action) BETWEEN 1 AND 50),
  reason  text  NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
  subject jsonb NOT NULL
);
COMMENT ON TABLE  operator_actions IS 'Everything operators did; append-only';
COMMENT ON COLUMN operator_actions.id IS 'Order';
COMMENT ON COLUMN operator_actions.at IS 'When';
COMMENT ON COLUMN operator_actions.by IS 'Who: api, or the login that ran the program';
COMMENT ON COLUMN operator_actions.action IS 'What, in a word';
COMMENT ON COLUMN operator_actions.reason IS 'Why, in words';
COMMENT ON COLUMN operator_actions.subject IS 'To whom, and what came of it';
CREATE TRIGGER operator_actions_are_never_rewritten BEFORE UPDATE OR DELETE ON operator_actions FOR EACH ROW EXECUTE FUNCTION append_only();

CREATE TABLE pauses (
  id        bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  model     text,
  tenant_id uuid REFERENCES wallets,
  worker    text,
  reason    text NOT NULL CHECK (length(reason) BETWEEN 1 AND 500),
  paused_at timestamptz NOT NULL DEFAULT clock_timestamp(),
  lifted_at timestamptz
);
CREATE INDEX pauses_that_stand ON pauses (id) WHERE lifted_at IS NULL;
COMMENT ON TABLE  pauses IS 'Jobs that are accepted and not started: all that fit every column that says something';
COMMENT ON COLUMN pauses.id IS 'For whoever lifts it';
COMMENT ON COLUMN pauses.model IS 'Of this model; null: of any';
COMMENT ON COLUMN pauses.tenant_id IS 'Of this tenant; null: of any';
COMMENT ON COLUMN pauses.worker IS 'By this worker: it is drained; null: by any';
COMMENT ON COLUMN pauses.reason IS 'Why, in words';
COMMENT ON COLUMN pauses.paused_at IS 'Since when';
COMMENT ON COLUMN pauses.lifted_at IS 'Since when no longer';

ALTER TABLE jobs ADD COLUMN redrive_of uuid CONSTRAINT redriven_once UNIQUE REFERENCES jobs;
COMMENT ON COLUMN jobs.redrive_of IS 'The job that failed, which this one does once more';

DO $$
DECLARE t text;
BEGIN
  FOREACH t IN ARRAY ARRAY['operator_actions', 'pauses'] LOOP
    EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', t);
    EXECUTE format('ALTER TABLE %I FORCE ROW LEVEL SECURITY', t);
    -- They are no tenant's; who may is decided by the api, in one place.
    EXECUTE format('CREATE POLICY operators_api ON %I FOR ALL TO platen_api USING (true) WITH CHECK (true)', t);
    EXECUTE format('CREATE POLICY read_all ON %I FOR SELECT TO platen_reader USING (true)', t);
  END LOOP;
END $$;
CREATE POLICY every_pause ON pauses FOR SELECT TO platen_worker USING (true);
GRANT SELECT ON operator_actions, pauses TO platen_reader, platen_api;
GRANT INSERT ON operator_actions, pauses TO platen_api;
GRANT UPDATE (lifted_at) ON pauses TO platen_api;
GRANT SELECT ON pauses TO platen_worker;
