//! `make chaos`: the product as real processes, under load, while everything it stands on fails at random.
//!
//! What fails, and when, is a [`plan`] made from a seed. A [`stage`] has everything that can fail: two apis and three
//! workers, their Postgres and Redis, a provider, and a proxy before each of them. [`strikes`] carries a plan out,
//! [`clients`] submit jobs meanwhile and repeat each request until it is answered, [`recovery`] watches how soon the
//! jobs of a killed worker are taken up, and what was done to whom is written in the [`diary`]. Then all is healed; when
//! it is quiet the [`books`] are opened: rows, ledger, bucket, the provider's journal and the clients' memory must tell
//! one story.

pub mod books;
pub mod clients;
pub mod diary;
pub mod plan;
pub mod recovery;
pub mod stage;
pub mod strikes;
