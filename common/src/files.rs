//! Procedures about files: uploads, whose the bucket is, and objects that no row names.

pub mod orphans;
pub mod ownership;
pub mod uploading;
