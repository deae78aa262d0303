//! The invariants about data, as queries that return no rows when all is well.
//!
//! The numbers are those of the invariants in `docs/invariants.md`. All queries run in one
//! read-only snapshot and block no other transaction. Each row they return is one violation in
//! words. `common::verify::deep` checks whether the bucket contains exactly what the rows name.
//! [`guards`] checks the guards of the rows, such as policies and constraints.

pub mod files;
pub mod guards;

/// A violation of an invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The number of the invariant, such as `I4`.
    pub invariant: &'static str,
    /// What is wrong, in words, with the id of the row.
    pub text: String,
}

/// An invariant and the query that checks it.
pub struct Invariant {
    /// The number of the invariant, such as `I4`.
    pub number: &'static str,
    /// What the invariant promises, in words.
    pub promises: &'static str,
    /// SQL that returns one text for each violation.
    pub query: &'static str,
}

/// Settings of the transaction that checks the invariants. `parallel_tuple_cost` is 0 because the
/// planner expects many rows from these queries and would not run them in parallel. In fact they
/// return almost no rows.
pub const SETTINGS: &str = "SET LOCAL statement_timeout = '1h'; SET LOCAL work_mem = '64MB'; SET LOCAL jit = off; SET LOCAL parallel_tuple_cost = 0";

/// SQL of the number that base32 digits stand for, the most significant digit first. The arguments
/// are the places of the digits in the column `d`, which has one digit in the low five bits of each
/// byte. `<<` and `|` have the same precedence in Postgres, so each step shifts the number so far
/// by five bits and adds the next digit.
macro_rules! number {
    ($($at:literal)*) => {
        concat!("0::bigint", $(" << 5 | (get_byte(d, ", $at, ") & 31)"),*)
    };
}

/// SQL of the UUID in the 26 digits of a public id, as hex digits: 8 bits, and twice 60 bits.
macro_rules! uuid_of_digits {
    () => {
        concat!(
            "lpad(to_hex((", number!(0 1), ") & 255), 2, '0') || ",
            "lpad(to_hex(", number!(2 3 4 5 6 7 8 9 10 11 12 13), "), 15, '0') || ",
            "lpad(to_hex(", number!(14 15 16 17 18 19 20 21 22 23 24 25), "), 15, '0')"
        )
    };
}

/// All invariants that can be checked with rows alone.
pub const INVARIANTS: &[Invariant] = &[
    Invariant {
        number: "I1",
        promises: "a wallet is the fold of its ledger",
        query: "SELECT format('tenant %s: the wallet says %s available and %s held, the ledger %s and %s', w.tenant_id, w.available, w.held, coalesce(l.available, 0), coalesce(l.held, 0))
            FROM wallets w LEFT JOIN (
              SELECT tenant_id, sum(CASE WHEN credit = 'tenant:available' THEN amount WHEN debit = 'tenant:available' THEN -amount ELSE 0 END) AS available,
                     sum(CASE WHEN credit = 'tenant:held' THEN amount WHEN debit = 'tenant:held' THEN -amount ELSE 0 END) AS held
              FROM transfers GROUP BY tenant_id) l USING (tenant_id)
            WHERE (w.available, w.held) IS DISTINCT FROM (coalesce(l.available, 0), coalesce(l.held, 0))",
    },
    Invariant {
        number: "I2",
        promises: "the ledger has no gaps and its chain holds",
        // The query hashes every transfer again, but without the function `transfer_hash`, because
        // a person who rewrites transfers may have replaced that function, too.
        query: "SELECT format('tenant %s: transfer %s breaks the chain', t.tenant_id, t.seq)
            FROM transfers t LEFT JOIN transfers p ON p.tenant_id = t.tenant_id AND p.seq = t.seq - 1
            WHERE (t.seq > 1 AND p.seq IS NULL)
               OR t.hash <> sha256(coalesce(p.hash, decode(repeat('00', 32), 'hex')) || convert_to(concat_ws('|', t.tenant_id, t.seq, t.debit, t.credit, t.amount, t.kind, t.ref,
                                   (extract(epoch FROM t.at) * 1000000)::bigint), 'UTF8'))
            UNION ALL
            SELECT format('tenant %s: the wallet''s end of the chain is not transfer %s', w.tenant_id, w.seq)
            FROM wallets w LEFT JOIN transfers t ON t.tenant_id = w.tenant_id AND t.seq = w.seq
              LEFT JOIN (SELECT tenant_id, count(*) AS lines FROM transfers GROUP BY tenant_id) l ON l.tenant_id = w.tenant_id
            WHERE coalesce(t.hash, decode(repeat('00', 32), 'hex')) <> w.head OR w.seq <> coalesce(l.lines, 0)",
    },
    Invariant {
        number: "I3",
        promises: "a wallet is the sum of its lots",
        query: "SELECT format('tenant %s: the wallet says %s available and %s held, its lots %s and %s', w.tenant_id, w.available, w.held, coalesce(l.remaining, 0), coalesce(l.held, 0))
            FROM wallets w LEFT JOIN (SELECT tenant_id, sum(remaining) AS remaining, sum(held) AS held FROM grants GROUP BY tenant_id) l USING (tenant_id)
            WHERE (w.available, w.held) IS DISTINCT FROM (coalesce(l.remaining, 0), coalesce(l.held, 0))",
    },
    Invariant {
        number: "I4",
        promises: "what is held is held for open jobs",
        query: "SELECT format('tenant %s: %s credits are held, its open jobs hold %s', w.tenant_id, w.held, coalesce(j.held, 0))
            FROM wallets w LEFT JOIN (SELECT tenant_id, sum(hold_amount) AS held FROM jobs WHERE state IN ('queued', 'running') GROUP BY tenant_id) j USING (tenant_id)
            WHERE w.held <> coalesce(j.held, 0)
            UNION ALL
            SELECT format('lot %s: %s credits are held, open jobs hold %s of it', g.id, g.held, coalesce(j.held, 0))
            FROM grants g LEFT JOIN (SELECT l.grant_id, sum(l.amount) AS held FROM job_lots l JOIN jobs j ON j.id = l.job_id WHERE j.state IN ('queued', 'running') GROUP BY l.grant_id) j ON j.grant_id = g.id
            WHERE g.held <> coalesce(j.held, 0)",
    },
    Invariant {
        number: "I5",
        promises: "a job is settled exactly once",
        query: "SELECT CASE WHEN j.id IS NULL THEN format('the ledger settles %s for tenant %s, which is no job of that tenant', l.ref, l.tenant_id)
              ELSE format('job %s (%s): the row says held %s, captured %s, released %s; the ledger %s, %s, %s', j.id, j.state, j.hold_amount, j.captured, j.released,
                          coalesce(l.hold, 0), coalesce(l.capture, 0), coalesce(l.release, 0)) END
            FROM jobs j FULL JOIN (
              SELECT tenant_id, ref, sum(CASE kind WHEN 'hold' THEN amount ELSE 0 END) AS hold, sum(CASE kind WHEN 'capture' THEN amount ELSE 0 END) AS capture,
                     sum(CASE kind WHEN 'release' THEN amount ELSE 0 END) AS release
              FROM transfers WHERE kind IN ('hold', 'capture', 'release') GROUP BY tenant_id, ref) l ON l.ref = j.id::text AND l.tenant_id = j.tenant_id
            WHERE j.id IS NULL OR (j.hold_amount, j.captured, j.released) IS DISTINCT FROM (coalesce(l.hold, 0), coalesce(l.capture, 0), coalesce(l.release, 0))
            UNION ALL
            SELECT format('job %s says that %s credits were refunded, the ledger says %s', j.id, j.refunded, coalesce(r.amount, 0))
            FROM jobs j LEFT JOIN (SELECT tenant_id, ref, sum(amount) AS amount FROM transfers WHERE kind = 'refund' GROUP BY tenant_id, ref) r ON r.ref = j.id::text AND r.tenant_id = j.tenant_id
            WHERE j.refunded <> coalesce(r.amount, 0)",
    },
    Invariant {
        number: "I6",
        promises: "what is charged was delivered",
        query: "SELECT format('job %s charged %s for %s pictures, and has %s', j.id, j.captured, j.n_delivered, a.delivered)
            FROM jobs j, LATERAL (SELECT count(*) AS delivered FROM artifacts a WHERE a.job_id = j.id AND a.role = 'rendition') a
            WHERE j.n_delivered <> a.delivered OR j.captured <> j.unit_price * a.delivered",
    },
    Invariant {
        number: "I7",
        promises: "an original is named by the call that bought it, and every key says whose it is",
        query: "SELECT format('call %s ended as %s, and %s', id, coalesce(outcome, 'nothing yet'), CASE WHEN object_key IS NULL THEN 'names no original' ELSE 'names an original' END)
            FROM calls WHERE (outcome IS NOT DISTINCT FROM 'ok') <> (object_key IS NOT NULL)
            UNION ALL
            SELECT format('call %s names an original under a key that is not its own', id) FROM calls WHERE object_key <> 't/' || tenant_id || '/c/' || id
            UNION ALL
            SELECT format('artifact %s is an original that no call for this output of job %s names as it is', a.id, a.job_id)
            FROM artifacts a LEFT JOIN calls c ON c.job_id = a.job_id AND c.object_key = a.object_key AND c.output_idx = a.output_idx AND c.sha256 = a.sha256 AND c.bytes = a.bytes
            WHERE a.role = 'original' AND c.id IS NULL
            UNION ALL
            SELECT format('artifact %s stands under a key that is not its own', id) FROM artifacts
            WHERE role <> 'original' AND NOT starts_with(object_key, 't/' || tenant_id || '/j/' || job_id || '/' || fence || '/' || output_idx || '.')
            UNION ALL
            SELECT format('upload %s stands under a key that is not its own', id) FROM uploads WHERE object_key <> 't/' || tenant_id || '/u/' || id",
    },
    Invariant {
        number: "I8",
        promises: "nothing carries a fence its job never had",
        query: "SELECT format('call %s carries fence %s of job %s, which is at %s', c.id, c.fence, j.id, j.fence) FROM calls c JOIN jobs j ON j.id = c.job_id WHERE c.fence > j.fence
            UNION ALL
            SELECT format('artifact %s carries fence %s of job %s, which is at %s', a.id, a.fence, j.id, j.fence) FROM artifacts a JOIN jobs j ON j.id = a.job_id WHERE a.fence > j.fence",
    },
    Invariant {
        number: "I9",
        promises: "paid calls are journaled and bounded",
        query: "SELECT format('job %s counts %s paid calls of %s, its journal %s', j.id, j.calls_started, j.max_calls, c.counted)
            FROM jobs j, LATERAL (SELECT count(*) FILTER (WHERE counted) AS counted FROM calls c WHERE c.job_id = j.id) c
            WHERE c.counted <> j.calls_started OR c.counted > j.max_calls
            UNION ALL
            SELECT format('call %s is open, and its job %s has ended', c.id, j.id) FROM calls c JOIN jobs j ON j.id = c.job_id WHERE c.ended_at IS NULL AND j.finished_at IS NOT NULL",
    },
    Invariant {
        number: "I10",
        promises: "no job is open a minute after its deadline",
        query: "SELECT format('job %s is %s, and its deadline was %s', id, state, deadline) FROM jobs WHERE state IN ('queued', 'running') AND deadline < clock_timestamp() - interval '60 seconds'",
    },
    Invariant {
        number: "I11",
        promises: "a request makes one job, and the answer kept for its key names it",
        // Answers are deleted by age, so only a job that is older than all stored answers may lack
        // one.
        query: concat!(
            "SELECT CASE WHEN j.id IS NULL THEN format('the answer kept for key %s of tenant %s names no job of that tenant', n.key, n.tenant_id)
                WHEN n.admissions > 1 THEN format('job %s was admitted under %s keys', j.id, n.admissions)
                ELSE format('job %s was admitted and no answer is kept: its request, repeated, would make another', j.id) END
            FROM jobs j FULL JOIN (
              SELECT tenant_id, job, min(key) AS key, count(*) FILTER (WHERE status = 202) AS admissions
              FROM (
                SELECT tenant_id, key, status, CASE WHEN length(shown) = 26 THEN (",
            uuid_of_digits!(),
            ")::uuid END AS job
                FROM (SELECT tenant_id, key, status, CASE WHEN starts_with(location, '/v1/jobs/job_') THEN substr(location, 14)
                             ELSE substring(encode(body, 'escape') FROM '\"id\":\"job_([0-9a-z]+)\"') END AS shown
                        FROM idempotency_keys WHERE coalesce(location, '') !~ '^/v1/(uploads|keys)/' OFFSET 0) answer,
                  LATERAL (SELECT convert_to(translate(shown, '0123456789abcdefghjkmnpqrstvwxyz', '@ABCDEFGHIJKLMNOPQRSTUVWXYZ[|]^_'), 'UTF8') AS d OFFSET 0) digits) kept
              GROUP BY tenant_id, job) n ON n.job = j.id AND n.tenant_id = j.tenant_id
            WHERE j.id IS NULL OR n.admissions > 1 OR (coalesce(n.admissions, 0) = 0 AND j.created_at >= (SELECT min(created_at) FROM idempotency_keys))"
        ),
    },
    Invariant {
        number: "I12",
        promises: "no wallet was overdrawn at any time",
        query: "SELECT format('tenant %s stood at %s available and %s held after transfer %s', tenant_id, available, held, seq)
            FROM (SELECT tenant_id, seq, sum(available) OVER own AS available, sum(held) OVER own AS held
              FROM (SELECT tenant_id, seq, CASE WHEN credit = 'tenant:available' THEN amount WHEN debit = 'tenant:available' THEN -amount ELSE 0 END AS available,
                           CASE WHEN credit = 'tenant:held' THEN amount WHEN debit = 'tenant:held' THEN -amount ELSE 0 END AS held FROM transfers) moves
              WINDOW own AS (PARTITION BY tenant_id ORDER BY seq ROWS UNBOUNDED PRECEDING)) balance
            WHERE available < 0 OR held < 0",
    },
    Invariant {
        number: "I15",
        promises: "what is billed is what the rows say",
        query: "SELECT format('billing says %s of %s %s %s %s, the rows %s', coalesce(told.said::text, 'nothing'), subject, model, state, outcome, coalesce(kept.said::text, 'nothing'))
            FROM (SELECT subject, provider, model, state, outcome, (sum(n), sum(held), sum(captured), sum(released), sum(refunded), sum(cost_micros)) AS said
                  FROM billing GROUP BY subject, provider, model, state, outcome
                  HAVING (sum(n), sum(held), sum(captured), sum(released), sum(refunded), sum(cost_micros)) <> (0, 0, 0, 0, 0, 0)) told
            FULL JOIN (SELECT 'job' AS subject, '' AS provider, model, 'admitted' AS state, '' AS outcome, (count(*)::numeric, sum(hold_amount), 0::numeric, 0::numeric, 0::numeric, 0::numeric) AS said FROM jobs GROUP BY model
                  UNION ALL SELECT 'job', '', model, state, outcome, (count(*)::numeric, -sum(hold_amount), sum(captured), sum(released), sum(refunded), 0::numeric) FROM jobs WHERE finished_at IS NOT NULL GROUP BY model, state, outcome
                  UNION ALL SELECT 'call', provider, model, '', outcome, (count(*)::numeric, 0::numeric, 0::numeric, 0::numeric, 0::numeric, coalesce(sum(cost_micros), 0)) FROM calls WHERE ended_at IS NOT NULL GROUP BY provider, model, outcome) kept
              USING (subject, provider, model, state, outcome)
            WHERE told.said IS DISTINCT FROM kept.said",
    },
    Invariant {
        number: "I16",
        promises: "nothing of one tenant hangs on another's",
        query: "SELECT format('call %s of tenant %s hangs on a job of another', c.id, c.tenant_id) FROM calls c JOIN jobs j ON j.id = c.job_id WHERE c.tenant_id <> j.tenant_id
            UNION ALL SELECT format('artifact %s of tenant %s hangs on a job of another', a.id, a.tenant_id) FROM artifacts a JOIN jobs j ON j.id = a.job_id WHERE a.tenant_id <> j.tenant_id
            UNION ALL SELECT format('the request of job %s belongs to another tenant', j.id) FROM job_requests r JOIN jobs j ON j.id = r.job_id WHERE r.tenant_id <> j.tenant_id
            UNION ALL SELECT format('job %s holds credits of another tenant', j.id) FROM job_lots l JOIN jobs j ON j.id = l.job_id JOIN grants g ON g.id = l.grant_id WHERE l.tenant_id <> j.tenant_id OR g.tenant_id <> j.tenant_id
            UNION ALL SELECT format('the key of artifact %s stands outside its tenant''s folder', id) FROM artifacts WHERE NOT starts_with(object_key, 't/' || tenant_id || '/')
            UNION ALL SELECT format('the key of call %s stands outside its tenant''s folder', id) FROM calls WHERE NOT starts_with(object_key, 't/' || tenant_id || '/')",
    },
    Invariant {
        number: "I17",
        promises: "files and prompts whose time is over are gone, and what is due is planned",
        query: "SELECT format('the %s of deletion %s (%s) has been due since %s', class, id, coalesce('job ' || job_id, 'upload ' || upload_id), due_at) FROM deletions d
            WHERE deleted_at IS NULL AND due_at < now() - interval '60 seconds'
              AND NOT EXISTS (SELECT FROM holds h WHERE h.job_id = d.job_id AND lifted_at IS NULL AND until > now())
            UNION ALL
            SELECT format('job %s has ended, and nothing says when its %s is to be gone', j.id, file.class)
            FROM retention r JOIN jobs j ON j.tenant_id = r.tenant_id AND j.finished_at IS NOT NULL, LATERAL (
              SELECT 'input' AS class, i ->> 'object_key' AS object_key FROM job_requests q, jsonb_array_elements(q.generation -> 'inputs') i WHERE q.job_id = j.id AND NOT i ? 'upload' AND r.inputs IS NOT NULL
              UNION ALL SELECT 'original', object_key FROM calls WHERE job_id = j.id AND object_key IS NOT NULL AND r.originals IS NOT NULL
              UNION ALL SELECT role, object_key FROM artifacts WHERE job_id = j.id AND role <> 'original' AND r.renditions IS NOT NULL
              UNION ALL SELECT 'prompt', 'job_requests/' || job_id FROM job_requests WHERE job_id = j.id AND generation ? 'prompt' AND r.prompts IS NOT NULL) file
            WHERE NOT EXISTS (SELECT FROM deletions d WHERE d.object_key = file.object_key)
            UNION ALL
            SELECT format('artifact %s is shown though its deletion %s has a receipt', a.id, d.id) FROM deletions d JOIN artifacts a ON a.object_key = d.object_key
            WHERE d.deleted_at IS NOT NULL AND a.deleted_at IS NULL
            UNION ALL
            SELECT format('job %s still has its prompt though deletion %s has a receipt of it', q.job_id, d.id)
            FROM deletions d JOIN job_requests q ON q.job_id = d.job_id WHERE d.class = 'prompt' AND d.deleted_at IS NOT NULL AND q.generation ?| '{prompt,art_direction}'
            UNION ALL
            SELECT format('upload %s was deleted by its owner or by time, and nothing says that its file is to be gone', u.id) FROM uploads u
            WHERE u.deleted_at IS NOT NULL AND NOT EXISTS (SELECT FROM deletions d WHERE d.object_key = u.object_key)
            UNION ALL
            SELECT format('upload %s has not been needed since %s, which is longer than its tenant wants it kept', u.id, u.last_used_at)
            FROM uploads u JOIN retention r USING (tenant_id)
            WHERE u.deleted_at IS NULL AND u.last_used_at < now() - make_interval(secs => r.uploads) - interval '60 seconds'
              AND NOT EXISTS (SELECT FROM jobs j JOIN job_requests q ON q.job_id = j.id WHERE j.tenant_id = u.tenant_id AND j.finished_at IS NULL
                              AND q.generation @> jsonb_build_object('inputs', jsonb_build_array(jsonb_build_object('object_key', u.object_key))))",
    },
    Invariant {
        number: "I24",
        promises: "only calls of jobs that their owner ended count as abandoned",
        query: "SELECT format('call %s counts as abandoned by tenant %s, and its job %s of tenant %s is %s', a.call_id, a.tenant_id, j.id, j.tenant_id, j.state)
            FROM abandoned_calls a JOIN calls c ON c.id = a.call_id JOIN jobs j ON j.id = c.job_id
            WHERE j.state NOT IN ('canceled', 'expired') OR a.tenant_id <> j.tenant_id",
    },
    Invariant {
        number: "I25",
        promises: "what a tenant stores is what the rows say",
        query: "SELECT format('tenant %s stores %s bytes, its rows say %s', t.tenant_id, told.bytes, coalesce(kept.bytes, 0))
            FROM storage_totals t
            JOIN (SELECT tenant_id, sum(bytes) AS bytes FROM (SELECT tenant_id, bytes FROM storage_totals UNION ALL SELECT tenant_id, bytes FROM storage_lines) said GROUP BY tenant_id) told USING (tenant_id)
            LEFT JOIN (SELECT tenant_id, sum(bytes) AS bytes FROM (
                SELECT tenant_id, bytes FROM uploads
                UNION ALL SELECT tenant_id, bytes FROM calls WHERE bytes IS NOT NULL
                UNION ALL SELECT tenant_id, bytes FROM artifacts WHERE role <> 'original'
                UNION ALL SELECT q.tenant_id, (i ->> 'bytes')::bigint FROM job_requests q, jsonb_array_elements(q.generation -> 'inputs') i WHERE NOT i ? 'upload'
                UNION ALL SELECT tenant_id, -bytes FROM deletions WHERE deleted_at IS NOT NULL AND class <> 'prompt') files GROUP BY tenant_id) kept USING (tenant_id)
            WHERE t.bytes IS NOT NULL AND told.bytes <> coalesce(kept.bytes, 0)",
    },
];
