//! Procedures about files: uploads, which database a bucket belongs to, and objects that no row
//! names.

pub mod orphans;
pub mod ownership;
pub mod uploading;
