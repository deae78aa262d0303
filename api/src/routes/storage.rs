//! A tenant's storage: how much it uses, and its limit.

pub mod get;
