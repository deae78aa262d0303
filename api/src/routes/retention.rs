//! Retention: how long a tenant's files and prompts are kept, and receipts for what was deleted.

pub mod get;
pub mod put;
pub mod receipts;
