//! Procedures about people: authentication, and the actions of operators.

pub mod authentication;
pub mod key_cache;
pub mod operator;
