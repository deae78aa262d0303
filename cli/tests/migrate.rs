//! `platen migrate` where roles may not be created.
use cli::private::{Postgres, Tuning};
use common::database::{self, MigrateError};

#[tokio::test]
async fn a_login_that_may_not_create_roles_is_given_the_sql_for_whoever_may() {
    let folder = tempfile::tempdir().unwrap();
    let postgres = Postgres::start_with(folder.path(), Tuning::Test)
        .await
        .unwrap();
    let refused = database::migrate(&postgres.database_url(), None)
        .await
        .unwrap_err();
    assert!(
        matches!(refused, MigrateError::RolesMissing(_)),
        "{refused}"
    );
    let says = refused.to_string();
    assert!(
        says.contains("CREATE ROLE") && says.contains("platen migrate"),
        "{says}"
    );

    // Whoever may runs it; migrating twice is migrating once.
    database::migrate(&postgres.owner_url(), Some("platen"))
        .await
        .unwrap();
    database::migrate(&postgres.owner_url(), Some("platen"))
        .await
        .unwrap();
    postgres.stop().await;
}
