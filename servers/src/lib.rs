//! The Postgres and Redis that `platen up` and the tests start for themselves.
//!
//! They are the real servers, started as child processes. They listen on 127.0.0.1 only, on free ports, behind random
//! passwords, and keep their data in the folder they are given. They end with this process, whatever ends it
//! (`child.rs`), and never share a folder with another Platen (`home.rs`).
//!
//! [`Servers`] starts both. [`Postgres`] and [`Redis`] are for those who need one of them. [`Database`] opens the
//! Postgres of a data folder, whether a Platen runs there or not.

mod child;
mod database;
mod environment;
mod home;
mod pair;
mod port;
mod postgres;
mod program;
mod redis;
pub mod secrets;
#[cfg(test)]
mod tests;
mod urls;
mod user;

pub use self::{
    database::Database,
    environment::restart_without_postgres_variables,
    pair::Servers,
    port::free_port,
    postgres::{Postgres, Tuning, missing as missing_postgres},
    redis::{Redis, missing as missing_redis},
    urls::{LoginUrls, Urls, urls_of_running},
};
