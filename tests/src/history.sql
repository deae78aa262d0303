-- Jobs as if admitted and settled one after the other, the last of them not yet: see `History`, whose fields are the settings `history.…`. Everything
-- is set-based; the superuser fills, with triggers and foreign keys off, and `platen verify` says afterwards whether it is consistent.
SET session_replication_role = replica;
SET synchronous_commit = off;
SET jit = off;
SET work_mem = '256MB';
SET maintenance_work_mem = '512MB';

-- A UUIDv7 whose time is that of the job, so that keys grow as they do in life.
CREATE FUNCTION pg_temp.id(what int, i bigint, k int) RETURNS uuid LANGUAGE sql IMMUTABLE AS $$
  SELECT (lpad(to_hex(1760000000000 + i), 12, '0') || '7' || lpad(to_hex(what), 3, '0') || '8' || lpad(to_hex(k), 3, '0') || lpad(to_hex(i), 12, '0'))::uuid
$$;
-- As people see a job's id: 130 bits in 26 characters, of which the first two are zero.
CREATE FUNCTION pg_temp.shown(id uuid) RETURNS text LANGUAGE sql IMMUTABLE AS $$
  SELECT 'job_' || string_agg(substr('0123456789abcdefghjkmnpqrstvwxyz', 1 + substring(b'00' || ('x' || replace(id::text, '-', ''))::bit(128) FROM 5 * n + 1 FOR 5)::int, 1), '' ORDER BY n)
  FROM generate_series(0, 25) n
$$;
-- The database's own hash, folded over a tenant's transfers.
CREATE AGGREGATE pg_temp.chain(uuid, bigint, text, text, bigint, text, text, timestamptz) (
  sfunc = transfer_hash, stype = bytea, initcond = '\x0000000000000000000000000000000000000000000000000000000000000000');

-- One tenant has a quarter of the jobs, the others share the rest. Each has two lots.
CREATE TEMP TABLE asked AS
SELECT current_setting('history.tenants')::bigint AS tenants, current_setting('history.queued')::bigint AS queued, current_setting('history.running')::bigint AS running,
       current_setting('history.ended')::bigint + current_setting('history.queued')::bigint + current_setting('history.running')::bigint AS jobs;
INSERT INTO tenants (id, name) SELECT pg_temp.id(1, t, 0), 'tenant ' || t FROM asked, generate_series(0, tenants - 1) t;
INSERT INTO wallets (tenant_id) SELECT pg_temp.id(1, t, 0) FROM asked, generate_series(0, tenants - 1) t;

CREATE TEMP TABLE history AS
SELECT i, pg_temp.id(2, i, 0) AS job, pg_temp.id(1, tenant, 0) AS tenant, pg_temp.id(3, tenant, (i % 2)::int) AS lot,
       state, requested, delivered, 6 * requested AS hold, 6 * delivered AS captured,
       1 + (i % 50 = 0)::int AS fence, delivered + (i % 50 = 0)::int + (outcome = 'refused')::int AS calls,
       outcome, at, CASE WHEN state NOT IN ('queued', 'running') THEN at + interval '20 seconds' END AS ended
FROM (SELECT i, CASE WHEN i % 4 = 0 THEN 0 ELSE 1 + i % (tenants - 1) END AS tenant, state, requested, outcome,
             now() - interval '1 minute' - interval '10 milliseconds' * (jobs - i) AS at,
             CASE state WHEN 'succeeded' THEN requested WHEN 'partial' THEN 1 ELSE 0 END AS delivered
      FROM (SELECT i, jobs, tenants, CASE WHEN jobs - i < queued THEN 'queued' WHEN jobs - i < queued + running THEN 'running'
                                 WHEN i % 20 < 15 THEN 'succeeded' WHEN i % 20 = 15 THEN 'partial' WHEN i % 20 = 16 THEN 'canceled'
                                 WHEN i % 20 = 17 THEN 'expired' ELSE 'failed' END AS state
            FROM asked, generate_series(1, jobs) i) s,
      LATERAL (SELECT CASE WHEN state = 'partial' OR i % 10 = 3 THEN 2 ELSE 1 END AS requested,
                      CASE state WHEN 'succeeded' THEN 'ok' WHEN 'partial' THEN 'refused' WHEN 'canceled' THEN 'canceled'
                                 WHEN 'expired' THEN 'expired' WHEN 'failed' THEN 'refused' END AS outcome) o) j;
ANALYZE history;

INSERT INTO jobs (id, tenant_id, kind, model, request_id, state, outcome, reason, fence, lease_until, worker, calls_started, max_calls, turn, run_after, deadline,
                  price_version, unit_price, n_requested, n_delivered, hold_amount, captured, released, created_at, started_at, finished_at)
SELECT job, tenant, 'image', 'gemini-nano-banana-2.1', 'req_' || i, state, outcome, CASE WHEN ended IS NOT NULL THEN 'In plain words.' END,
       CASE state WHEN 'queued' THEN 0 ELSE fence END, CASE WHEN state = 'running' THEN now() + interval '1 hour' END, 'worker',
       CASE WHEN state IN ('queued', 'running') THEN 0 ELSE calls END, 3 * requested + 3, (extract(epoch FROM at) * 1000000)::bigint, at, now() + interval '1 day',
       '2026-11-01', 6, requested, delivered, hold, captured, CASE WHEN ended IS NULL THEN 0 ELSE hold - captured END, at, at, ended
FROM history ORDER BY i;

INSERT INTO job_requests (job_id, tenant_id, generation)
SELECT job, tenant, jsonb_build_object('kind', 'image', 'prompt', 'a glass bottle on wet slate, number ' || i, 'inputs', '[]'::jsonb, 'aspect_ratio', '1:1',
       'size', '1K', 'outputs', requested, 'format', 'png')
FROM history ORDER BY i;

INSERT INTO job_lots (job_id, grant_id, tenant_id, ord, amount) SELECT job, lot, tenant, 1, hold FROM history ORDER BY i;

INSERT INTO calls (id, tenant_id, job_id, fence, output_idx, provider, model, lane, started_at, ended_at, outcome, cost_micros, object_key, sha256, bytes, media_type, width, height)
SELECT call, tenant, job, CASE WHEN n <= delivered THEN fence ELSE 1 END, (n - 1) % requested, 'vertex', 'gemini-3.1-flash-image', 'vertex/global/gemini-3.1-flash-image', at, ended,
       CASE WHEN n <= delivered THEN 'ok' ELSE 'refused' END, 67000,
       key, CASE WHEN n <= delivered THEN sha256(uuid_send(call)) END, CASE WHEN n <= delivered THEN 1500000 END, CASE WHEN n <= delivered THEN 'image/png' END,
       CASE WHEN n <= delivered THEN 1024 END, CASE WHEN n <= delivered THEN 1024 END
FROM history, generate_series(1, calls) n, LATERAL (SELECT pg_temp.id(4, i, n) AS call) c,
     LATERAL (SELECT CASE WHEN n <= delivered THEN 't/' || tenant || '/c/' || call END AS key) k
WHERE ended IS NOT NULL ORDER BY i, n;

INSERT INTO artifacts (id, tenant_id, job_id, output_idx, role, fence, object_key, sha256, bytes, media_type, width, height)
SELECT pg_temp.id(5, i, n * 2 + r), tenant, job, n - 1, CASE r WHEN 0 THEN 'rendition' ELSE 'original' END, fence,
       CASE r WHEN 0 THEN 't/' || tenant || '/j/' || job || '/' || fence || '/' || n - 1 || '.png' ELSE 't/' || tenant || '/c/' || call END,
       CASE r WHEN 0 THEN sha256(uuid_send(job)) ELSE sha256(uuid_send(call)) END, 1500000, 'image/png', 1024, 1024
FROM history, generate_series(1, delivered) n, generate_series(0, 1) r, LATERAL (SELECT pg_temp.id(4, i, n) AS call) c
ORDER BY i, n, r;

INSERT INTO idempotency_keys (tenant_id, key, request_hash, status, location, body, created_at)
SELECT tenant, 'key-' || i, sha256(uuid_send(job)), 202, '/v1/jobs/' || shown,
       convert_to(jsonb_build_object('id', shown, 'object', 'job', 'state', 'queued', 'model', 'gemini-nano-banana-2.1', 'padding', repeat('as long as a view is ', 30))::text, 'UTF8'), at
FROM (SELECT i, tenant, job, at, pg_temp.shown(job) AS shown FROM history OFFSET 0) h ORDER BY i;

-- What was given, each hold, each end; numbered and chained by tenant.
CREATE TEMP TABLE given AS
SELECT lot, tenant, count(job) AS jobs, coalesce(sum(hold) FILTER (WHERE ended IS NULL), 0) AS held, coalesce(sum(captured), 0) AS consumed
FROM (SELECT pg_temp.id(1, t, 0) AS tenant, pg_temp.id(3, t, k) AS lot FROM asked, generate_series(0, tenants - 1) t, generate_series(0, 1) k) lots
LEFT JOIN history USING (lot, tenant) GROUP BY lot, tenant;
INSERT INTO grants (id, tenant_id, source_type, source_id, amount, remaining, held, consumed, created_at)
SELECT lot, tenant, 'promo', lot::text, 1000000 + jobs * 12, 1000000 + jobs * 12 - held - consumed, held, consumed, now() - interval '1 year' FROM given;

CREATE TEMP TABLE numbered AS
SELECT tenant, debit, credit, amount, kind, ref, at, step, row_number() OVER (PARTITION BY tenant ORDER BY at, step, ref)::bigint AS seq
FROM (SELECT tenant, 'sys:promo' AS debit, 'tenant:available' AS credit, (1000000 + jobs * 12)::bigint AS amount, 'promo' AS kind, lot::text AS ref, now() - interval '1 year' AS at, 0 AS step FROM given
      UNION ALL SELECT tenant, 'tenant:available', 'tenant:held', hold, 'hold', job::text, at, 1 FROM history
      UNION ALL SELECT tenant, 'tenant:held', 'sys:revenue', captured, 'capture', job::text, ended, 2 FROM history WHERE ended IS NOT NULL AND captured > 0
      UNION ALL SELECT tenant, 'tenant:held', 'tenant:available', hold - captured, 'release', job::text, ended, 3 FROM history WHERE ended IS NOT NULL AND hold > captured) t;
INSERT INTO transfers (tenant_id, seq, debit, credit, amount, kind, ref, at, hash)
SELECT tenant, seq, debit, credit, amount, kind, ref, at, pg_temp.chain(tenant, seq, debit, credit, amount, kind, ref, at) OVER (PARTITION BY tenant ORDER BY seq ROWS UNBOUNDED PRECEDING)
FROM numbered ORDER BY at, tenant, seq;

UPDATE wallets w SET seq = t.seq, head = t.hash, available = g.remaining, held = g.held
FROM (SELECT DISTINCT ON (tenant_id) tenant_id, seq, hash FROM transfers ORDER BY tenant_id, seq DESC) t,
     (SELECT tenant_id, sum(remaining) AS remaining, sum(held) AS held FROM grants GROUP BY tenant_id) g
WHERE t.tenant_id = w.tenant_id AND g.tenant_id = w.tenant_id;

-- What the triggers would have added, folded long ago.
INSERT INTO billing_totals (subject, model, state, n, held) SELECT 'job', model, 'admitted', count(*), sum(hold_amount) FROM jobs GROUP BY model;
INSERT INTO billing_totals (subject, model, state, outcome, n, held, captured, released)
SELECT 'job', model, state, outcome, count(*), -sum(hold_amount), sum(captured), sum(released) FROM jobs WHERE finished_at IS NOT NULL GROUP BY model, state, outcome;
INSERT INTO billing_totals (subject, provider, model, outcome, n, cost_micros)
SELECT 'call', provider, model, outcome, count(*), sum(cost_micros) FROM calls WHERE ended_at IS NOT NULL GROUP BY provider, model, outcome;
