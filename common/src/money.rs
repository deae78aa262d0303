//! Procedures about money: what is billed, and the anchors of the ledger.

pub mod anchor;
pub mod billing;
