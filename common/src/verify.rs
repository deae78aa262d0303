//! The invariants that concern data, as queries that find nothing when all is well.
//!
//! Numbers are those of the protocol's list, I1 to I21. Each query runs in one read-only snapshot and locks
//! nobody out; what it finds is said in words.

use sqlx::PgPool;

/// An offending row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Number of the invariant, such as `I4`.
    pub invariant: &'static str,
    /// What is broken, in words, with the row's id.
    pub says: String,
}

/// One invariant: its number, what it promises, and the query that finds where it is broken.
pub struct Invariant {
    pub number: &'static str,
    pub promises: &'static str,
    /// Finds offending rows, one text each.
    pub query: &'static str,
}

/// Runs every query over one snapshot.
pub async fn verify(pool: &PgPool) -> sqlx::Result<Vec<Finding>> {
    let mut snapshot = pool
        .begin_with("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
        .await?;
    let mut findings = Vec::new();
    for invariant in INVARIANTS {
        let rows: Vec<String> = sqlx::query_scalar(invariant.query)
            .fetch_all(&mut *snapshot)
            .await?;
        findings.extend(rows.into_iter().map(|says| Finding {
            invariant: invariant.number,
            says,
        }));
    }
    snapshot.commit().await?;
    Ok(findings)
}

/// What is checked so far.
pub const INVARIANTS: &[Invariant] = &[
    Invariant {
        number: "I1",
        promises: "a wallet is the fold of its ledger",
        query: "SELECT format('tenant %s: the wallet says %s available and %s held, the ledger %s and %s', w.tenant_id, w.available, w.held, l.available, l.held)
            FROM wallets w, LATERAL (
              SELECT coalesce(sum(CASE WHEN credit = 'tenant:available' THEN amount WHEN debit = 'tenant:available' THEN -amount END), 0) AS available,
                     coalesce(sum(CASE WHEN credit = 'tenant:held' THEN amount WHEN debit = 'tenant:held' THEN -amount END), 0) AS held
              FROM transfers t WHERE t.tenant_id = w.tenant_id) l
            WHERE (w.available, w.held) IS DISTINCT FROM (l.available, l.held)",
    },
    Invariant {
        number: "I2",
        promises: "the ledger has no gaps and its chain holds",
        query: "WITH chain AS (
              SELECT t.*, row_number() OVER own AS expected,
                     coalesce(lag(hash) OVER own, decode(repeat('00', 32), 'hex')) AS previous
              FROM transfers t WINDOW own AS (PARTITION BY tenant_id ORDER BY seq))
            SELECT format('tenant %s: transfer %s breaks the chain', tenant_id, seq) FROM chain
            WHERE seq <> expected OR hash <> transfer_hash(previous, tenant_id, seq, debit, credit, amount, kind, ref, at)
            UNION ALL
            SELECT format('tenant %s: the wallet''s end of the chain is not transfer %s', w.tenant_id, w.seq)
            FROM wallets w LEFT JOIN transfers t ON t.tenant_id = w.tenant_id AND t.seq = w.seq
            WHERE (w.seq > 0 AND t.hash IS DISTINCT FROM w.head) OR w.seq <> (SELECT count(*) FROM transfers x WHERE x.tenant_id = w.tenant_id)",
    },
    Invariant {
        number: "I3",
        promises: "a wallet is the sum of its lots",
        query: "SELECT format('tenant %s: the wallet says %s available and %s held, its lots %s and %s', w.tenant_id, w.available, w.held, l.remaining, l.held)
            FROM wallets w, LATERAL (SELECT coalesce(sum(remaining), 0) AS remaining, coalesce(sum(held), 0) AS held FROM grants g WHERE g.tenant_id = w.tenant_id) l
            WHERE (w.available, w.held) IS DISTINCT FROM (l.remaining, l.held)",
    },
    Invariant {
        number: "I4",
        promises: "what is held is held for open jobs",
        query: "SELECT format('tenant %s: %s credits are held, its open jobs hold %s', w.tenant_id, w.held, j.held)
            FROM wallets w, LATERAL (SELECT coalesce(sum(hold_amount), 0) AS held FROM jobs j WHERE j.tenant_id = w.tenant_id AND state IN ('queued', 'running')) j
            WHERE w.held <> j.held
            UNION ALL
            SELECT format('lot %s: %s credits are held, open jobs hold %s of it', g.id, g.held, j.held)
            FROM grants g, LATERAL (SELECT coalesce(sum(l.amount), 0) AS held FROM job_lots l JOIN jobs j ON j.id = l.job_id WHERE l.grant_id = g.id AND j.state IN ('queued', 'running')) j
            WHERE g.held <> j.held",
    },
    Invariant {
        number: "I5",
        promises: "a job is settled exactly once",
        query: "WITH legs AS (
              SELECT tenant_id, ref, sum(amount) FILTER (WHERE kind = 'hold') AS hold, sum(amount) FILTER (WHERE kind = 'capture') AS capture,
                     sum(amount) FILTER (WHERE kind = 'release') AS release
              FROM transfers WHERE kind IN ('hold', 'capture', 'release') GROUP BY tenant_id, ref),
            named AS (SELECT j.*, j.id::text AS ref FROM jobs j)
            SELECT format('job %s (%s): the row says held %s, captured %s, released %s; the ledger %s, %s, %s', j.ref, j.state, j.hold_amount, j.captured, j.released,
                          coalesce(l.hold, 0), coalesce(l.capture, 0), coalesce(l.release, 0))
            FROM named j LEFT JOIN legs l ON l.ref = j.ref AND l.tenant_id = j.tenant_id
            WHERE (j.hold_amount, j.captured, j.released) IS DISTINCT FROM (coalesce(l.hold, 0), coalesce(l.capture, 0), coalesce(l.release, 0))
            UNION ALL
            SELECT format('the ledger settles %s, which is no job', l.ref) FROM legs l LEFT JOIN named j ON j.ref = l.ref AND l.tenant_id = j.tenant_id WHERE j.id IS NULL",
    },
    Invariant {
        number: "I6",
        promises: "what is charged was delivered",
        query: "SELECT format('job %s charged %s for %s pictures, and has %s', j.id, j.captured, j.n_delivered, a.delivered)
            FROM jobs j, LATERAL (SELECT count(*) AS delivered FROM artifacts a WHERE a.job_id = j.id AND a.role = 'rendition') a
            WHERE j.n_delivered <> a.delivered OR j.captured <> j.unit_price * a.delivered",
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
        number: "I12",
        promises: "no wallet was overdrawn at any time",
        query: "WITH balance AS (
              SELECT tenant_id, seq, sum(CASE WHEN credit = 'tenant:available' THEN amount WHEN debit = 'tenant:available' THEN -amount ELSE 0 END) OVER own AS available,
                     sum(CASE WHEN credit = 'tenant:held' THEN amount WHEN debit = 'tenant:held' THEN -amount ELSE 0 END) OVER own AS held
              FROM transfers WINDOW own AS (PARTITION BY tenant_id ORDER BY seq))
            SELECT format('tenant %s stood at %s available and %s held after transfer %s', tenant_id, available, held, seq) FROM balance WHERE available < 0 OR held < 0",
    },
    Invariant {
        number: "I16",
        promises: "nothing of one tenant hangs on another's",
        query: "SELECT format('call %s of tenant %s hangs on a job of another', c.id, c.tenant_id) FROM calls c JOIN jobs j ON j.id = c.job_id WHERE c.tenant_id <> j.tenant_id
            UNION ALL SELECT format('artifact %s of tenant %s hangs on a job of another', a.id, a.tenant_id) FROM artifacts a JOIN jobs j ON j.id = a.job_id WHERE a.tenant_id <> j.tenant_id
            UNION ALL SELECT format('the request of job %s belongs to another tenant', j.id) FROM job_requests r JOIN jobs j ON j.id = r.job_id WHERE r.tenant_id <> j.tenant_id
            UNION ALL SELECT format('job %s holds credits of another tenant', j.id) FROM job_lots l JOIN jobs j ON j.id = l.job_id JOIN grants g ON g.id = l.grant_id WHERE l.tenant_id <> j.tenant_id OR g.tenant_id <> j.tenant_id
            UNION ALL SELECT format('the key of %s stands outside its tenant''s folder', id) FROM artifacts WHERE object_key NOT LIKE 't/' || tenant_id || '/%'
            UNION ALL SELECT format('the key of call %s stands outside its tenant''s folder', id) FROM calls WHERE object_key NOT LIKE 't/' || tenant_id || '/%'",
    },
];
