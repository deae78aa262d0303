-- One picture of all that these tenants ($1) own, in the shape of `Books`. Times are minutes after $2.
WITH tenant AS (SELECT id, n - 1 AS n FROM unnest($1::uuid[]) WITH ORDINALITY AS t(id, n)),
lot AS (SELECT grants.id, priority, remaining, held, consumed, expires_at, tenant.n AS owner, row_number() OVER (ORDER BY grants.id) - 1 AS n FROM grants JOIN tenant ON tenant.id = tenant_id),
job AS (SELECT jobs.id, state, outcome, fence, crash_count, calls_started, max_calls, run_after, deadline, lease_until, unit_price, n_requested, captured, released, n_delivered, operating, stocked, tenant.n AS owner, row_number() OVER (ORDER BY jobs.id) - 1 AS n FROM jobs JOIN tenant ON tenant.id = tenant_id),
call AS (SELECT calls.fence, output_idx, calls.outcome, counted, operation, object_key, job.n AS of, row_number() OVER (ORDER BY calls.id) - 1 AS n FROM calls JOIN job ON job.id = job_id)
SELECT json_build_object(
  'wallets', (SELECT coalesce(json_agg(json_build_object('available', available, 'held', held, 'active', status = 'active') ORDER BY n), '[]')
              FROM wallets JOIN tenant ON tenant.id = tenant_id),
  'lots', (SELECT coalesce(json_agg(json_build_object('tenant', owner, 'priority', priority, 'remaining', remaining, 'held', held, 'consumed', consumed,
                  'expires', round(extract(epoch FROM expires_at - $2::timestamptz) / 60)::bigint) ORDER BY n), '[]') FROM lot),
  'jobs', (SELECT coalesce(json_agg(json_build_object('tenant', owner, 'state', state, 'outcome', outcome, 'fence', fence, 'crashes', crash_count,
                  'calls', calls_started, 'max_calls', max_calls, 'due', run_after <= clock_timestamp(), 'late', deadline <= clock_timestamp(),
                  'leased', lease_until > clock_timestamp(), 'price', unit_price, 'outputs', n_requested, 'captured', captured, 'released', released,
                  'delivered', n_delivered, 'has_operation', operating, 'has_original', stocked,
                  'shares', (SELECT coalesce(json_agg(json_build_array(lot.n, share.amount) ORDER BY share.ord), '[]')
                             FROM job_lots share JOIN lot ON lot.id = share.grant_id WHERE share.job_id = job.id)) ORDER BY n), '[]') FROM job),
  'calls', (SELECT coalesce(json_agg(json_build_object('job', of, 'fence', fence, 'output', output_idx, 'outcome', outcome, 'counted', counted,
                   'handle', operation IS NOT NULL, 'original', object_key IS NOT NULL) ORDER BY n), '[]') FROM call),
  'pictures', (SELECT coalesce(json_agg(json_build_object('job', job.n, 'output', rendition.output_idx, 'fence', rendition.fence, 'call', call.n)
                      ORDER BY job.n, rendition.output_idx, rendition.fence), '[]')
               FROM artifacts rendition JOIN job ON job.id = rendition.job_id
                 LEFT JOIN artifacts original ON original.job_id = rendition.job_id AND original.output_idx = rendition.output_idx AND original.role = 'original'
                 LEFT JOIN call ON call.object_key = original.object_key
               WHERE rendition.role = 'rendition'),
  'ledgers', (SELECT coalesce(json_agg(lines ORDER BY n), '[]') FROM (
                SELECT tenant.n, coalesce(json_agg(json_build_object('kind', transfers.kind, 'debit', debit, 'credit', credit, 'amount', transfers.amount,
                         'of', coalesce(lot.n, job.n)) ORDER BY seq) FILTER (WHERE seq IS NOT NULL), '[]') AS lines
                FROM tenant LEFT JOIN transfers ON transfers.tenant_id = tenant.id
                  LEFT JOIN lot ON transfers.kind = 'promo' AND lot.id::text = ref LEFT JOIN job ON transfers.kind <> 'promo' AND job.id::text = ref
                GROUP BY tenant.n) AS ledger))
