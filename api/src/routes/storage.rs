//! What a tenant keeps with us.

pub mod get;
