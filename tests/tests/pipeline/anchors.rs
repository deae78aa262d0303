//! Anchors: a ledger that was rewritten is found though its chain was computed anew.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use bucket::Bucket;
use common::money::anchor::{self, Comparison, Depth};
use secrecy::SecretString;
use sqlx::{AssertSqlSafe, Executor};
use tests::Pipeline;
use tests::pipeline::small_job;

/// As a superuser does it who knows how the chain is made: no guard is left out of order, and the wallets agree.
const CHAIN_ANEW: &str = "
DO $$
DECLARE line record; previous bytea; tenant uuid;
BEGIN
  FOR line IN SELECT id, tenant_id, seq, debit, credit, amount, kind, ref, at FROM transfers ORDER BY tenant_id, seq LOOP
    IF tenant IS DISTINCT FROM line.tenant_id THEN
      tenant := line.tenant_id;
      previous := decode(repeat('00', 32), 'hex');
    END IF;
    previous := transfer_hash(previous, tenant, line.seq, line.debit, line.credit, line.amount, line.kind, line.ref, line.at);
    UPDATE transfers SET hash = previous WHERE id = line.id;
    UPDATE wallets SET head = previous, seq = line.seq WHERE tenant_id = tenant;
  END LOOP;
END $$";

const WITHIN: Duration = Duration::from_secs(30);

struct Books {
    pipeline: Pipeline,
    bucket: Bucket,
    key: SecretString,
}

impl Books {
    async fn open() -> Self {
        let pipeline = Pipeline::start().await;
        let key = pipeline.config.signing_key().unwrap().clone();
        let bucket = Bucket::open(&pipeline.config.bucket().unwrap(), key.clone()).unwrap();
        for _ in 0..2 {
            pipeline.ended(&pipeline.submit(&small_job()).await).await;
        }
        Self {
            pipeline,
            bucket,
            key,
        }
    }

    async fn anchor(&self) -> String {
        let (pool, bucket, key) = (&self.pipeline.reader, &self.bucket, &self.key);
        anchor::write(pool, bucket, key, None)
            .await
            .unwrap()
            .unwrap()
    }

    async fn compare(&self) -> Comparison {
        let (pool, bucket, key) = (&self.pipeline.reader, &self.bucket, &self.key);
        anchor::compare(pool, bucket, key, Depth::All)
            .await
            .unwrap()
    }

    async fn says(&self) -> Vec<String> {
        let findings = self.compare().await.findings.into_iter();
        findings.map(|finding| finding.text).collect()
    }

    /// Changes the ledger as its owner, past every trigger, and computes the chain anew.
    async fn rewrite(&self, change: &str) {
        let mut owner = self.pipeline.owner().await;
        let past_the_guards = format!(
            "BEGIN; SET LOCAL session_replication_role = replica; {change}; {CHAIN_ANEW}; COMMIT"
        );
        owner.execute(AssertSqlSafe(past_the_guards)).await.unwrap();
    }

    /// Waits until there are more anchors than so many.
    async fn until_more_than(&self, count: usize) {
        let enough = async || (self.files().len() > count).then_some(());
        self.pipeline
            .until("more anchors are written", WITHIN, enough)
            .await;
    }

    /// The files of all anchors.
    fn files(&self) -> Vec<PathBuf> {
        let folder = self.pipeline.bucket.path().join("anchors");
        let names = fs::read_dir(folder).into_iter().flatten();
        names
            .flat_map(|name| fs::read_dir(name.unwrap().path()).unwrap())
            .map(|page| page.unwrap().path())
            .collect()
    }
}

#[tokio::test]
async fn a_rewritten_history_is_found_though_its_chain_is_computed_anew() {
    let books = Books::open().await;
    books.anchor().await;
    // Later lines change nothing of what was anchored.
    books
        .pipeline
        .ended(&books.pipeline.submit(&small_job()).await)
        .await;
    let compared = books.compare().await;
    assert_eq!(compared.findings, []);
    assert!(compared.anchors >= 1 && compared.newest.is_some());

    books
        .rewrite("UPDATE transfers SET at = at - interval '1 second' WHERE seq = 2")
        .await;
    let verified = common::verify::verify(&books.pipeline.reader)
        .await
        .unwrap();
    assert_eq!(verified, [], "in itself the ledger is sound");
    let says = books.says().await;
    let tenant = books.pipeline.tenant;
    assert!(
        says.iter()
            .any(|says| says.contains(&format!("tenant {tenant}: transfer "))
                && says.contains("the ledger was rewritten")),
        "{says:?}"
    );

    books
        .rewrite("UPDATE transfers SET at = at + interval '1 second' WHERE seq = 2")
        .await;
    assert_eq!(books.says().await, [""; 0], "it is what it was");
    books.pipeline.close().await;
}

#[tokio::test]
async fn a_ledger_that_was_cut_and_an_anchor_that_was_changed_are_told_apart() {
    let books = Books::open().await;
    let name = books.anchor().await;
    let file = books
        .pipeline
        .bucket
        .path()
        .join(format!("anchors/{name}/0000"));
    let written = fs::read_to_string(&file).unwrap();
    assert!(written.starts_with("{\"version\":1,"), "{written}");
    // All that is in it: no name, no prompt, no credit.
    assert_eq!(written.lines().count(), 3, "{written}");

    let forged = written.replacen("\"tenants\":1", "\"tenants\":2", 1);
    assert_ne!(forged, written);
    fs::write(&file, forged).unwrap();
    let says = books.says().await;
    assert!(
        says.iter()
            .any(|says| says.contains(&name) && says.contains("is not signed")),
        "{says:?}"
    );
    // Another's, under its name.
    for other in books.files() {
        fs::write(other, "x".repeat(9_000_000)).unwrap();
    }
    let says = books.says().await;
    assert!(
        says.iter().all(|says| says.contains("is not signed")) && !says.is_empty(),
        "{says:?}"
    );
    for other in books.files() {
        fs::remove_file(other).unwrap();
    }

    books.anchor().await;
    let last = "(SELECT max(seq) FROM transfers)";
    let columns = "id, tenant_id, seq, debit, credit, amount, kind, ref, at, hash";
    books
        .rewrite(&format!(
            "CREATE TABLE kept AS SELECT {columns} FROM transfers WHERE seq = {last}; DELETE FROM transfers WHERE seq = {last}"
        ))
        .await;
    let says = books.says().await;
    assert!(
        says.iter().any(|says| says.contains("and is gone")),
        "{says:?}"
    );
    books
        .rewrite(&format!(
            "INSERT INTO transfers ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM kept; DROP TABLE kept"
        ))
        .await;
    assert_eq!(books.says().await, [""; 0]);
    books.pipeline.close().await;
}

#[tokio::test]
async fn anchors_that_were_removed_are_missed_once_the_ledger_is_older() {
    let mut books = Books::open().await;
    // Or one could write an anchor meanwhile.
    books.pipeline.stop_workers().await;
    for file in books.files() {
        fs::remove_file(file).unwrap();
    }
    let compared = books.compare().await;
    assert_eq!(
        (compared.anchors, compared.findings),
        (0, Vec::new()),
        "lines are young"
    );
    books
        .rewrite("UPDATE transfers SET at = at - interval '5 hours'")
        .await;
    let says = books.says().await;
    assert!(
        says[0].contains("there is no anchor in the bucket"),
        "{says:?}"
    );
    books.anchor().await;
    assert_eq!(books.says().await, [""; 0]);
    books.pipeline.close().await;
}

#[tokio::test]
async fn workers_write_one_anchor_for_each_slot_and_none_over_a_rewritten_ledger() {
    let mut books = Books::open().await;
    books.pipeline.stop_workers().await;
    books.pipeline.config.timing.anchor_every = Duration::from_secs(1);
    for _ in 0..2 {
        books.pipeline.start_worker().await;
    }
    books.until_more_than(books.files().len() + 2).await;
    assert_eq!(telemetry::LEDGER_REWRITTEN.get(), 0);
    assert!(telemetry::ANCHORED.get() > 0);
    assert_eq!(books.says().await, [""; 0]);

    // Else one could write an anchor between its own look and this.
    books.pipeline.stop_workers().await;
    let count = books.files().len();
    let change = "UPDATE transfers SET at = at - interval '1 second' WHERE seq = 1";
    books.rewrite(change).await;
    books.pipeline.start_worker().await;
    let alarmed = async || (telemetry::LEDGER_REWRITTEN.get() > 0).then_some(());
    books
        .pipeline
        .until("the metric tells of a rewritten ledger", WITHIN, alarmed)
        .await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    assert_eq!(books.files().len(), count, "the alarm would end by itself");
    assert!(telemetry::LEDGER_REWRITTEN.get() > 0);

    books.rewrite(&change.replace(" - ", " + ")).await;
    books.until_more_than(count).await;
    books.pipeline.close().await;
}
