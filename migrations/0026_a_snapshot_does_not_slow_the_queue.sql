-- Renewals write no index, and what the queue reads does not grow with the row versions that a long snapshot keeps.
--
-- A transaction that stays open, such as a dump, keeps every row version that was replaced since it began. They stay in the indexes, and
-- a search that begins at the front of the queue would read all of them again and again. So searches begin at a mark that the process
-- remembers, and what comes before the mark is found by the time at which it became due.
--
-- Each index is built from one look at the table of jobs; of a million jobs this takes a few seconds each, in which none is admitted or
-- settled. Programs of the version before use the indexes that remain.

-- Leases. `lease_until` is in no index now, so a renewal changes the row in its place (HOT), for which each page keeps some room.
ALTER TABLE jobs ADD COLUMN claimed_at timestamptz;
COMMENT ON COLUMN jobs.claimed_at IS 'When it was claimed last; null if it never was, or by a program that is older than the column';
CREATE INDEX jobs_running ON jobs (coalesce(claimed_at, '-infinity')) WHERE state = 'running';
DROP INDEX jobs_by_lease;
ALTER TABLE jobs SET (fillfactor = 80);

-- Jobs that became due lately, whatever their place in the queue.
CREATE INDEX jobs_by_due ON jobs (model, run_after, turn) WHERE state = 'queued';

-- A tenant's own queue: how many jobs are ahead of one. Instead of the queue of all tenants, which nothing reads any more.
CREATE INDEX jobs_of_tenant_by_turn ON jobs (tenant_id, turn, id) WHERE state = 'queued';
DROP INDEX jobs_by_turn;

-- Few jobs are redriven, and the others need no entry in this index.
CREATE UNIQUE INDEX jobs_are_redriven_once ON jobs (redrive_of) WHERE redrive_of IS NOT NULL;
ALTER TABLE jobs DROP CONSTRAINT redriven_once;
