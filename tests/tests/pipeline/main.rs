//! The pipeline, whole: HTTP, Postgres, Redis, worker, the fake vendors, the bucket. Every test closes the books.
#![expect(clippy::unwrap_used, reason = "tests fail loudly")]

mod adopted_bucket;
mod anchors;
mod billing;
mod bombs;
mod bucket_away;
mod catalogue;
#[cfg(target_os = "linux")]
mod clocks;
mod connections;
mod crashes;
mod credits;
mod failover;
mod fleet;
mod full_disks;
mod guards;
mod handles;
mod http;
mod isolation;
mod keys;
mod lanes;
mod life_of_a_job;
mod operators;
mod outcomes;
mod permissions;
mod postgres_work;
mod rates;
mod ready_queue;
mod redis_commands;
mod refusals;
mod repeats;
mod retention;
mod rules;
mod runbook;
mod s3;
mod schema;
mod server_shapes;
mod settlements;
mod shares;
mod sharing;
mod spool;
mod submits;
mod traces;
mod unpaid;
mod uploads;
