-- What billing metrics read: totals, and the lines that are not folded into them yet.
--
-- Whatever transaction admits or ends a job, refunds it, or ends a call adds a line of its own, so none waits for another.
-- Every few seconds lines are folded: deleted and added to the totals, in one transaction. Totals and lines that are read in one
-- snapshot are therefore exact at every moment, in whatever order transactions commit, and nothing depends on an id.

CREATE TABLE billing_totals (
  subject     text   NOT NULL CHECK (subject IN ('job', 'call')),
  provider    text   NOT NULL DEFAULT '',
  model       text   NOT NULL,
  state       text   NOT NULL DEFAULT '',
  outcome     text   NOT NULL DEFAULT '',
  n           bigint NOT NULL,
  held        bigint NOT NULL DEFAULT 0,
  captured    bigint NOT NULL DEFAULT 0,
  released    bigint NOT NULL DEFAULT 0,
  refunded    bigint NOT NULL DEFAULT 0,
  cost_micros bigint NOT NULL DEFAULT 0,
  PRIMARY KEY (subject, provider, model, state, outcome)
);
COMMENT ON TABLE  billing_totals IS 'Sums over all jobs and all ended calls, of what has been folded; no tenant''s, and none can be read from it';
COMMENT ON COLUMN billing_totals.subject IS 'What is summed up: jobs, or calls';
COMMENT ON COLUMN billing_totals.provider IS 'Of calls: who was called';
COMMENT ON COLUMN billing_totals.model IS 'Of jobs the name in the catalogue, of calls the provider''s';
COMMENT ON COLUMN billing_totals.state IS 'Of jobs: how they ended; admitted counts every job once, ended or not';
COMMENT ON COLUMN billing_totals.outcome IS 'How they ended, by class';
COMMENT ON COLUMN billing_totals.n IS 'How many';
COMMENT ON COLUMN billing_totals.held IS 'Credits held: added at admission, taken away at the end';
COMMENT ON COLUMN billing_totals.captured IS 'Credits charged';
COMMENT ON COLUMN billing_totals.released IS 'Credits given back at settlement';
COMMENT ON COLUMN billing_totals.refunded IS 'Credits given back after settlement';
COMMENT ON COLUMN billing_totals.cost_micros IS 'What calls cost us, in millionths of a US dollar';

CREATE TABLE billing_lines (
  id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  subject     text   NOT NULL,
  provider    text   NOT NULL DEFAULT '',
  model       text   NOT NULL,
  state       text   NOT NULL DEFAULT '',
  outcome     text   NOT NULL DEFAULT '',
  n           bigint NOT NULL,
  held        bigint NOT NULL DEFAULT 0,
  captured    bigint NOT NULL DEFAULT 0,
  released    bigint NOT NULL DEFAULT 0,
  refunded    bigint NOT NULL DEFAULT 0,
  cost_micros bigint NOT NULL DEFAULT 0
);
COMMENT ON TABLE  billing_lines IS 'What single transactions add to billing_totals, until it is folded';
COMMENT ON COLUMN billing_lines.id IS 'For whoever folds: which lines; says nothing about their order';
COMMENT ON COLUMN billing_lines.subject IS 'As in billing_totals';
COMMENT ON COLUMN billing_lines.provider IS 'As in billing_totals';
COMMENT ON COLUMN billing_lines.model IS 'As in billing_totals';
COMMENT ON COLUMN billing_lines.state IS 'As in billing_totals';
COMMENT ON COLUMN billing_lines.outcome IS 'As in billing_totals';
COMMENT ON COLUMN billing_lines.n IS 'As in billing_totals';
COMMENT ON COLUMN billing_lines.held IS 'As in billing_totals';
COMMENT ON COLUMN billing_lines.captured IS 'As in billing_totals';
COMMENT ON COLUMN billing_lines.released IS 'As in billing_totals';
COMMENT ON COLUMN billing_lines.refunded IS 'As in billing_totals';
COMMENT ON COLUMN billing_lines.cost_micros IS 'As in billing_totals';

CREATE VIEW billing WITH (security_invoker) AS
  SELECT subject, provider, model, state, outcome, n, held, captured, released, refunded, cost_micros FROM billing_totals
  UNION ALL
  SELECT subject, provider, model, state, outcome, n, held, captured, released, refunded, cost_micros FROM billing_lines;
COMMENT ON VIEW billing IS 'All that is billed: totals, and what is not folded into them yet';

-- Triggers, so that no code path forgets: what the rows say and what is billed cannot come apart.
CREATE FUNCTION bill_job() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'INSERT' THEN
    INSERT INTO billing_lines (subject, model, state, n, held) VALUES ('job', NEW.model, 'admitted', 1, NEW.hold_amount);
  ELSIF OLD.finished_at IS NULL THEN
    INSERT INTO billing_lines (subject, model, state, outcome, n, held, captured, released, refunded)
    VALUES ('job', NEW.model, NEW.state, NEW.outcome, 1, -NEW.hold_amount, NEW.captured, NEW.released, NEW.refunded);
  ELSE
    INSERT INTO billing_lines (subject, model, state, outcome, n, refunded)
    VALUES ('job', NEW.model, NEW.state, NEW.outcome, 0, NEW.refunded - OLD.refunded);
  END IF;
  RETURN NULL;
END $$;
CREATE TRIGGER jobs_are_billed_at_admission AFTER INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION bill_job();
CREATE TRIGGER jobs_are_billed_at_their_end AFTER UPDATE ON jobs FOR EACH ROW
  WHEN (OLD.finished_at IS NULL AND NEW.finished_at IS NOT NULL OR OLD.refunded <> NEW.refunded) EXECUTE FUNCTION bill_job();

-- A call that was given up for lost may yet be found to have made its picture: then it is taken back and told anew.
CREATE FUNCTION bill_call() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
  IF TG_OP = 'UPDATE' AND OLD.ended_at IS NOT NULL THEN
    INSERT INTO billing_lines (subject, provider, model, outcome, n, cost_micros)
    VALUES ('call', OLD.provider, OLD.model, OLD.outcome, -1, -coalesce(OLD.cost_micros, 0));
  END IF;
  INSERT INTO billing_lines (subject, provider, model, outcome, n, cost_micros)
  VALUES ('call', NEW.provider, NEW.model, NEW.outcome, 1, coalesce(NEW.cost_micros, 0));
  RETURN NULL;
END $$;
CREATE TRIGGER calls_may_begin_ended AFTER INSERT ON calls FOR EACH ROW WHEN (NEW.ended_at IS NOT NULL) EXECUTE FUNCTION bill_call();
CREATE TRIGGER calls_are_billed_at_their_end AFTER UPDATE ON calls FOR EACH ROW
  WHEN (NEW.ended_at IS NOT NULL AND (OLD.ended_at IS NULL OR (OLD.outcome, OLD.cost_micros) IS DISTINCT FROM (NEW.outcome, NEW.cost_micros)))
  EXECUTE FUNCTION bill_call();

-- What has happened so far. The owner is bound by the policies, too.
ALTER TABLE calls NO FORCE ROW LEVEL SECURITY;
ALTER TABLE jobs NO FORCE ROW LEVEL SECURITY;
INSERT INTO billing_totals (subject, model, state, n, held)
  SELECT 'job', model, 'admitted', count(*), sum(hold_amount) FROM jobs GROUP BY model;
INSERT INTO billing_totals (subject, model, state, outcome, n, held, captured, released, refunded)
  SELECT 'job', model, state, outcome, count(*), -sum(hold_amount), sum(captured), sum(released), sum(refunded)
  FROM jobs WHERE finished_at IS NOT NULL GROUP BY model, state, outcome;
INSERT INTO billing_totals (subject, provider, model, outcome, n, cost_micros)
  SELECT 'call', provider, model, outcome, count(*), coalesce(sum(cost_micros), 0)
  FROM calls WHERE ended_at IS NOT NULL GROUP BY provider, model, outcome;
ALTER TABLE calls FORCE ROW LEVEL SECURITY;
ALTER TABLE jobs FORCE ROW LEVEL SECURITY;

-- They are no tenant's, but every table has its policies.
ALTER TABLE billing_totals ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_totals FORCE ROW LEVEL SECURITY;
ALTER TABLE billing_lines ENABLE ROW LEVEL SECURITY;
ALTER TABLE billing_lines FORCE ROW LEVEL SECURITY;
CREATE POLICY worker_folds ON billing_totals FOR ALL TO platen_worker USING (true) WITH CHECK (true);
CREATE POLICY read_all ON billing_totals FOR SELECT TO platen_reader USING (true);
CREATE POLICY worker_folds ON billing_lines FOR ALL TO platen_worker USING (true) WITH CHECK (true);
CREATE POLICY api_adds ON billing_lines FOR INSERT TO platen_api WITH CHECK (true);
CREATE POLICY read_all ON billing_lines FOR SELECT TO platen_reader USING (true);
GRANT SELECT ON billing, billing_totals, billing_lines TO platen_reader;
GRANT SELECT, INSERT, UPDATE ON billing_totals TO platen_worker;
GRANT SELECT, INSERT, DELETE ON billing_lines TO platen_worker;
GRANT INSERT ON billing_lines TO platen_api;

-- The oldest open job of each model, without a look at all of them.
CREATE INDEX jobs_open_longest ON jobs (model, coalesce(started_at, run_after)) WHERE state IN ('queued', 'running');
