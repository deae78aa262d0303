//! Procedures about people: authentication by API keys, identities of providers, and the actions of operators.

pub mod api_keys;
pub mod authentication;
pub mod identity;
pub mod key_cache;
pub mod operator;
