//! The commands for operators, as a person runs them: the real program, its exit codes, and what it records.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

use std::process::Stdio;

use domain::id::{JobId, TenantId};
use nix::unistd::{self, User};
use servers::{Durability, Postgres};
use sqlx::{Connection, Executor, PgConnection};
use storage::database;
use tokio::process::Command;

/// A database of its own, and the program that works on it.
struct Platen {
    postgres: Postgres,
    folder: tempfile::TempDir,
}

impl Platen {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let postgres = Postgres::start_with(folder.path(), Durability::Reduced)
            .await
            .unwrap();
        database::migrate(&postgres.owner_url(), Some("platen"))
            .await
            .unwrap();
        Self { postgres, folder }
    }

    /// Runs a command: exit code, standard output and standard error.
    async fn run(&self, command: &[&str]) -> (Option<i32>, String, String) {
        let output = Command::new(env!("CARGO_BIN_EXE_platen"))
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("DATABASE_URL", self.postgres.database_url())
            // Anyone can set these.
            .env("USER", "mallory")
            .env("LOGNAME", "mallory")
            .env("SUDO_USER", "anna")
            .current_dir(self.folder.path())
            .args(command)
            .stdin(Stdio::null())
            .output()
            .await
            .unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap().trim().to_owned();
        (
            output.status.code(),
            text(output.stdout),
            text(output.stderr),
        )
    }

    /// Runs a command that must succeed, and returns its output.
    async fn done(&self, command: &[&str]) -> String {
        let (code, answer, error) = self.run(command).await;
        assert_eq!(code, Some(0), "{command:?}: {answer} {error}");
        answer
    }

    /// Runs a command that must exit with 1 and say why.
    async fn refused(&self, command: &[&str], why: &str) {
        let (code, answer, error) = self.run(command).await;
        assert_eq!(code, Some(1), "{command:?}: {answer} {error}");
        assert!(error.contains(why), "{command:?} says {error}, not {why}");
    }
}

#[tokio::test]
async fn every_action_is_recorded_with_its_actor_and_reason() {
    let platen = Platen::start().await;
    let acme = platen.done(&["tenant", "add", "Acme"]).await;
    let reason = ["--reason", "they signed today"];
    let other = platen
        .done(&[&["tenant", "add", "Other"], &reason[..]].concat())
        .await;
    let key = platen.done(&["key", "add", &acme, "ci"]).await;
    let public = key.split('_').nth(1).unwrap();
    platen.done(&["key", "revoke", &acme, public]).await;
    // A source gives once to each tenant.
    for tenant in [&acme, &other] {
        let grant = ["grant", tenant, "100", "--source", "welcome"];
        assert_eq!(platen.done(&grant).await, "granted 100 credits");
    }
    platen
        .done(&["tenant", "retention", &acme, "ephemeral"])
        .await;
    platen
        .done(&["admin", "freeze", &acme, "--reason", "a test"])
        .await;

    let actions = platen.done(&["admin", "actions"]).await;
    let lines: Vec<&str> = actions.lines().rev().collect();
    let expected = [
        ("add_tenant", "no reason was given"),
        ("add_tenant", "they signed today"),
        ("add_key", "no reason was given"),
        ("revoke_key", "no reason was given"),
        ("grant", "source: welcome"),
        ("grant", "source: welcome"),
        ("retention", "no reason was given"),
        ("freeze", "a test"),
    ];
    assert_eq!(lines.len(), expected.len(), "{actions}");
    let login = User::from_uid(unistd::getuid()).unwrap().unwrap().name;
    let host = unistd::gethostname().unwrap().into_string().unwrap();
    let by = format!("{login} (sudo: anna) on {host}");
    for (line, (action, reason)) in lines.into_iter().zip(expected) {
        assert!(line.contains(&format!("  {by}  {action}  {{")), "{line}");
        assert!(line.ends_with(&format!("}}: {reason}")), "{line}");
        assert!(!line.contains("mallory") && !line.contains(&key), "{line}");
    }
    platen.postgres.stop().await;
}

#[tokio::test]
async fn a_command_that_does_nothing_exits_with_1_and_records_nothing() {
    let platen = Platen::start().await;
    let tenant = platen.done(&["tenant", "add", "Acme"]).await;
    let key = platen.done(&["key", "add", &tenant, "ci"]).await;
    let public = key.split('_').nth(1).unwrap();
    platen.done(&["key", "revoke", &tenant, public]).await;
    platen
        .done(&["grant", &tenant, "100", "--source", "welcome"])
        .await;
    let why = ["--reason", "a test"];
    let freeze = [&["admin", "freeze", &tenant], &why[..]].concat();
    platen.done(&freeze).await;
    let before = platen.done(&["admin", "actions"]).await;

    let again = ["grant", &tenant, "30", "--source", "welcome"];
    let given = format!("tenant {tenant} was given 100 credits from source welcome on 20");
    platen.refused(&again, &given).await;
    let revoke = ["key", "revoke", &tenant, public];
    platen.refused(&revoke, "that could be revoked").await;
    let (nobody, nothing) = (TenantId::new().to_string(), JobId::new().to_string());
    let no_tenant = format!("there is no tenant {nobody}");
    let grant = ["grant", &nobody, "1", "--source", "welcome"];
    platen.refused(&grant, &no_tenant).await;
    platen
        .refused(&["key", "add", &nobody, "ci"], &no_tenant)
        .await;
    let retention = ["tenant", "retention", &nobody, "ephemeral"];
    platen.refused(&retention, &no_tenant).await;
    let hold = [
        "legal-hold",
        "add",
        &tenant,
        &nothing,
        "--purpose",
        "support",
    ];
    let hold = [&hold[..], &["--days", "7"], &why].concat();
    platen.refused(&hold, "has no job").await;
    platen
        .refused(
            &["legal-hold", "remove", &tenant, "999"],
            "no legal hold 999",
        )
        .await;
    for (words, says) in [
        (&["resume", "999"][..], "there is no active pause 999"),
        (&["cancel", "--job", &nothing], "no job matches"),
        (&["redrive", "--job", &nothing], "no job matches"),
        (
            &["adjust", &tenant, "-500"],
            "has only 100 credits available",
        ),
        (&["adjust", &nobody, "5"], "no such tenant"),
        (&["freeze", &nobody], "no such tenant"),
        (&["pause", "--tenant", &nobody], "no such tenant"),
    ] {
        let words = [&["admin"], words, &why].concat();
        platen.refused(&words, says).await;
    }
    platen.refused(&freeze, "is not active").await;
    assert_eq!(platen.done(&["admin", "actions"]).await, before);
    platen.postgres.stop().await;
}

/// Also checks that no adjustment is so large that a sum could overflow.
#[tokio::test]
async fn an_adjustment_repeated_with_its_key_moves_credits_once() {
    let platen = Platen::start().await;
    let tenant = platen.done(&["tenant", "add", "Acme"]).await;
    let adjust = |credits| {
        let words = ["admin", "adjust", &tenant, credits, "--reason", "a test"];
        [&words[..], &["--idempotency-key", "ticket-4711"]].concat()
    };
    assert_eq!(platen.done(&adjust("24")).await, "adjusted by 24");
    let again = platen.done(&adjust("24")).await;
    assert_eq!(
        again,
        "adjusted by 24 before, under this key: nothing was done now"
    );
    let another = "this idempotency key was used for another request";
    platen.refused(&adjust("25"), another).await;
    let actions = platen.done(&["admin", "actions"]).await;
    assert_eq!(actions.matches("  adjust  ").count(), 1, "{actions}");
    let too_many = [
        "admin",
        "adjust",
        &tenant,
        "1000000000001",
        "--reason",
        "a test",
    ];
    platen.refused(&too_many, "at most 1000000000000").await;
    let grant = ["grant", &tenant, "1000000000001", "--source", "x"];
    platen.refused(&grant, "at most 1000000000000").await;
    platen.postgres.stop().await;
}

#[tokio::test]
async fn doctor_and_verify_name_a_missing_guard() {
    let platen = Platen::start().await;
    let says = platen.done(&["verify"]).await;
    assert!(says.contains("what guards the data is in place"), "{says}");
    assert!(
        says.contains("anchors were NOT compared: PLATEN_BUCKET is missing"),
        "{says}"
    );
    let mut owner = PgConnection::connect(&platen.postgres.owner_url())
        .await
        .unwrap();
    owner
        .execute("ALTER TABLE jobs DISABLE ROW LEVEL SECURITY; ALTER TABLE transfers DISABLE TRIGGER transfers_are_never_rewritten; GRANT TRUNCATE ON operator_actions TO platen_api")
        .await
        .unwrap();
    for (word, before) in [("verify", "guards: "), ("doctor", "FAILED  Postgres: ")] {
        let (code, says, _) = platen.run(&[word]).await;
        assert_eq!(code, Some(1), "{says}");
        for weakness in [
            "table jobs is: table of platen_owner, row-level security off",
            "trigger transfers_are_never_rewritten on transfers is: disabled",
            "platen_api may TRUNCATE on operator_actions, which is not allowed",
        ] {
            assert!(says.contains(&format!("{before}{weakness}")), "{says}");
        }
    }
    owner.close().await.unwrap();
    platen.postgres.stop().await;
}
