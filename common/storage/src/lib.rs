//! Postgres: pools and roles, migrations, and all SQL, with one file for each group of tables. Most
//! functions take a connection. Their callers begin and commit the transaction. Functions that take
//! a pool run each statement in a transaction of its own.

pub mod admissions;
pub mod allowances;
pub mod anchors;
pub mod api_keys;
pub mod artifacts;
pub mod billing;
pub mod calls;
pub mod database;
mod file_columns;
pub mod idempotency;
pub mod jobs;
pub mod ledger;
pub mod operators;
pub mod orphans;
pub mod ownership;
pub mod retention;
pub mod revocations;
pub mod settlements;
pub mod stored_bytes;
pub mod tenants;
pub mod uploads;
pub mod verify;
