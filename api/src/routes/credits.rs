//! A tenant's credits: the balance and the statement.

pub mod get;
pub mod transfers;
