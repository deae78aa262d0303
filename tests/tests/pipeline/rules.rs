//! The rules of the rows of busy tables: each refuses the row that breaks it, by its name.

use std::collections::BTreeSet;

use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};
use tests::servers::TestServers;

/// A row that keeps all rules of its table, and what is changed in it to break each rule.
struct Table {
    name: &'static str,
    row: Value,
    breaks: Vec<(&'static str, Value)>,
}

fn long(length: usize) -> String {
    "x".repeat(length)
}

/// Bytes as Postgres reads them from text.
fn bytes(length: usize) -> String {
    format!("\\x{}", "00".repeat(length))
}

fn jobs() -> Table {
    let row = json!({
        "kind": "image", "state": "succeeded", "outcome": "delivered", "model": "m", "request_id": "r", "priority": 0,
        "unit_price": 3, "n_requested": 2, "n_delivered": 2, "hold_amount": 6, "captured": 6, "released": 0, "refunded": 0,
        "fence": 1, "crash_count": 0, "calls_started": 1, "max_calls": 6, "finished_at": "2026-01-01",
    });
    let breaks = vec![
        ("hold_is_price_times_requested", json!({"hold_amount": 7})),
        ("charged_is_delivered", json!({"captured": 3})),
        ("one_full_settlement", json!({"released": 1})),
        ("refund_follows_capture", json!({"refunded": 7})),
        ("credits_are_not_negative", json!({"refunded": -1})),
        (
            "requested_is_bounded",
            json!({"n_requested": 17, "hold_amount": 51, "released": 45}),
        ),
        (
            "delivered_within_requested",
            json!({"n_delivered": 3, "unit_price": 0, "hold_amount": 0, "captured": 0}),
        ),
        ("state_tells_delivery", json!({"state": "failed"})),
        (
            "state_is_known",
            json!({"state": "paused", "n_delivered": 0, "captured": 0, "released": 6}),
        ),
        ("finished_when_terminal", json!({"finished_at": null})),
        ("terminal_has_an_outcome", json!({"outcome": null})),
        ("leased_while_running", json!({"lease_until": "2026-01-01"})),
        ("calls_are_bounded", json!({"calls_started": 7})),
        (
            "a_call_is_allowed",
            json!({"max_calls": 0, "calls_started": 0}),
        ),
        ("counts_are_not_negative", json!({"fence": -1})),
        ("kind_is_known", json!({"kind": "song"})),
        ("priority_is_bounded", json!({"priority": 11})),
        ("names_are_bounded", json!({"model": ""})),
        ("switched_from_is_bounded", json!({"switched_from": ""})),
        ("name_is_bounded", json!({"name": long(201)})),
        ("reason_is_bounded", json!({"reason": long(2_001)})),
    ];
    Table {
        name: "jobs",
        row,
        breaks,
    }
}

fn calls() -> Table {
    let row = json!({
        "ended_at": "2026-01-01", "outcome": "delivered", "object_key": "k", "sha256": bytes(32), "bytes": 1,
        "media_type": "image/png", "width": 1, "height": 1, "fence": 1, "output_idx": 0, "cost_micros": 0, "lane": "l",
    });
    let breaks = vec![
        ("ended_calls_have_outcomes", json!({"outcome": null})),
        ("originals_are_whole", json!({"object_key": null})),
        ("sha256_has_32_bytes", json!({"sha256": bytes(31)})),
        ("sizes_and_fence_are_positive", json!({"fence": 0})),
        (
            "cost_and_place_are_not_negative",
            json!({"cost_micros": -1}),
        ),
        ("lane_is_bounded", json!({"lane": long(301)})),
        ("operation_is_bounded", json!({"operation": long(1_001)})),
        (
            "provider_request_id_is_bounded",
            json!({"provider_request_id": long(501)}),
        ),
        ("reason_is_bounded", json!({"reason": long(2_001)})),
        ("detail_is_bounded", json!({"detail": long(4_001)})),
    ];
    Table {
        name: "calls",
        row,
        breaks,
    }
}

fn artifacts() -> Table {
    let row = json!({
        "role": "rendition", "sha256": bytes(32), "bytes": 1, "width": 1, "height": 1, "fence": 1, "output_idx": 0,
    });
    let breaks = vec![
        ("role_is_known", json!({"role": "poster"})),
        (
            "only_originals_have_c2pa",
            json!({"c2pa_sha256": bytes(32)}),
        ),
        ("sha256_has_32_bytes", json!({"sha256": bytes(33)})),
        ("sizes_and_fence_are_positive", json!({"bytes": 0})),
        ("place_is_not_negative", json!({"output_idx": -1})),
    ];
    Table {
        name: "artifacts",
        row,
        breaks,
    }
}

fn wallets() -> Table {
    let row = json!({
        "available": 1, "held": 0, "debt": 0, "seq": 0, "turn": 0, "head": bytes(32), "status": "active",
    });
    let breaks = vec![
        ("never_overdrawn", json!({"available": -1})),
        ("credits_are_not_negative", json!({"held": -1})),
        ("counts_are_not_negative", json!({"turn": -1})),
        ("head_has_32_bytes", json!({"head": bytes(0)})),
        ("status_is_known", json!({"status": "open"})),
    ];
    Table {
        name: "wallets",
        row,
        breaks,
    }
}

fn grants() -> Table {
    let row = json!({
        "amount": 10, "remaining": 4, "held": 3, "consumed": 2, "forfeited": 1, "source_id": "s", "source_type": "promo",
    });
    let breaks = vec![
        (
            "every_credit_of_a_lot_is_somewhere",
            json!({"remaining": 5}),
        ),
        (
            "credits_are_not_negative",
            json!({"remaining": -1, "held": 8}),
        ),
        (
            "amount_is_positive",
            json!({"amount": 0, "remaining": 0, "held": 0, "consumed": 0, "forfeited": 0}),
        ),
        ("source_id_is_bounded", json!({"source_id": ""})),
        ("source_type_is_known", json!({"source_type": "luck"})),
    ];
    Table {
        name: "grants",
        row,
        breaks,
    }
}

fn transfers() -> Table {
    let row = json!({
        "debit": "available", "credit": "held", "amount": 1, "seq": 1, "hash": bytes(32), "ref": "r", "kind": "hold",
    });
    let breaks = vec![
        (
            "from_one_account_to_another",
            json!({"credit": "available"}),
        ),
        ("amount_and_number_are_positive", json!({"amount": 0})),
        ("hash_has_32_bytes", json!({"hash": bytes(31)})),
        ("reference_is_bounded", json!({"ref": ""})),
        ("cause_is_known", json!({"kind": "gift"})),
    ];
    Table {
        name: "transfers",
        row,
        breaks,
    }
}

fn idempotency_keys() -> Table {
    let row = json!({"key": "k", "request_hash": bytes(32), "status": 202});
    let breaks = vec![
        ("key_is_bounded", json!({"key": ""})),
        ("hash_has_32_bytes", json!({"request_hash": bytes(1)})),
        ("only_successes_are_kept", json!({"status": 402})),
    ];
    Table {
        name: "idempotency_keys",
        row,
        breaks,
    }
}

/// Whether a row of this table keeps its rules. The error names the rule that it breaks.
async fn keeps_rules(owner: &mut PgConnection, table: &str, row: &Value) -> sqlx::Result<bool> {
    let question = format!("SELECT keeps_rules(jsonb_populate_record(NULL::{table}, $1))");
    sqlx::query_scalar(sqlx::AssertSqlSafe(question))
        .bind(row)
        .fetch_one(owner)
        .await
}

/// The names of all rules, as they stand in the function of a table.
async fn rules(owner: &mut PgConnection, table: &str) -> BTreeSet<String> {
    let names: Vec<String> = sqlx::query_scalar(
        "SELECT (regexp_matches(prosrc, 'THEN ''(\\w+)''', 'g'))[1] FROM pg_proc
         WHERE proname = 'keeps_rules' AND proargtypes[0] = $1::regclass::text::regtype",
    )
    .bind(table)
    .fetch_all(owner)
    .await
    .unwrap();
    names.into_iter().collect()
}

#[tokio::test]
async fn a_row_that_breaks_a_rule_is_refused_by_its_name() {
    let servers = TestServers::get().await;
    let name = servers.create_database().await;
    let url = servers.owner_url_of(&name);
    let mut owner = PgConnection::connect(&url).await.unwrap();
    owner.execute("SET search_path = public").await.unwrap();
    let tables = [
        jobs(),
        calls(),
        artifacts(),
        wallets(),
        grants(),
        transfers(),
        idempotency_keys(),
    ];
    for Table { name, row, breaks } in tables {
        assert!(keeps_rules(&mut owner, name, &row).await.unwrap(), "{name}");
        let named: BTreeSet<String> = breaks.iter().map(|(rule, _)| (*rule).to_owned()).collect();
        assert_eq!(named, rules(&mut owner, name).await, "rules of {name}");
        for (rule, change) in breaks {
            let mut broken = row.clone();
            for (column, value) in change.as_object().unwrap() {
                broken[column] = value.clone();
            }
            let error = keeps_rules(&mut owner, name, &broken).await.unwrap_err();
            let error = error.as_database_error().unwrap();
            assert_eq!(
                error.constraint(),
                Some(rule),
                "{name} with {change}: {error}"
            );
            assert!(error.is_check_violation(), "{rule}");
        }
    }
    owner.close().await.unwrap();
    servers.drop_database(&name).await;
}
