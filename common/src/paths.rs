//! The paths of before `common` was several crates. To be removed.

pub use domain::{catalog, clock, credits, file_name, generation, id, outcome, visible};

pub use crate::files::{orphans, uploading};
pub use crate::people::authentication;
pub use ::bucket;
pub use ::storage::database;

pub mod allowance {
    pub use ::storage::allowances as store;
    pub use domain::allowance::*;
}
pub mod anchor {
    pub use crate::money::anchor::*;
    pub use ::storage::anchors as store;
    pub use ::storage::anchors::Head;
}
pub mod artifact {
    pub use ::storage::artifacts as store;
    pub use domain::artifact::*;
}
pub mod billing {
    pub use crate::money::billing::*;
    pub use ::storage::billing as store;
    pub use ::storage::billing::{Calls, Jobs, OpenJobs};
}
pub mod call {
    pub use ::storage::calls as store;
    pub use domain::call::*;
}
pub mod idempotency {
    pub use ::storage::idempotency as store;
    pub use domain::idempotency::*;
}
pub mod job {
    pub use ::storage::jobs as store;
    pub use domain::job::*;
}
pub mod ledger {
    pub use ::storage::ledger as store;
    pub use domain::ledger::*;
}
pub mod operator {
    pub use crate::people::operator::*;
    pub use ::storage::operators as store;
    pub use domain::operator::*;
}
pub mod ownership {
    pub use crate::files::ownership::*;
    pub use ::storage::ownership as store;
    pub use domain::ownership::*;
}
pub mod queue {
    pub use ::queue::*;
    pub mod lanes {
        pub use ::queue::lanes::*;
        pub use domain::lanes::*;
    }
}
pub mod retention {
    pub use ::storage::retention as store;
    pub use domain::retention::*;
}
pub mod storage {
    pub use ::storage::stored_bytes as store;
    pub use domain::storage_limit::*;
}
pub mod telemetry {
    pub use crate::money::billing::metrics as billing;
    pub use ::telemetry::*;
    pub mod process {
        pub use ::storage::database::watch;
        pub use ::telemetry::process::*;
    }
    pub mod traces {
        pub use ::telemetry::traces::*;
        pub use domain::traceparent::*;
    }
}
pub mod tenant {
    pub use ::storage::tenants as store;
    pub use domain::tenant::*;
}
pub mod upload {
    pub use ::storage::uploads as store;
    pub use domain::upload::*;
}
