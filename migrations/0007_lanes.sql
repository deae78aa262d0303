-- Calls know their lane and may outlive their attempt; jobs know whether they may leave their own lane.

ALTER TABLE jobs
  ADD COLUMN fallback    boolean NOT NULL DEFAULT true,
  ADD COLUMN switched_from text CHECK (length(switched_from) BETWEEN 1 AND 100),
  ADD COLUMN operating   boolean NOT NULL DEFAULT false,
  ADD COLUMN stocked     boolean NOT NULL DEFAULT false;
COMMENT ON COLUMN jobs.fallback IS 'Whether it may be made on another lane than its model''s own';
COMMENT ON COLUMN jobs.switched_from IS 'The model asked for, where that was shut down and its successor was taken instead';
COMMENT ON COLUMN jobs.operating IS 'Whether a provider still works on one of its calls: then it is rung though its lane is closed';
COMMENT ON COLUMN jobs.stocked IS 'Whether one of its pictures is stored: then it is rung before its deadline though its lane is closed';
CREATE INDEX jobs_by_model_and_turn ON jobs (model, turn, id) WHERE state = 'queued';
CREATE INDEX jobs_in_the_making ON jobs (turn, id) WHERE state = 'queued' AND (operating OR stocked);

ALTER TABLE calls
  ADD COLUMN lane   text CHECK (length(lane) BETWEEN 1 AND 300),
  ADD COLUMN reason text CHECK (length(reason) <= 2000);
COMMENT ON COLUMN calls.lane IS 'Provider, project, location and model it was made on';
COMMENT ON COLUMN calls.reason IS 'The outcome in plain words, for the tenant';
COMMENT ON COLUMN calls.cost_micros IS 'What it cost us, in millionths of a US dollar; of an unknown outcome, what it may have cost';
COMMENT ON COLUMN calls.ended_at IS 'When its outcome was known, or its job ended without it';

-- Whoever ends a job ends its calls: the tenant who cancels it, too.
GRANT UPDATE (ended_at, outcome, detail) ON calls TO platen_api;

-- Calls that jobs left open when they ended: nobody will hear of them any more. The owner is bound by the policies, too.
ALTER TABLE calls NO FORCE ROW LEVEL SECURITY;
ALTER TABLE jobs NO FORCE ROW LEVEL SECURITY;
UPDATE calls SET ended_at = jobs.finished_at, outcome = 'unknown', detail = 'its job ended before it was answered'
FROM jobs WHERE jobs.id = calls.job_id AND calls.ended_at IS NULL AND jobs.finished_at IS NOT NULL;
ALTER TABLE calls FORCE ROW LEVEL SECURITY;
ALTER TABLE jobs FORCE ROW LEVEL SECURITY;
