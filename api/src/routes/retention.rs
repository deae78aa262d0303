//! How long a tenant's files are kept, and what was deleted, as clients see it.

pub mod get;
pub mod put;
pub mod receipts;
