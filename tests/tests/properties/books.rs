//! What stands in the tables, in numbers instead of ids: the same image is taken of the database and of the model.

use domain::job::State;
use domain::outcome::Class;
use serde::Deserialize;

/// Everything that two tenants own. Places in these lists are how lots, jobs and calls are named.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Books {
    pub wallets: Vec<Wallet>,
    pub lots: Vec<Lot>,
    pub jobs: Vec<Job>,
    pub calls: Vec<Call>,
    /// The images that were delivered, by job and output.
    pub pictures: Vec<Picture>,
    /// Each tenant's ledger.
    pub ledgers: Vec<Vec<Line>>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Wallet {
    pub available: i64,
    pub held: i64,
    pub active: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Lot {
    pub tenant: usize,
    pub priority: i16,
    pub remaining: i64,
    pub held: i64,
    pub consumed: i64,
    /// Minutes after the game began; below zero it has expired.
    pub expires: Option<i64>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Job {
    pub tenant: usize,
    pub state: State,
    pub outcome: Option<Class>,
    pub fence: i32,
    pub crashes: i32,
    pub calls: i32,
    pub max_calls: i32,
    /// Its time to run has come.
    pub due: bool,
    /// Its deadline has passed.
    pub late: bool,
    /// Whether its lease stands, where it has one.
    pub leased: Option<bool>,
    pub price: i64,
    pub outputs: i32,
    pub captured: i64,
    pub released: i64,
    pub delivered: i32,
    /// When it was queued again: a provider worked on it; an image of it was stored.
    pub has_operation: bool,
    pub has_original: bool,
    /// What it took from which lot, in burn-down order.
    pub shares: Vec<(usize, i64)>,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Call {
    pub job: usize,
    pub fence: i32,
    pub output: i32,
    /// `None` while it is open.
    pub outcome: Option<Class>,
    pub counted: bool,
    pub handle: bool,
    pub original: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub(crate) struct Picture {
    pub job: usize,
    pub output: i32,
    pub fence: i32,
    /// The call that bought it.
    pub call: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub(crate) struct Line {
    pub kind: String,
    pub debit: String,
    pub credit: String,
    pub amount: i64,
    /// Place of the lot that was given, or of the job.
    pub of: usize,
}
