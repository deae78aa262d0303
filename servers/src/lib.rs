//! The Postgres and Redis that `platen up` and the tests start for themselves.
//!
//! They are the real servers, started as child processes. They listen on 127.0.0.1 only, on free ports, and are
//! protected by random passwords. They keep their data in the folder that they are given. They end with this process,
//! whatever ends this process (`child.rs`), and never share a folder with another Platen (`home.rs`).
//!
//! [`Servers`] starts both. [`Postgres`] and [`Redis`] start only one of them. [`Database`] opens the Postgres of a
//! data folder, whether a Platen runs there or not.

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
    postgres::{Durability, Postgres, missing as missing_postgres},
    redis::{Redis, missing as missing_redis},
    urls::{LoginUrls, Urls, running_urls},
};
