//! What guards the data: each weakness that is planted is named in words, and a clean database has none.

use std::path::Path;

use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection};
use storage::verify::Finding;
use storage::verify::guards::{self, Comparison};
use tests::servers::TestServers;

async fn database() -> (TestServers, String, PgConnection) {
    let servers = TestServers::get().await;
    let name = servers.create_database().await;
    let owner = PgConnection::connect(&servers.owner_url_of(&name))
        .await
        .unwrap();
    (servers, name, owner)
}

async fn found(connection: &mut PgConnection) -> Vec<Finding> {
    match guards::check(connection).await.unwrap() {
        Comparison::Findings(found) => found,
        newer @ Comparison::Newer { .. } => panic!("{newer:?}"),
    }
}

/// With `WRITE_GUARDS=1` it writes the list that it compares with: for whoever changed the schema.
#[tokio::test]
async fn the_guards_are_what_the_list_says() {
    let (servers, name, mut owner) = database().await;
    let facts = guards::facts(&mut owner).await.unwrap();
    if std::env::var_os("WRITE_GUARDS").is_some() {
        let list =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../common/storage/src/verify/guards.txt");
        std::fs::write(list, facts.join("\n") + "\n").unwrap();
    } else {
        assert_eq!(found(&mut owner).await, []);
        let listed: Vec<&str> = guards::EXPECTED.lines().collect();
        assert_eq!(facts, listed, "WRITE_GUARDS=1 writes the list anew");
        // Whoever may only read finds the same.
        let url = servers.runtime_url(&name);
        let reader = storage::database::connect(&url, storage::database::DatabaseRole::Reader, 1);
        let mut reader = reader.await.unwrap().acquire().await.unwrap().detach();
        assert_eq!(guards::facts(&mut reader).await.unwrap(), facts);
        reader.close().await.unwrap();
    }
    owner.close().await.unwrap();
    servers.drop_database(&name).await;
}

/// The weakness, as a superuser plants it, and what is said of it.
const PLANTS: &[(&str, &str)] = &[
    (
        "ALTER TABLE jobs DISABLE ROW LEVEL SECURITY",
        "table jobs is: table of platen_owner, row-level security off, fillfactor=80; it must be: table of platen_owner, row-level security enabled and forced, fillfactor=80",
    ),
    (
        "ALTER TABLE wallets NO FORCE ROW LEVEL SECURITY",
        "table wallets is: table of platen_owner, row-level security enabled, not forced",
    ),
    (
        "CREATE TABLE people (id uuid PRIMARY KEY, tenant_id uuid)",
        "table people is not in the list of guards of this schema: table of platen_admin, row-level security off",
    ),
    (
        "ALTER TABLE grants OWNER TO platen_api",
        "table grants is: table of platen_api",
    ),
    (
        "ALTER VIEW billing RESET (security_invoker)",
        "table billing is: view of platen_owner; it must be: view of platen_owner, security_invoker=true",
    ),
    (
        "ALTER POLICY own_tenant_api ON jobs USING (true)",
        "policy own_tenant_api on jobs is: all by platen_api, of rows with (true)",
    ),
    (
        "ALTER POLICY own_tenant_api ON jobs USING (true)",
        "It matches every row",
    ),
    (
        "CREATE POLICY easier ON artifacts FOR SELECT TO platen_api USING (true)",
        "policy easier on artifacts is not in the list of guards of this schema: select by platen_api, of rows with (true)",
    ),
    (
        "DROP POLICY own_tenant_worker ON artifacts",
        "policy own_tenant_worker on artifacts is missing",
    ),
    (
        "ALTER POLICY read_all ON transfers TO PUBLIC",
        "policy read_all on transfers is: select by everybody",
    ),
    (
        "ALTER TABLE transfers DISABLE TRIGGER transfers_are_never_rewritten",
        "trigger transfers_are_never_rewritten on transfers is: disabled: ",
    ),
    (
        "ALTER TABLE jobs ENABLE REPLICA TRIGGER job_guard",
        "trigger job_guard on jobs is: disabled, but for replicas",
    ),
    (
        "DROP TRIGGER operator_actions_are_never_truncated ON operator_actions",
        "trigger operator_actions_are_never_truncated on operator_actions is missing",
    ),
    (
        "ALTER TABLE calls DISABLE TRIGGER ALL",
        "trigger calls_job_id_fkey on calls, which holds this reference is disabled",
    ),
    (
        "CREATE RULE silently AS ON DELETE TO transfers DO INSTEAD NOTHING",
        "rule silently on transfers is not in the list of guards of this schema",
    ),
    (
        "ALTER TABLE jobs DROP CONSTRAINT jobs_keep_rules",
        "constraint jobs_keep_rules on jobs is missing",
    ),
    (
        "DROP INDEX one_grant_per_source_outside",
        "unique index one_grant_per_source_outside on grants is missing",
    ),
    (
        "ALTER ROLE platen_api SUPERUSER",
        "role platen_api is: cannot log in, superuser; it must be: cannot log in",
    ),
    (
        "ALTER ROLE platen_worker BYPASSRLS",
        "role platen_worker is: cannot log in, bypasses row-level security",
    ),
    (
        "ALTER ROLE platen_reader LOGIN",
        "role platen_reader is: can log in",
    ),
    (
        "GRANT platen_owner TO platen_api",
        "platen_api: it may act as platen_owner; this is not allowed",
    ),
    (
        "GRANT pg_read_all_data TO platen_api",
        "platen_api: it may act as pg_read_all_data",
    ),
    (
        "ALTER ROLE platen BYPASSRLS CREATEROLE",
        "login platen acts for Platen and has too many rights: bypasses row-level security, creates roles",
    ),
    (
        "ALTER ROLE platen SUPERUSER",
        "login platen acts for Platen and has too many rights: superuser",
    ),
    (
        "GRANT platen_owner TO platen",
        "login platen acts for Platen and has too many rights: may act as platen_owner",
    ),
    (
        "ALTER TABLE holds OWNER TO platen",
        "login platen acts for Platen and has too many rights: owns holds",
    ),
    (
        "ALTER ROLE platen SET session_replication_role = replica",
        "platen: it starts with session_replication_role=replica",
    ),
    (
        "GRANT TRUNCATE ON operator_actions TO platen_api",
        "platen_api may TRUNCATE on operator_actions, which is not allowed",
    ),
    (
        "GRANT UPDATE, DELETE ON transfers TO platen_worker",
        "platen_worker may DELETE on transfers, which is not allowed",
    ),
    (
        "GRANT UPDATE (amount) ON transfers TO platen_worker",
        "platen_worker may UPDATE (amount) on transfers, which is not allowed",
    ),
    (
        "GRANT SELECT ON jobs TO PUBLIC",
        "everybody may SELECT on jobs, which is not allowed",
    ),
    (
        "GRANT SELECT ON jobs TO platen",
        "platen may SELECT on jobs, which is not allowed",
    ),
    (
        "GRANT CREATE ON SCHEMA public TO PUBLIC",
        "everybody may create objects in schema public, which is not allowed",
    ),
    (
        "REVOKE SELECT ON wallets FROM platen_reader",
        "a grant is missing: platen_reader may SELECT on wallets",
    ),
    (
        "ALTER FUNCTION append_only() RESET search_path",
        "Its search_path is not pinned",
    ),
    (
        "ALTER FUNCTION job_guard() SECURITY DEFINER",
        "with its owner's rights",
    ),
    (
        "CREATE OR REPLACE FUNCTION append_only() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$ BEGIN RETURN NEW; END $$",
        "function append_only() is: plpgsql of platen_owner, search_path=public, pg_temp, body ",
    ),
    (
        "CREATE OR REPLACE FUNCTION current_tenant() RETURNS uuid LANGUAGE sql STABLE AS $$ SELECT NULL::uuid $$",
        "function current_tenant() is: sql of platen_owner, body ",
    ),
    (
        "CREATE FUNCTION door() RETURNS text LANGUAGE sql SECURITY DEFINER RETURN 'open'",
        "function door() is not in the list of guards of this schema: sql of platen_admin, with its owner's rights",
    ),
];

#[tokio::test]
async fn every_planted_weakness_is_named() {
    let (servers, name, mut owner) = database().await;
    assert_eq!(found(&mut owner).await, [], "a clean database has none");
    for (plant, says) in PLANTS {
        let mut transaction = owner.begin().await.unwrap();
        transaction.execute(AssertSqlSafe(*plant)).await.unwrap();
        let found = found(&mut transaction).await;
        assert!(
            found.iter().any(|finding| finding.text.contains(says)),
            "{plant}: found {found:#?}"
        );
        transaction.rollback().await.unwrap();
    }
    owner.close().await.unwrap();
    servers.drop_database(&name).await;
}

/// A program does not judge what it cannot know.
#[tokio::test]
async fn a_newer_schema_is_not_judged() {
    let (servers, name, mut owner) = database().await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (99999, 'newer', true, '', 0)";
    owner.execute(newer).await.unwrap();
    let compared = guards::check(&mut owner).await.unwrap();
    assert!(
        matches!(
            compared,
            Comparison::Newer {
                database: 99999,
                ..
            }
        ),
        "{compared:?}"
    );
    owner.close().await.unwrap();
    servers.drop_database(&name).await;
}

#[tokio::test]
async fn a_revoked_key_stays_revoked() {
    let (servers, name, mut owner) = database().await;
    owner
        .execute(
            "INSERT INTO tenants (id, name) VALUES (gen_random_uuid(), 'a');
             INSERT INTO api_keys (id, tenant_id, name, sha256) SELECT 'aaaaaaaaaaaa', id, 'a', sha256('x') FROM tenants;
             UPDATE api_keys SET name = 'b';
             UPDATE api_keys SET revoked_at = now();
             UPDATE api_keys SET name = 'c'",
        )
        .await
        .unwrap();
    for restore in [
        "UPDATE api_keys SET revoked_at = NULL",
        "UPDATE api_keys SET revoked_at = now() + interval '1 day'",
    ] {
        let refused = owner.execute(restore).await.unwrap_err().to_string();
        assert!(refused.contains("was revoked at"), "{restore}: {refused}");
    }
    owner.close().await.unwrap();
    servers.drop_database(&name).await;
}
