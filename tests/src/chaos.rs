//! `make chaos`: the product as real processes, under load, while everything it depends on fails at random.
//!
//! A [`plan`] made from a seed says what fails and when. A [`stage`] has everything that can fail: two apis and three
//! workers, their Postgres and Redis, a provider, and a proxy before each of them. [`strikes`] carries out the plan.
//! Meanwhile [`clients`] submit jobs and repeat each request until it is answered, [`recovery`] watches how soon the jobs
//! of a killed worker are claimed again, and the [`diary`] records every fault. Then all faults end. When no job is open,
//! the [`books`] are checked: rows, ledger, bucket, the journal of the provider and the memory of the clients must agree.

pub mod books;
pub mod clients;
pub mod diary;
pub mod plan;
pub mod recovery;
pub mod stage;
pub mod strikes;
