//! Procedures about people: who calls, and what operators do.

pub mod authentication;
pub mod operator;
